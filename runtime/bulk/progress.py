"""Progress on standard error: rows done, rate, time left; and tokens a second."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .job import Shard


class Bar:
    """A bar over all rows of the input; what was done before counts as done, but not in the rate."""

    def __init__(
        self, shards: Sequence[Shard], left: Sequence[Shard], wanted: bool | None, quiet: bool
    ) -> None:
        """Start it.

        :param shards: of the whole job.
        :param left: those still to be done.
        :param wanted: draw or not; None for on a terminal.
        :param quiet: draw nothing.
        """
        terminal = sys.stderr is not None and sys.stderr.isatty()
        draw = sys.stderr is not None and not quiet and (terminal if wanted is None else wanted)
        total = sum(shard.rows for shard in shards)
        tqdm.monitor_interval = 0  # no thread for it: a process that starts others has as few as possible
        self._bar = tqdm(
            total=total,
            initial=total - sum(shard.rows for shard in left),
            unit="rows",
            file=sys.stderr,
            disable=not draw,
            dynamic_ncols=terminal,
            smoothing=0.05,
        )
        self._tokens = 0
        self._start = time.perf_counter()

    def add(self, rows: int, tokens: int) -> None:
        """Rows and tokens that are done."""
        self._tokens += tokens
        rate = self._tokens / max(time.perf_counter() - self._start, 1e-9)
        self._bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
        self._bar.update(rows)

    def close(self) -> None:
        """Leave the line as it is."""
        self._bar.close()
