"""Progress on standard error: the share of the input's bytes, time left, rows and tokens a second."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm


class Bar:
    """A bar over the bytes of the input. What earlier runs did counts as done, but not in the rates."""

    def __init__(self, total: int, wanted: bool | None) -> None:
        """Start it.

        :param total: bytes.
        :param wanted: draw or not; None for on a terminal.
        """
        terminal = sys.stderr is not None and sys.stderr.isatty()
        draw = sys.stderr is not None and (terminal if wanted is None else wanted)
        tqdm.monitor_interval = 0  # no thread for it
        self._bar = tqdm(
            total=total,
            file=sys.stderr,
            disable=not draw,
            dynamic_ncols=terminal,
            smoothing=0.05,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}",
        )
        self._rows = self._tokens = 0
        self.resumed = False
        self._start = time.perf_counter()

    def add(self, done: int, rows: int, tokens: int) -> None:
        """Rows and tokens that are done, up to a byte of the input."""
        if self.resumed and not self._rows:
            self._bar.initial = self._bar.n = done
        self._rows, self._tokens = self._rows + rows, self._tokens + tokens
        seconds = max(time.perf_counter() - self._start, 1e-9)
        rates = f"{self._rows / seconds:,.0f} rows/s, {self._tokens / seconds:,.0f} tokens/s"
        self._bar.set_postfix_str(f"{self._rows:,} rows, {rates}", refresh=False)
        self._bar.update(max(0, done - self._bar.n))

    def close(self) -> None:
        """Leave the line as it is."""
        self._bar.refresh()
        self._bar.close()
