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

# In the loop over the heads: its builder, scores of the block's queries with a window of keys, float32
# [1, BLOCK, keys], "take this head's part of", first and end of the window. Gives the scores with their bias.
HeadBias = Callable[[Builder, str, Callable[[str], str], str, str], str]


@dataclass(frozen=True)
class Alibi:
    """-slope * |i - j|, which decays: far keys weigh nothing (export.graph.windows)."""

    slopes: NDArray[np.float32]  # [heads], positive

    def distance(self, g: Builder, length: str) -> str:
        """Emit the distance of all pairs of tokens.

        :param g: where to write.
        :param length: int64 scalar.
        :return: name of float32 [length, length].
        """
        position = g("Range", np.float32(0), g("Cast", length, to=FLOAT), np.float32(1))
        result: str = g("Abs", g("Sub", position, g("Unsqueeze", position, np.array([1]))))
        return result

    def dense(self, g: Builder, length: str) -> str:
        """Emit the bias of all pairs of tokens.

        :param g: where to write.
        :param length: int64 scalar.
        :return: name of float32 [1, heads, length, length].
        """
        result: str = g("Mul", self.distance(g, length), -self.slopes[None, :, None, None])
        return result

    def masked(self, g: Builder, length: str, away: str) -> str:
        """Emit what the bias of a head is made of where a batch is padded.

        :param g: where to write.
        :param length: int64 scalar.
        :param away: float32 [batch, length], 0 for a real token, very large for padding.
        :return: name of a float32 value, for :meth:`of_head`.
        """
        result: str = g("Add", self.distance(g, length), g("Unsqueeze", away, np.array([1])))
        return result

    def of_head(self, g: Builder, masked: str, head: str) -> str:
        """Emit the bias of a head.

        :param g: where to write.
        :param masked: of :meth:`masked`.
        :param head: int64 scalar.
        :return: name of float32 [batch, length, length].
        """
        result: str = g("Mul", masked, g("Gather", -self.slopes, head))
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

        def of_head(body: Builder, scores: str, take: Callable[[str], str], begin: str, stop: str) -> str:
            distance = body("Abs", body("Sub", take(row), body.slice(column, begin, stop, [0, 1])))
            result: str = body("Sub", scores, distance)
            return result

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

    def masked(self, g: Builder, length: str, away: str) -> str:
        """Emit the bias of all heads; parameters and result as those of :meth:`Alibi.masked`."""
        result: str = g("Sub", self.dense(g, length), g("Unsqueeze", away, np.array([1, 2])))
        return result

    def of_head(self, g: Builder, masked: str, head: str) -> str:
        """Emit the bias of a head; parameters and result as those of :meth:`Alibi.of_head`."""
        result: str = g("Gather", masked, head, axis=1)
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

        def of_head(body: Builder, scores: str, take: Callable[[str], str], begin: str, stop: str) -> str:
            result: str = body(
                "Add", scores, body("Pad", body.slice(take(band), *cut, [1]), pads, mode="edge")
            )
            return result

        return of_head
