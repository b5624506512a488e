"""Worker processes with a model each, which embed tasks: texts of about one length.

They are started as programs of their own, so that a job may run in any thread, in a notebook and in a script without a
main guard. They end with their parent, however it ends; a worker that dies ends the job with one line.

The threads of a worker share its weights, and each computes a task of its own with one thread: none waits for another.
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

from runtime.batching import PARALLEL_BATCH_TOKENS
from runtime.errors import JinaBertError

from .embedding import Embedded, TextEmbedder, load

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from .rows import Unit

TASK_ROWS, TASK_CHARACTERS = 1024, 128 << 10  # a second or two of work for a CPU core
LOOKAHEAD_TASKS = 3  # for each thread, so that none waits for the reader or for a slow neighbour
REMEMBERED_BYTES = 128 << 20  # of vectors, for --dedupe
SWITCH_SECONDS = 0.0005  # a thread back from the model waits no longer for one that tokenizes
START = "from runtime.bulk.workers import serve; serve()"


class JobError(OSError):
    """A worker or the machine failed; what is done is kept."""


class Worker:
    """A process, and the pipes to it. It may be asked from several threads at once."""

    def __init__(self, embedder: TextEmbedder) -> None:
        """Start it.

        :param embedder: what it is to do, with as many threads; its model is loaded there.
        """
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        # -P: a folder called runtime/ where the job runs is not ours.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            process_group=0 if os.name == "posix" else None,  # Ctrl-C is for the parent
        )
        self._asked: dict[int, Future[Embedded | str | None]] = {}
        self._count, self._ended = 0, ""
        self._lock = threading.Lock()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        with contextlib.suppress(OSError):
            self._send(embedder.__dict__)

    def embed(self, texts: list[str], title: str) -> Embedded:
        """Have it embed texts.

        :raises JobError: it failed or died.
        """
        answer: Future[Embedded | str | None] = Future()
        with self._lock:
            self._count += 1
            if self._ended:
                answer.set_result(None)
            else:
                self._asked[self._count] = answer
                with contextlib.suppress(OSError):  # it died, as _listen tells
                    self._send((self._count, texts))
        found = answer.result()
        if found is None:
            raise JobError(f"worker process {self._process.pid} {self._ended} during {title}")
        if isinstance(found, str):
            raise JobError(f"{title}: {found}")
        return found

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def _send(self, message: object) -> None:
        pipe = self._process.stdin
        pickle.dump(message, pipe, protocol=5)  # type: ignore[arg-type]
        pipe.flush()  # type: ignore[union-attr]

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError, ValueError, pickle.UnpicklingError):
            while True:
                number, answer = pickle.load(self._process.stdout)  # type: ignore[arg-type]
                self._asked.pop(number).set_result(answer)
        try:
            code = self._process.wait(5)
            how = (
                f"ended with exit status {code}"
                if code >= 0
                else f"was killed by {signal.Signals(-code).name}"
            )
        except subprocess.TimeoutExpired:
            code, how = 0, "answered nonsense"
        with self._lock:
            hint = " (out of memory? fewer --processes, or a lower --max-length)" if code == -9 else ""
            self._ended = how + hint
            for asked in self._asked.values():
                asked.set_result(None)


def embed_units(
    embedder: TextEmbedder, units: Iterator[Unit], processes: int, dedupe: bool = False
) -> Generator[tuple[Unit, Embedded]]:
    """Embed units on worker processes, and give them back in their order.

    :param embedder: what to do, with as many threads in each process.
    :param units: read as they are needed, LOOKAHEAD_TASKS for each thread.
    :param dedupe: embed a text once as long as its vector is remembered.
    :raises JobError: a worker failed or died.
    """
    threads = embedder.threads or 1
    places: queue.PriorityQueue[tuple[int, int]] = queue.PriorityQueue()  # tasks before one's own, worker
    workers: list[Worker] = []
    seen = Seen(embedder) if dedupe else None

    def run(texts: list[str], title: str) -> Embedded:
        place = places.get()
        try:
            return workers[place[1]].embed(texts, title)
        finally:
            places.put(place)

    def submit(unit: Unit) -> tuple[Unit, Any, list[str], list[tuple[list[int], Future[Embedded]]]]:
        slots, texts = seen.slots(unit.texts) if seen is not None else (None, unit.texts)
        title = f"rows {unit.end.row - unit.rows:,} to {unit.end.row - 1:,} of the input"
        tasks = []
        for rows in tasks_of(texts):
            if len(workers) < processes:
                workers.append(Worker(embedder))
                for before in range(threads + 1):  # so that the next task waits where it is done
                    places.put((before, len(workers) - 1))
            tasks.append((rows, pool.submit(run, [texts[row] for row in rows], title)))
        return unit, slots, texts, tasks

    pool = ThreadPoolExecutor(processes * (threads + 1))
    pending: deque[tuple[Unit, Any, list[str], list[tuple[list[int], Future[Embedded]]]]] = deque()
    try:
        more = True
        while more or pending:
            ahead = sum(len(tasks) for *_, tasks in pending) - (len(pending[0][3]) if pending else 0)
            if more and ahead < LOOKAHEAD_TASKS * processes * threads:
                unit = next(units, None)
                more = unit is not None
                if unit is not None:
                    pending.append(submit(unit))
                continue
            unit, slots, texts, tasks = pending[0]
            found = _together(embedder, len(texts), [(rows, future.result()) for rows, future in tasks])
            pending.popleft()
            yield unit, seen.all(slots, found) if seen is not None else found
    finally:
        for worker in workers:
            worker.close()
        pool.shutdown(cancel_futures=True)


def tasks_of(texts: list[str]) -> list[list[int]]:
    """Which texts go to a worker together: of about one length, for batches with little padding; longest first."""
    tasks: list[list[int]] = []
    characters = 0
    for row in sorted(range(len(texts)), key=lambda row: -len(texts[row])):
        if not tasks or len(tasks[-1]) >= TASK_ROWS or characters >= TASK_CHARACTERS:
            tasks.append([])
            characters = 0
        tasks[-1].append(row)
        characters += len(texts[row])
    return tasks


def _together(embedder: TextEmbedder, count: int, parts: list[tuple[list[int], Embedded]]) -> Embedded:
    """What was made of tasks, in the order of the texts."""
    vectors = np.empty((count, embedder.dimension), embedder.dtype)
    errors: list[str | None] = [None] * count
    tokens: list[Any] | None = None if embedder.token_vectors is None else [None] * count
    for rows, found in parts:
        vectors[rows] = found.vectors
        for number, row in enumerate(rows):
            errors[row] = found.errors[number]
            if tokens is not None and found.token_vectors is not None:
                tokens[row] = found.token_vectors[number]
    total, truncated, cut = (
        (sum(numbers) for numbers in zip(*(found[2:5] for _, found in parts), strict=True))
        if parts
        else (0, 0, 0)
    )
    return Embedded(vectors, errors, total, truncated, cut, tokens)


class Seen:
    """A slot for each of the texts that came last, for --dedupe. The unit that has a text first fills it."""

    def __init__(self, embedder: TextEmbedder) -> None:
        """Remember as much as REMEMBERED_BYTES."""
        self._slots: OrderedDict[bytes, tuple[list[Any], int]] = OrderedDict()
        self._bytes = 0
        self._vector = 4 * embedder.dimension
        item = 0 if embedder.token_vectors is None else np.dtype(embedder.token_vectors).itemsize
        self._character = item * embedder.token_dimension // 3 if item else 0  # a token has three or more

    def slots(self, texts: list[str]) -> tuple[list[list[Any]], list[str]]:
        """The slot of each text, and the texts that must be embedded, whose slots hold their text until then."""
        slots, new = [], []
        for text in texts:
            key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if key in self._slots:
                self._slots.move_to_end(key)
            else:
                size = self._vector + self._character * len(text)
                self._slots[key], self._bytes = ([], size), self._bytes + size
                new.append(text)
            slots.append(self._slots[key][0])
            while self._bytes > REMEMBERED_BYTES and len(self._slots) > 1:
                self._bytes -= self._slots.popitem(last=False)[1][1]
        return slots, new

    def all(self, slots: list[list[Any]], found: Embedded) -> Embedded:
        """What was made of all texts of a unit.

        :param slots: of them.
        :param found: what was made of the new ones among them, in the order of their slots.
        """
        made = iter(range(len(found.errors)))
        for slot in slots:
            if not slot:
                row = next(made)
                own = None if found.token_vectors is None else found.token_vectors[row]
                slot += [found.vectors[row].copy(), found.errors[row], own]
        vectors = np.stack([slot[0] for slot in slots]) if slots else found.vectors
        tokens = None if found.token_vectors is None else [slot[2] for slot in slots]
        return found._replace(vectors=vectors, errors=[slot[1] for slot in slots], token_vectors=tokens)


def serve() -> None:
    """What a worker process does: options come first, then numbered lists of texts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_SECONDS)
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
    embedder, lock = TextEmbedder(), threading.Lock()
    long = threading.Semaphore(0)

    def work() -> None:
        while True:
            number, texts = asked.get()
            answer: Embedded | str
            try:
                most = load(embedder.model, embedder.threads).manifest.max_dense_tokens
                is_long = most is not None and any(len(text) > most for text in texts)  # as a rule
                with long if is_long else contextlib.nullcontext():
                    answer = embedder.embed(texts)
            except Exception as error:
                answer = explain(error)
            with lock:
                pickle.dump((number, answer), target, protocol=5)
                target.flush()

    try:
        embedder.__dict__.update(pickle.load(source))
        threads, embedder.threads = embedder.threads or 1, 1
        embedder.batch_tokens = PARALLEL_BATCH_TOKENS
        long.release(embedder.long_texts)
        for _ in range(threads):
            threading.Thread(target=work, daemon=True).start()
        while True:
            asked.put(pickle.load(source))
    finally:  # the parent has gone, and whatever is being computed is for nobody
        os._exit(0)


def explain(error: BaseException) -> str:
    """One line on what went wrong."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, JinaBertError):
        return lines[0]
    if isinstance(error, MemoryError):
        return "not enough memory: fewer --processes, or a lower --max-length"
    return f"{type(error).__name__}: {lines[0]}"
