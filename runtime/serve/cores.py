"""CPU cores for long texts: all of them, or all but one as long as short texts come.

A run over a long text cannot be interrupted, but its threads can be moved while it lasts. The thread that starts a run
keeps its priority: it holds Python's lock before and after, and everybody would wait for it while it gets no CPU time.
The threads that onnxruntime adds never hold that lock, and give way.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HOLD_SECONDS = 0.1  # after the last short text, until long ones get the core back
NICE = 10  # by how much onnxruntime's threads yield
POSSIBLE = sys.platform == "linux"  # elsewhere threads have neither priority nor cores of their own


class Cores:
    """Moves the threads that compute long texts."""

    def __init__(self) -> None:
        """Nothing to be moved yet."""
        self._threads: list[int] = []
        self._lock = threading.Lock()
        self._left = False  # one core is left to short texts
        self._last = 0.0

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Take over this thread, and those that start inside the block."""
        if not POSSIBLE:
            yield
            return
        own, before = threading.get_native_id(), _tasks()
        yield
        started = _tasks() - before
        # A single core has to be shared by time alone, and there this thread does all the work.
        for thread in started if len(_allowed()) > 1 else {own}:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICE)
        self._threads = [own, *started]

    def leave_one(self) -> None:
        """A short text has come: leave it a core."""
        self._last = time.monotonic()
        if not self._left:
            self._move(True)

    def remaining(self) -> float | None:
        """Seconds until the core may be taken again; None where none is left."""
        return max(0.0, self._last + HOLD_SECONDS - time.monotonic()) if self._left else None

    def take_all(self) -> None:
        """Take the core again, if no short text has come for a while."""
        if self._left and self._last + HOLD_SECONDS <= time.monotonic():
            self._move(False)

    def _move(self, leave: bool) -> None:
        with self._lock:
            self._left = leave
            cores = _allowed() if self._threads else []
            if len(cores) > 1:
                for thread in self._threads:
                    with contextlib.suppress(OSError):  # it has ended
                        os.sched_setaffinity(thread, cores[1:] if leave else cores)


def _allowed() -> list[int]:
    """CPU cores that this process may use: those of its main thread."""
    return sorted(os.sched_getaffinity(os.getpid()))


def _tasks() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/task")}
