"""How the positions of two tokens change their score: ALiBi's slopes, or T5's bias by distance.

``dense`` emits the bias of all pairs; ``block_bias`` that of a block of query rows with a head's window of keys, in two
steps: what all heads share first, then what is emitted in the body of the loop over the heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.graph.builder import FLOAT, Builder
from export.graph.windows import BLOCK, Grid

__all__ = ["Alibi", "HeadBias", "RelativeBias"]

# In the loop over the heads: its builder, "take this head's part of", first and end of the window of keys. Gives the
# bias, float32 [BLOCK, keys], and the factor that it is to be multiplied by before it is added to the scores.
HeadBias = Callable[[Builder, Callable[[str], str], str, str], tuple[str, float]]


@dataclass(frozen=True)
class Alibi:
    """-slope * |i - j|, which decays: far keys weigh nothing (export.graph.windows)."""

    slopes: NDArray[np.float32]  # [heads], positive

    def dense(self, g: Builder, length: str) -> str:
        """Emit the bias of all pairs of tokens.

        :param g: where to write.
        :param length: int64 scalar.
        :return: name of float32 [1, heads, length, length].
        """
        position = g("Range", np.float32(0), g("Cast", length, to=FLOAT), np.float32(1))
        distance = g("Abs", g("Sub", position, g("Unsqueeze", position, np.array([1]))))
        result: str = g("Mul", distance, -self.slopes[None, :, None, None])
        return result

    def block_bias(self, g: Builder, grid: Grid, first: str) -> HeadBias:
        """Emit what all heads of a block share.

        :param g: where to write.
        :param grid: the block grid.
        :param first: int64 scalar, position of the block's first row.
        :return: how to emit the bias of a head.
        """
        # Positions are counted from the block, so that slope times position stays small where it matters.
        slopes = self.slopes[:, None]
        row = g.constant(
            slopes[:, :, None] * np.arange(BLOCK, dtype=np.float32)[:, None]
        )  # [heads, BLOCK, 1]
        column = g("Mul", slopes, g("Sub", grid.positions, g("Cast", first, to=FLOAT)))  # [heads, rows]

        def of_head(body: Builder, take: Callable[[str], str], begin: str, stop: str) -> tuple[str, float]:
            return body("Abs", body("Sub", take(row), body.slice(column, begin, stop, [0, 1]))), -1.0

        return of_head


@dataclass(frozen=True)
class RelativeBias:
    """A bias for each distance j - i, the same beyond ``reach`` in each direction: no key is too far to matter."""

    by_distance: NDArray[np.float32]  # [heads, 2 * reach + 1], from -reach to reach

    @property
    def reach(self) -> int:
        """From where on the bias stays the same."""
        return self.by_distance.shape[1] // 2

    def dense(self, g: Builder, length: str) -> str:
        """Emit the bias of all pairs of tokens; parameters and result as those of :meth:`Alibi.dense`."""
        position = g("Range", np.int64(0), length, np.int64(1))
        distance = g("Sub", position, g("Unsqueeze", position, np.array([1])))  # j - i
        near = g("Clip", distance, np.int64(-self.reach), np.int64(self.reach))
        # All heads of a pair are copied at once: a gather of single numbers takes five times as long.
        table = g.constant(np.ascontiguousarray(self.by_distance.T), "relative_bias")
        pairs = g("Gather", table, g("Add", near, np.int64(self.reach)), axis=0)  # [length, length, heads]
        result: str = g("Unsqueeze", g("Transpose", pairs, perm=[2, 0, 1]), np.array([0]))
        return result

    def block_bias(self, g: Builder, grid: Grid, first: str) -> HeadBias:
        """Emit what all heads of a block share; parameters and result as those of :meth:`Alibi.block_bias`.

        Keys from ``reach`` before the block to ``reach`` behind it have a bias by distance, which is the same for all
        blocks: the band. All keys before and after them have the band's outermost bias.
        """
        reach = self.reach
        offset = np.arange(-reach, BLOCK + reach) - np.arange(BLOCK)[:, None]
        band = g.constant(self.by_distance[:, np.clip(offset, -reach, reach) + reach], "relative_bias.band")
        zero, width = np.array([0]), np.array([BLOCK + 2 * reach])
        before = g(
            "Unsqueeze", g("Sub", first, np.int64(reach)), zero
        )  # keys before the band, or less than none
        after = g("Sub", g("Sub", g("Unsqueeze", grid.length, zero), before), width)
        cut = g("Max", g("Neg", before), zero), g("Add", width, g("Min", after, zero))
        pads = g("Concat", zero, g("Max", before, zero), zero, g("Max", after, zero), axis=0)

        def of_head(body: Builder, take: Callable[[str], str], begin: str, stop: str) -> tuple[str, float]:
            return body("Pad", body.slice(take(band), *cut, [1]), pads, mode="edge"), 1.0

        return of_head
