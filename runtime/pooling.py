"""From token vectors to one vector per text: the mean over the text's own rows or another mode, then length 1.

Every function works on one text's rows, or row by row, so that a result is bit-identical whatever else was
in the batch.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from .errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SUM_ROWS = 32  # rows added in float32 before the float64 accumulator takes over
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
WEIGHTED_ROWS = 256  # rows that weightedmean widens to float64 at a time
MIN_NORM = 1e-12  # as torch.nn.functional.normalize: a zero vector stays zero


def segment_sums(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum token vectors: float32 inside blocks of SUM_ROWS rows, float64 over the blocks.

    The additions of one text come in the order of its tokens, whatever G is.

    :param rows: [G, T, D] float32, G texts of T tokens, T at least 1.
    :return: [G, D] float64, with an error near that of a float64 sum at a quarter of its time.
    """
    count, length, width = rows.shape
    full = length // SUM_ROWS * SUM_ROWS  # rows in full blocks
    sums: NDArray[np.float64] = np.add.reduce(rows[:, full:], axis=1).astype(np.float64)  # zeros for no rows
    if full:
        blocks = np.add.reduce(rows[:, :full].reshape(count, -1, SUM_ROWS, width), axis=2)
        sums += np.add.reduce(blocks.astype(np.float64), axis=1)
    return sums


def mean_pool(hidden: NDArray[np.float32], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average each text's token vectors; padding rows are not read.

    :param hidden: [B, L, D] float32 token vectors.
    :param lengths: [B] tokens of each text; equal lengths next to each other are summed in one go.
    :return: [B, D] float64.
    """
    sums = np.empty((hidden.shape[0], hidden.shape[2]), np.float64)
    edges = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)]
    with np.errstate(over="ignore", invalid="ignore"):  # found by check_finite
        for first, end in pairwise(edges):
            sums[first:end] = segment_sums(hidden[first:end, : lengths[first]])
    sums /= lengths[:, None]
    return sums


def normalize(vectors: NDArray[np.float64], unit_length: bool | Sequence[bool]) -> NDArray[np.float32]:
    """Scale vectors to Euclidean length 1 where asked for, and round them to float32.

    :param vectors: [B, D] float64.
    :param unit_length: whether to divide a row by its length; for all rows, or B times.
    :return: [B, D] float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # found by check_finite
        if np.any(unit_length):
            vectors = vectors / np.where(unit_length, norms(vectors), 1.0)[..., None]
        return vectors.astype(np.float32)


def norms(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute Euclidean lengths to divide by: at least MIN_NORM.

    :param vectors: [..., D].
    :return: [...].
    """
    lengths: NDArray[np.float64] = np.maximum(np.sqrt(np.add.reduce(vectors * vectors, axis=-1)), MIN_NORM)
    return lengths


def cut(
    vectors: NDArray[np.float32], dimensions: int, unit_length: bool | Sequence[bool]
) -> NDArray[np.float32]:
    """Keep the first numbers of vectors, and scale what is left to Euclidean length 1 again where asked for.

    :param vectors: [B, D] float32.
    :param dimensions: how many to keep, from 1 to D. D changes nothing.
    :param unit_length: as in normalize.
    :return: [B, dimensions] float32.
    """
    if dimensions == vectors.shape[1]:
        return vectors
    return normalize(vectors[:, :dimensions].astype(np.float64), unit_length)


def check_finite(vectors: NDArray[np.float32], label: str, numbers: Sequence[int]) -> None:
    """Refuse NaN and infinity rather than hand them to a search index.

    :param vectors: [B, D].
    :param label: what a row is the vector of, for the message: "texts".
    :param numbers: B numbers of the rows, for the message: "texts[7]".
    :raises OutputError: naming the first row that is not finite.
    """
    if np.isfinite(vectors).all():
        return
    row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
    raise OutputError(
        f"the model gave NaN or infinity for {label}[{numbers[row]}]: the model folder is damaged or was exported "
        "wrongly; check it with verify=True (--verify) or export it again"
    )


class Pooling:
    """Pools the token vectors of one text, or of one part of it, which may come in several pieces.

    The modes are those of sentence-transformers' Pooling module; vectors of several modes are joined in their order.
    """

    def __init__(self, modes: Sequence[str]) -> None:
        """Start without a token.

        :param modes: of MODES; one part of the vector each.
        """
        self._modes = modes
        self._count = 0
        self._weights = 0  # of weightedmean
        self._parts: dict[str, NDArray[np.float64]] = {}  # mode -> what its vector is made of

    def add(self, rows: NDArray[np.float32], position: int) -> None:
        """Take the next tokens.

        :param rows: [T, D] float32, T at least 1.
        :param position: number of the first of them in its whole text, from 0.
        """
        self._count += len(rows)
        self._weights += len(rows) * (2 * position + len(rows) + 1) // 2
        for mode in self._modes:
            before = self._parts.get(mode)
            if mode == "lasttoken" or (mode == "cls" and before is None):
                self._parts[mode] = rows[0 if mode == "cls" else -1].astype(np.float64)
            elif mode == "max":
                piece = rows.max(axis=0).astype(np.float64)
                self._parts[mode] = piece if before is None else np.maximum(before, piece)
            elif mode != "cls":
                piece = (
                    _weighted_sum(rows, position) if mode == "weightedmean" else segment_sums(rows[None])[0]
                )
                self._parts[mode] = piece if before is None else before + piece

    def vector(self) -> NDArray[np.float64]:
        """Return [len(modes) * D] float64, of the tokens taken so far: at least one."""
        divisors = {
            "mean": self._count,
            "mean_sqrt_len_tokens": np.sqrt(self._count),
            "weightedmean": self._weights,
        }
        return np.concatenate([self._parts[mode] / divisors.get(mode, 1) for mode in self._modes])


def _weighted_sum(rows: NDArray[np.float32], position: int) -> NDArray[np.float64]:
    """Sum token vectors, each times its place in the text, the first counting as 1."""
    total = np.zeros(rows.shape[1])
    for start in range(0, len(rows), WEIGHTED_ROWS):
        piece = rows[start : start + WEIGHTED_ROWS].astype(np.float64)
        piece *= np.arange(position + start + 1, position + start + len(piece) + 1)[:, None]
        total += np.add.reduce(piece, axis=0)
    return total


def pool(
    hidden: NDArray[np.float32], lengths: NDArray[np.int64], modes: Sequence[str], skip: Sequence[int]
) -> NDArray[np.float64]:
    """Make one vector a text of its token vectors; padding rows are not read.

    :param hidden: [B, L, D] float32 token vectors.
    :param lengths: [B] tokens of each text.
    :param modes: of MODES.
    :param skip: B times how many tokens at a text's start are left out, fewer than it has: those of a prompt.
    :return: [B, len(modes) * D] float64.
    """
    if tuple(modes) == ("mean",) and not any(skip):
        return mean_pool(hidden, lengths)
    vectors = np.empty((len(hidden), len(modes) * hidden.shape[2]), np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # found by check_finite
        for row, (length, first) in enumerate(zip(lengths.tolist(), skip, strict=True)):
            pooling = Pooling(modes)
            pooling.add(hidden[row, first:length], first)
            vectors[row] = pooling.vector()
    return vectors
