"""From token vectors to one vector per text: the mean over the text's own rows, then length 1.

Every function works on one text's rows, or row by row, so that a result has the same bits whatever else was
in the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BLOCK_ROWS = 32  # rows added in float32 before the float64 accumulator takes over
MIN_NORM = 1e-12  # as torch.nn.functional.normalize: a zero vector stays zero


def total(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum of token vectors: float32 inside blocks of BLOCK_ROWS rows, float64 over the blocks.

    :param rows: [T, D] float32, T at least 1.
    :return: [D] float64, with an error near that of a float64 sum at a quarter of its time.
    """
    whole = len(rows) // BLOCK_ROWS * BLOCK_ROWS
    if whole == 0:
        result: NDArray[np.float64] = np.add.reduce(rows, axis=0).astype(np.float64)
        return result
    blocks = np.add.reduce(rows[:whole].reshape(-1, BLOCK_ROWS, rows.shape[1]), axis=1)
    result = np.add.reduce(blocks, axis=0, dtype=np.float64)
    if whole < len(rows):
        result += np.add.reduce(rows[whole:], axis=0)
    return result


def means(hidden: NDArray[np.float32], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of each text's first tokens; padding rows are not read.

    :param hidden: [B, L, D] float32 token vectors.
    :param lengths: [B] tokens of each text.
    :return: [B, D] float64.
    """
    sums = np.empty((hidden.shape[0], hidden.shape[2]), np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # found by check_finite
        for row, length in enumerate(lengths.tolist()):
            sums[row] = total(hidden[row, :length])
    sums /= lengths[:, None]
    return sums


def finish(vectors: NDArray[np.float64], normalize: bool) -> NDArray[np.float32]:
    """Unit length if asked for, and float32.

    :param vectors: [B, D] float64.
    :param normalize: divide each row by its Euclidean length.
    :return: [B, D] float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if normalize:
            norms = np.sqrt(np.add.reduce(vectors * vectors, axis=1, keepdims=True))
            vectors = vectors / np.maximum(norms, MIN_NORM)
        return vectors.astype(np.float32)


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
