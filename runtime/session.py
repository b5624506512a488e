"""The onnxruntime session: how it is opened, run, and survives a fork.

Every setting that trades time against memory stands here, at the top.
"""

from __future__ import annotations

import contextlib
import os
import sys

# onnxruntime 1.29 and later reports usage unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import weakref
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import JinaBertError, ModelError, OutOfMemoryError
from .manifest import EXPORT_AGAIN, MODEL, MODEL_DATA
from .resources import may_spin

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .manifest import Manifest

GRAPH_OPTIMIZATION = (
    "ORT_DISABLE_ALL"  # onnxruntime.GraphOptimizationLevel; the export has optimised the graph
)
MEMORY_PATTERN = False  # plans per shape, and ours all differ
# The arena keeps freed activations for the next run: without it a batch of 8 x 64 tokens takes 1.5 times as long. It is
# told to grow by what is asked for, not to the next power of two: 60 to 80 MB less at 32,768 tokens.
ARENA_EXTENDS_AS_REQUESTED = 1
# After a run over texts longer than this the arena gives its memory back: it costs 2 % of such a run, and 30 % of one
# over 512 tokens, which has to take it anew from the system.
SHRINK_LENGTH = 1024
SHARED_ARENA = "session.use_env_allocators"
CONFIG_ENTRIES = {
    SHARED_ARENA: "1",
    # How long a thread without work spins. Runs are as fast as with the default, and a session that has just been
    # opened does not keep a CPU core busy that the process needs: 30 ms less from start to first vector on 2 cores.
    "session.intra_op.spin_duration_us": "500",
}
NO_PACKING = "session.disable_prepacking"
SPINNING = "session.intra_op.allow_spinning"  # resources.may_spin() decides
LOG_SEVERITY = 4  # fatal: whatever is an error reaches us as an exception too, and standard error stays ours

_arena_registered = False
_forked = False  # the arena's lock may have been held by a thread that the fork left behind: use another
_live: weakref.WeakSet[Session] = weakref.WeakSet()


class Session:
    """A loaded graph; it runs in several threads at once, and in a child process after a fork."""

    def __init__(self, folder: str, manifest: Manifest, threads: int, *, pack: bool = True) -> None:
        """Load the graph of a model folder.

        :param folder: model folder whose files were checked.
        :param manifest: its manifest.
        :param threads: threads that one run computes with.
        :param pack: have onnxruntime write all weights anew, in the order in which products read them, before the
            first run; else before the second one, if the model's products are exact, so that it changes no bit.
        :raises ModelError: onnxruntime does not take the graph, or its inputs and outputs are not ours.
        """
        self.threads = threads
        self.dimension = manifest.dimension
        self._folder = os.path.abspath(folder)  # opened again later: os.chdir must not matter
        self._manifest = manifest
        self._facts = self._file_facts()
        # Packing takes longer than all else: a process that makes one vector is faster without, others by far with it.
        self._unpacked = not pack and manifest.exact_products
        self._ran = False
        self._lock = Lock()
        self._handle: Any = self._open(threads, packed=not self._unpacked)
        self._single: Any = None  # a second one that computes with one thread, opened when first needed
        self._closed = False
        _live.add(self)

    def _open(self, threads: int, *, packed: bool = True) -> Any:
        import onnxruntime

        _register_arena()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, GRAPH_OPTIMIZATION)
        options.enable_mem_pattern = MEMORY_PATTERN
        options.log_severity_level = LOG_SEVERITY
        settings = {SPINNING: "1" if may_spin() else "0", **CONFIG_ENTRIES}
        if not packed:
            settings[NO_PACKING] = "1"
        if _forked:
            settings[SHARED_ARENA] = "0"
        for key, value in settings.items():
            options.add_session_config_entry(key, value)
        path = os.path.join(self._folder, MODEL)  # by path: onnxruntime then maps model.onnx.data beside it
        if self._file_facts() != self._facts:
            raise ModelError(f"{path}: changed since it was loaded: make a new Embedder")
        try:
            handle = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            if _is_memory(error):
                raise OutOfMemoryError(f"{path}: not enough memory to load the model") from None
            raise ModelError(
                f"{path}: onnxruntime {_version()} cannot load it ({_line(error)}): {EXPORT_AGAIN}"
            ) from None
        inputs = {(node.name, node.type) for node in handle.get_inputs()}
        outputs = [(node.name, node.type) for node in handle.get_outputs()]
        expected = {("input_ids", "tensor(int64)"), ("attention_mask", "tensor(int64)")}
        if inputs != expected or outputs[:1] != [("last_hidden_state", "tensor(float)")]:
            raise ModelError(
                f"{path}: its inputs and outputs are {sorted(inputs)} and {outputs}, not int64 input_ids and "
                f"attention_mask and float last_hidden_state: {EXPORT_AGAIN}"
            )
        return handle

    def _file_facts(self) -> list[tuple[int, ...] | None]:
        # Two sessions of one model must never hold different weights.
        facts: list[tuple[int, ...] | None] = []
        for name in (MODEL, MODEL_DATA):
            try:
                found = os.stat(os.path.join(self._folder, name))
                facts.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
            except OSError:
                facts.append(None)
        return facts

    def pack(self) -> None:
        """Have the weights packed, if they are not: what a second run does.

        :raises OutOfMemoryError: onnxruntime could not allocate.
        """
        with self._lock:
            # Where the folder is gone or another model by now, what is open serves as well, only slower.
            if self._unpacked and not self._closed and self._file_facts() == self._facts:
                self._handle = None  # first, or both would hold the weights
                self._handle = self._open(self.threads)
                self._unpacked = False

    def open_single_thread_session(self) -> None:
        """Open what `run(..., batch_parallel=True)` runs on; some 20 ms, and the memory of the int8 weights once more.

        :raises OutOfMemoryError: onnxruntime could not allocate.
        """
        if self._single is None and not self._closed:
            self._single = self._open(1)

    def close_single_thread_session(self) -> None:
        """Give that memory back; runs that another thread has under way or still starts go on, on all threads."""
        self._single = None

    def run(
        self,
        ids: NDArray[np.int64],
        mask: NDArray[np.int64],
        *,
        shrink: bool = False,
        batch_parallel: bool = False,
    ) -> NDArray[np.float32]:
        """Token vectors of one batch.

        :param ids: [B, L] token ids, padded at the end.
        :param mask: [B, L], 1 for a token and 0 for padding.
        :param shrink: give memory that is not needed any more back to the system afterwards; done after a long
            text anyway.
        :param batch_parallel: compute with this thread alone, since others do so too;
            open_single_thread_session came first.
        :return: [B, L, D] float32; rows of padding hold anything.
        :raises JinaBertError: after close().
        :raises OutOfMemoryError: onnxruntime could not allocate.
        :raises ModelError: onnxruntime failed, or the output's shape is not the manifest's.
        """
        most = self._manifest.max_dense_tokens
        if self._unpacked and (
            self._ran or (most is not None and ids.shape[1] > most)
        ):  # in blocks products are many
            self.pack()
        self._ran = True
        handle = (self._single if batch_parallel else None) or self._handle
        if handle is None:
            if self._closed:
                raise JinaBertError("this Embedder is closed: make a new one")
            handle = self._handle = self._open(self.threads)  # first use in a forked child
        run_options = None
        shrink = shrink or ids.shape[1] > SHRINK_LENGTH
        if shrink:
            from onnxruntime import RunOptions

            run_options = RunOptions()
            run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            hidden: NDArray[np.float32] = handle.run(
                ["last_hidden_state"], {"input_ids": ids, "attention_mask": mask}, run_options
            )[0]
        except Exception as error:
            shape = f"a batch of {ids.shape[0]} x {ids.shape[1]} tokens"
            if _is_memory(error):
                raise OutOfMemoryError(
                    f"not enough memory for {shape}: lower max_length or batch_tokens"
                ) from None
            path = os.path.join(self._folder, MODEL)
            raise ModelError(f"{path}: failed on {shape} ({_line(error)}): {EXPORT_AGAIN}") from None
        if shrink:
            _trim_heap()
        if hidden.shape != (*ids.shape, self._manifest.hidden_size):
            path = os.path.join(self._folder, MODEL)
            raise ModelError(
                f"{path}: gave {list(hidden.shape)} for {list(ids.shape)} tokens where the manifest says hidden_size "
                f"{self._manifest.hidden_size}: {EXPORT_AGAIN}"
            )
        return hidden

    def close(self) -> None:
        """Free the graph; runs under way in other threads finish first."""
        self._closed = True
        self._handle = self._single = None

    def _leave_to_parent(self) -> None:
        # The session's threads exist in the parent only, and its destructor would wait for them for ever:
        # keep it alive, beyond the end of the interpreter, and open another when the child needs one.
        import ctypes

        for handle in (self._handle, self._single):
            if handle is not None:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
        self._handle = self._single = None
        self._unpacked, self._lock = False, Lock()


def _register_arena() -> None:
    """Give onnxruntime our arena to use, once a process."""
    global _arena_registered
    if _arena_registered:
        return
    _arena_registered = True
    import onnxruntime

    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    default = -1
    arena = onnxruntime.OrtArenaCfg(0, ARENA_EXTENDS_AS_REQUESTED, default, default)
    with contextlib.suppress(Exception):  # another user of onnxruntime in this process has registered theirs
        onnxruntime.create_and_register_allocator(memory, arena)


def _trim_heap() -> None:
    """Have the C library return what the arena freed: glibc keeps blocks of up to 32 MB otherwise."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):  # not glibc; on Windows None is no library
        ctypes.CDLL(None).malloc_trim(0)


def _after_fork_in_child() -> None:
    global _forked
    _forked = _arena_registered
    for session in list(_live):
        session._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _is_memory(error: Exception) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, MemoryError) or "bad_alloc" in text or "allocate" in text or "out of memory" in text
    )


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= 200 else line[:197] + "..."


def _version() -> str:
    module = sys.modules.get("onnxruntime")
    return str(getattr(module, "__version__", ""))
