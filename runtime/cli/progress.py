"""One line on standard error that says how far a long run is."""

from __future__ import annotations

import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

SECONDS_BETWEEN = 0.2


class Progress:
    """Counts finished texts and tokens; redraws its line at most every SECONDS_BETWEEN seconds."""

    def __init__(self, total: int | None = None, stream: TextIO | None = None) -> None:
        """Start counting.

        :param total: texts in all, None where not known yet.
        :param stream: where to draw; None for standard error.
        """
        self._total = total
        self._stream = stream if stream is not None else sys.stderr
        self._texts = self._tokens = 0
        self._start = time.perf_counter()
        self._drawn = self._start  # nothing is drawn for a run that ends at once
        self._width = 0
        self._lock = threading.Lock()

    def add(self, texts: int, tokens: int) -> None:
        """Count finished work; safe from several threads."""
        with self._lock:
            self._texts += texts
            self._tokens += tokens
            now = time.perf_counter()
            if now - self._drawn >= SECONDS_BETWEEN:
                self._drawn = now
                self._draw(now)

    def close(self) -> None:
        """Erase the line."""
        if self._width and self._stream is not None:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()

    def _draw(self, now: float) -> None:
        if self._stream is None:  # python started with standard error closed
            return
        share = f" of {self._total:,}" if self._total is not None else ""
        rate = self._tokens / (now - self._start)
        line = f"{self._texts:,}{share} texts, {rate:,.0f} tokens/s"
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = max(self._width, len(line))
