"""Which keys a block of queries needs: all but those that weigh nothing at the precision of what follows.

ALiBi lowers the score of a key at distance r by m·r, m the slope of the head. So far keys of steep heads weigh less
than a float32 can show beside the rest of their row. For a block of queries I and a group of keys J at distance
dist(I, J), with |q| and |k| Euclidean norms (the factor 1 / sqrt(d) is in q):

    every score of I with J   <=  |q_i| * max_J |k| - m * dist(I, J)                       (Cauchy-Schwarz)
    a row's softmax denominator  >=  exp(low_i),  low_i = its best score with the GROUP keys around it
    mass of J in row i        <=  g * exp(U_J),   U_J = max_i(|q_i| * max_J |k| - low_i) - m * dist(I, J)

where g = min(GROUP, 1 / (1 - exp(-m))) bounds the sum over the keys of J, each at least one further away than the one
before. Groups are left out from both ends of the text for as long as the masses left out add up to at most EPSILON / 2
on a side, so that a row loses at most EPSILON = 2^-24, half a unit in the last place of a float32 sum; or 2^-16 where
all that follows is rounded to int8. It holds whatever the weights; how much it saves is up to them. Rows are taken by
GROUP too, to keep the bound cheap: the largest |q_i| and the smallest low_i of each group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.graph.builder import FLOAT, Builder

__all__ = ["BLOCK", "EPSILON", "FLOOR", "GROUP", "INT8_EPSILON", "Grid", "grid", "key_norms", "window"]

BLOCK = 128  # rows of a block: scores of 128 x 8192 are 4 MB; 64 and 256 were slower or larger
GROUP = (
    32  # rows and keys that bound a row's denominator from below, and keys that are kept or left out together
)
FLOOR = np.float32(-64)  # of exponents: 2e-28, no subnormal when divided by a row's sum either
EPSILON = 2.0**-24  # of a row's weight that may be left out: half a unit in the last place
INT8_EPSILON = 2.0**-16  # where linear layers in int8 follow, which round to 2^-8
FAR = np.float32(1e30)  # beyond any score, and finite


@dataclass(frozen=True)
class Grid:
    """What depends on the length and the slopes alone, made once a text."""

    length: str  # int64 scalar: tokens of the text
    blocks: str  # int64 scalar: how many blocks
    slopes: NDArray[np.float32] | None  # of ALiBi, [heads]
    rows: str  # int64 scalar: blocks·BLOCK
    positions: str  # float32 [rows]
    epsilon: float  # of a row's weight that may be left out
    penalty: str  # with slopes: float32 [heads, 2·groups], m·dist of a block and a group, its own first at `groups`


def grid(g: Builder, length: str, slopes: NDArray[np.float32] | None, epsilon: float = EPSILON) -> Grid:
    """Emit the block grid of a text.

    :param g: where to write.
    :param length: int64 scalar, its tokens.
    :param slopes: ALiBi slopes, float32 [heads]; None: positions are another matter, and every key is needed.
    :param epsilon: how much of a row's weight may be left out.
    :return: the grid.
    """
    blocks = g("Div", g("Add", length, np.int64(BLOCK - 1)), np.int64(BLOCK))
    rows = g("Mul", blocks, np.int64(BLOCK))

    positions = g("Cast", g("Range", np.int64(0), rows, np.int64(1)), to=FLOAT)
    if slopes is None:
        return Grid(length, blocks, None, rows, positions, epsilon, "")
    # From a block's first row to a group's first key; behind the block from its last row, before it to the last key.
    first = g("Cast", g("Range", g("Neg", rows), rows, np.int64(GROUP)), to=FLOAT)
    apart = g("Max", g("Sub", first, np.float32(BLOCK - 1)), g("Sub", np.float32(1 - GROUP), first))
    penalty = g("Mul", slopes[:, None], g("Max", apart, np.float32(0)))
    return Grid(length, blocks, slopes, rows, positions, epsilon, penalty)


def key_norms(g: Builder, k: str) -> str:
    """Emit the largest key norm of each group.

    :param g: where to write.
    :param k: keys, float32 [heads, rows, d].
    :return: name of float32 [heads, 1, groups].
    """
    norms = g("ReduceL2", k, np.array([2]), keepdims=1)  # [heads, rows, 1]
    by_group = g("Reshape", norms, np.array([0, 1, -1, GROUP]))
    result: str = g("ReduceMax", by_group, np.array([3]), keepdims=0)
    return result


def window(g: Builder, grid: Grid, block: str, q: str, k: str, norms: str) -> tuple[str, str]:
    """Emit the first key and the end of the keys that a block of queries needs, by head.

    :param g: where to write.
    :param grid: the block grid.
    :param block: int64 scalar, which block.
    :param q: its queries, scaled, float32 [heads, BLOCK, d].
    :param k: its keys, float32 [heads, BLOCK, d].
    :param norms: of key_norms.
    :return: names of start and end, int64 [heads, 1].
    """
    assert grid.slopes is not None
    heads, groups = len(grid.slopes), BLOCK // GROUP
    near = np.abs(np.arange(GROUP, dtype=np.float32)[:, None] - np.arange(GROUP, dtype=np.float32))
    q_groups = g("Reshape", q, np.array([heads, groups, GROUP, -1]))
    k_groups = g("Transpose", g("Reshape", k, np.array([heads, groups, GROUP, -1])), perm=[0, 1, 3, 2])
    scores = g("Add", g("MatMul", q_groups, k_groups), -grid.slopes[:, None, None, None] * near)
    # The last block is padded: padding is no key, and what its rows need does not matter.
    inside = g("Sub", grid.length, g("Mul", block, np.int64(BLOCK)))
    real = g("Less", np.arange(BLOCK, dtype=np.int64).reshape(groups, GROUP), inside)
    key_mask = g("Unsqueeze", g("Where", real, np.float32(0), -FAR), np.array([1]))
    low = g("Where", real, g("ReduceMax", g("Add", scores, key_mask), np.array([3]), keepdims=0), FAR)
    low = g("ReduceMin", low, np.array([2]), keepdims=1)  # [heads, groups, 1]
    largest = g("ReduceMax", g("ReduceL2", q_groups, np.array([3]), keepdims=0), np.array([2]), keepdims=1)
    bound = g(
        "ReduceMax", g("Sub", g("Mul", largest, norms), low), np.array([1]), keepdims=0
    )  # [heads, all groups]

    before, all_groups = (g("Mul", count, np.int64(groups)) for count in (block, grid.blocks))
    at = g("Unsqueeze", g("Sub", all_groups, before), np.array([0]))
    apart = g.slice(grid.penalty, at, g("Add", at, all_groups), [1])
    mass = g("Exp", g("Clip", g("Sub", bound, apart), FLOOR))  # exp(FLOOR) is still nothing beside EPSILON
    keys = np.minimum(GROUP, 1 / (1 - np.exp(-grid.slopes.astype(np.float64))))
    limit = (grid.epsilon / 2 / keys).astype(np.float32)[:, None]

    def outermost(last: int) -> str:
        cumulated = g("CumSum", mass, np.int64(1), reverse=last)
        needed = g("Cast", g("Greater", cumulated, limit), to=FLOAT)
        result: str = g("ArgMax", needed, axis=1, keepdims=1, select_last_index=last)
        return result

    start = g("Mul", outermost(0), np.int64(GROUP))
    end = g("Mul", g("Add", outermost(1), np.int64(1)), np.int64(GROUP))
    return start, g("Min", end, grid.length)
