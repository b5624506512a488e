"""The local engine: worker processes, each with a model of its own, that are handed one shard after the other.

Workers are spawned, never forked. They end with their parent, however it ends; a worker that dies ends the job with one
line, and what is done stays done.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, NamedTuple

from runtime.errors import JinaBertError

from .job import JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from .job import Job, Shard
    from .shards import Done

SIGNALS = {signal.SIGINT, signal.SIGTERM}


class Settings(NamedTuple):
    """How an engine runs a job; nothing of it changes the output."""

    processes: int
    threads: int  # of each process
    address: str | None = None  # of a Ray cluster


class _Worker:
    """A process, the pipe to it, and the shard it has."""

    def __init__(self, job: Job, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: Any = context.Process(target=_work, args=(theirs, job, threads), daemon=True)
        self.shard: Shard | None = None
        # Ctrl-C reaches every process of a terminal: this one answers it, workers ignore it from their first moment.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def give(self, shard: Shard) -> None:
        self.shard = shard
        with contextlib.suppress(OSError):  # it has died: its pipe says so when it is read
            self.pipe.send(shard)

    def died(self) -> JobError:
        self.process.join(5)
        code = self.process.exitcode
        how = f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                how += " (out of memory? --processes with a smaller number, or --max-length)"
        doing = f" during {self.shard.title}" if self.shard is not None else ""
        return JobError(f"worker process {self.process.pid} {how}{doing}")


def run(
    job: Job, shards: Sequence[Shard], settings: Settings, progress: Callable[[int, int], None]
) -> Generator[Done]:
    """Do shards on this machine.

    :param shards: those to be done.
    :param progress: called with rows and tokens as they are done.
    :return: what is done, in the order in which it is.
    :raises JobError: a worker failed or died.
    """
    waiting = deque(shards)
    workers: list[_Worker] = []
    try:
        for _ in range(min(settings.processes, len(shards))):
            workers.append(_Worker(job, settings.threads))
            workers[-1].give(waiting.popleft())
        busy = list(workers)
        while busy:
            ready = wait([worker.pipe for worker in busy])
            for worker in [worker for worker in busy if worker.pipe in ready]:
                try:
                    kind, content = worker.pipe.recv()
                except (EOFError, OSError):
                    raise worker.died() from None
                if kind == "progress":
                    progress(*content)
                elif kind == "failed":
                    raise JobError(content)
                else:
                    worker.shard = None
                    if waiting:
                        worker.give(waiting.popleft())
                    else:
                        busy.remove(worker)
                    yield content
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.pipe.close()


def _work(pipe: Any, job: Job, threads: int) -> None:
    """What a worker process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        from runtime import Embedder

        from .shards import embed_shard

        shard: Shard | None = None
        try:
            with Embedder(job.model, threads=threads) as embedder:
                while True:
                    shard = pipe.recv()
                    done = embed_shard(
                        job, shard, embedder, lambda rows, tokens: pipe.send(("progress", (rows, tokens)))
                    )
                    pipe.send(("done", done))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:
            pipe.send(("failed", explain(error, shard)))


def explain(error: Exception, shard: Shard | None) -> str:
    """One line on what went wrong, and where."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    where = f"{shard.title}: " if shard is not None else ""
    if isinstance(error, JinaBertError):
        return f"{where}{lines[0]}"
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return f"{where}{name}{error.strerror or lines[0]}"
    if isinstance(error, MemoryError):
        return f"{where}not enough memory: fewer --processes, or a lower --max-length"
    return f"{where}{type(error).__name__}: {lines[0]}"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        sys.stderr = None  # nobody to tell
        os._exit(1)
