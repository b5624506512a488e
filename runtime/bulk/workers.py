"""Worker processes with a model each, which embed one unit after the other.

They are started as programs of their own, so that a job may run in any thread, in a notebook and in a script without a
main guard. They end with their parent, however it ends; a worker that dies ends the job with one line.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.errors import JinaBertError

from .arrow import ArrowEmbedder, Embedded

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from .rows import Unit

TASK_ROWS, TASK_CHARACTERS = 1024, 128 << 10  # a second or two of work for a CPU core
LOOKAHEAD_TASKS = 3  # for each worker, so that none waits for the reader or for a slow neighbour
REMEMBERED_BYTES = 128 << 20  # of vectors, for --dedupe
START = "from runtime.bulk.workers import serve; serve()"


class JobError(OSError):
    """A worker or the machine failed; what is done is kept."""


class Worker:
    """A process, and the pipes to it."""

    def __init__(self, heart: ArrowEmbedder) -> None:
        """Start it.

        :param heart: what it is to do; its model is loaded there.
        """
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-c",
                START,
            ],  # -P: a folder called runtime/ where the job runs is not ours
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            process_group=0 if os.name == "posix" else None,  # Ctrl-C is for the parent
        )
        with contextlib.suppress(OSError):
            self._send(heart)

    def embed(self, texts: list[str], title: str) -> Embedded:
        """Have it embed texts.

        :raises JobError: it failed or died.
        """
        try:
            self._send(texts)
            answer = pickle.load(self._process.stdout)  # type: ignore[arg-type]
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            raise JobError(f"worker process {self._process.pid} {self._end()} during {title}") from None
        if isinstance(answer, str):
            raise JobError(f"{title}: {answer}")
        found: Embedded = answer
        return found

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def _send(self, message: object) -> None:
        pipe = self._process.stdin
        pickle.dump(message, pipe, protocol=5)  # type: ignore[arg-type]
        pipe.flush()  # type: ignore[union-attr]

    def _end(self) -> str:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "answered nonsense"
        if code >= 0:
            return f"ended with exit status {code}"
        how = f"was killed by {signal.Signals(-code).name}"
        return f"{how} (out of memory? fewer --processes, or a lower --max-length)" if code == -9 else how


def embed_units(
    heart: ArrowEmbedder, units: Iterator[Unit], processes: int, dedupe: bool = False
) -> Generator[tuple[Unit, Embedded]]:
    """Embed units on worker processes, and give them back in their order.

    :param units: read as they are needed, LOOKAHEAD_TASKS for each worker.
    :param dedupe: embed a text once as long as its vector is remembered.
    :raises JobError: a worker failed or died.
    """
    pending: deque[tuple[Unit, list[str], list[tuple[list[int], Future[Embedded]]]]] = deque()
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    workers: list[Worker] = []
    seen = Seen(heart.dimension) if dedupe else None

    def run(texts: list[str], title: str) -> Embedded:
        worker = idle.get()
        try:
            return worker.embed(texts, title)
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(processes)
    try:
        more, waiting = True, 0
        while more or pending:
            while more and waiting - (len(pending[0][2]) if pending else 0) < LOOKAHEAD_TASKS * processes:
                unit = next(units, None)
                if unit is None:
                    more = False
                    break
                texts = seen.new(unit.texts) if seen is not None else unit.texts
                title = f"rows {unit.end.row - unit.rows:,} to {unit.end.row - 1:,} of the input"
                tasks = []
                for rows in tasks_of(texts, heart.threads or 1):
                    if len(workers) < processes:
                        workers.append(Worker(heart))
                        idle.put(workers[-1])
                    tasks.append((rows, pool.submit(run, [texts[row] for row in rows], title)))
                waiting += len(tasks)
                pending.append((unit, texts, tasks))
            if pending:
                unit, texts, tasks = pending[0]
                found = _together(heart, len(texts), [(rows, future.result()) for rows, future in tasks])
                pending.popleft()
                waiting -= len(tasks)
                yield unit, seen.all(unit.texts, texts, found) if seen is not None else found
    finally:
        for worker in workers:
            worker.close()
        pool.shutdown(cancel_futures=True)


def tasks_of(texts: list[str], threads: int) -> list[list[int]]:
    """Which texts go to a worker together: of about one length, for batches with little padding; longest first."""
    times = 1 if threads == 1 else 4 * threads  # threads wait for each other at the end of a task
    tasks: list[list[int]] = []
    characters = 0
    for row in sorted(range(len(texts)), key=lambda row: -len(texts[row])):
        if not tasks or len(tasks[-1]) >= TASK_ROWS * times or characters >= TASK_CHARACTERS * times:
            tasks.append([])
            characters = 0
        tasks[-1].append(row)
        characters += len(texts[row])
    return tasks


def _together(heart: ArrowEmbedder, count: int, parts: list[tuple[list[int], Embedded]]) -> Embedded:
    """What was made of tasks, in the order of the texts."""
    vectors = np.empty((count, heart.dimension), heart.dtype)
    errors: list[str | None] = [None] * count
    for rows, found in parts:
        vectors[rows] = found.vectors
        for row, error in zip(rows, found.errors, strict=True):
            errors[row] = error
    sums = (sum(getattr(found, name) for _, found in parts) for name in Embedded._fields[2:])
    return Embedded(vectors, errors, *sums)


class Seen:
    """Vectors of the texts that came last, for --dedupe.

    Texts are asked for when they are read, and their vectors when they are written, some units later. Both sides keep
    a list of what was used last and do the same to it in the same order: what one counts on is what the other has.
    """

    def __init__(self, dimension: int) -> None:
        """Remember as much as REMEMBERED_BYTES."""
        self._most = REMEMBERED_BYTES // (4 * dimension)
        self._read: OrderedDict[bytes, Any] = OrderedDict()
        self._written: OrderedDict[bytes, Any] = OrderedDict()

    def new(self, texts: list[str]) -> list[str]:
        """Those that must be embedded."""
        return [text for text in texts if self._use(self._read, self._key(text)) is None]

    def all(self, texts: list[str], new: list[str], found: Embedded) -> Embedded:
        """What was made of all texts of a unit.

        :param new: what `new` gave for them.
        :param found: what was made of these.
        """
        made = zip(found.vectors, found.errors, strict=True)
        pairs = []
        for text in texts:
            key = self._key(text)
            pair = self._use(self._written, key)
            if pair is None:
                vector, error = next(made)
                self._written[key] = pair = (vector.copy(), error)
            pairs.append(pair)
        vectors = np.stack([vector for vector, _ in pairs]) if pairs else found.vectors
        return found._replace(vectors=vectors, errors=[error for _, error in pairs])

    def _use(self, known: OrderedDict[bytes, Any], key: bytes) -> Any:
        found = known.pop(key, None)
        known[key] = found or (True if known is self._read else None)
        if len(known) > self._most:
            known.popitem(last=False)
        return found

    @staticmethod
    def _key(text: str) -> bytes:
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def serve() -> None:
    """What a worker process does: a heart comes first, then lists of texts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    asked: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                asked.put(pickle.load(source))
        finally:  # the parent has gone, and whatever is being computed is for nobody
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    heart: ArrowEmbedder = asked.get()
    while True:
        texts = asked.get()
        answer: Embedded | str
        try:
            answer = heart.embed(texts)
        except Exception as error:
            answer = explain(error)
        pickle.dump(answer, target, protocol=5)
        target.flush()


def explain(error: BaseException) -> str:
    """One line on what went wrong."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, JinaBertError):
        return lines[0]
    if isinstance(error, MemoryError):
        return "not enough memory: fewer --processes, or a lower --max-length"
    return f"{type(error).__name__}: {lines[0]}"
