"""Late interaction: texts as one vector a token, compared token by token (MaxSim).

Each token of a query is compared with all tokens of a document and counts by the nearest of them (Khattab and Zaharia,
"ColBERT", arXiv 2004.12832). The mean hides single tokens; here they decide. With a share of the cosine of the means:

    score(q, d) = (Σ wᵢ · maxⱼ cos(qᵢ, dⱼ) / Σ wᵢ + COSINE_SHARE · cos(q, d)) / (1 + COSINE_SHARE)

A score is at most 1. i runs over the query's own tokens, j over all of the document; wᵢ is the token's inverse document
frequency, or 1.

Dot products are those of integers that floating point adds without rounding. So no order of additions, no library and
no neighbour in a batch changes a bit of a score.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .errors import InputError, ModelError
from .pooling import MIN_NORM

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from numpy.typing import NDArray

    Vectors = NDArray[Any]  # [T, d] float32, float16 or int8

# Chosen on held-out passages of the training text: `python -m tests.bench rerank --case formula`.
COSINE_SHARE = 0.5
WINDOW_TOKENS = 32  # of the part of a document that is shown as its best match
DTYPES = ("float32", "float16", "int8")
INT8_SCALE = 127  # an int8 vector is that many times the unit vector

# Of a model folder, both optional: float16 [V], a weight for each token id; int16 [hidden_size, K], see rotate.
TOKEN_WEIGHTS, TOKEN_ROTATION = "token_weights.npy", "token_rotation.npy"

# A unit vector times 2**20, rounded: products of two, added up over 4,096 dimensions, stay below 2**53.
FIXED_POINT = float(1 << 20)
ROTATION_SCALE = float(1 << 14)  # the stored rotation is int16
LIMB = 128.0  # an int8 document meets the query as two such limbs: 127 * 127 * 1,040 is below 2**24
MAX_INT8_DIMENSIONS = 1040
BLOCK_ROWS = 4096  # token vectors of documents that are compared at a time
ROWS = 1024  # token vectors that are handled at a time, in float64


class Multivector(NamedTuple):
    """One text as a vector a token, of length 1 each."""

    vectors: Vectors  # [T, d] float32, float16, or int8: INT8_SCALE times the vector
    ids: NDArray[np.int32]  # [T]
    special: NDArray[np.bool_]  # [T] True for the special tokens around the text
    weights: NDArray[np.float32]  # [T] weight of each as a query's token, 0 for special tokens
    pooled: NDArray[np.float32]  # [D] the text's one vector, of length 1


def maxsim(query: Multivector, documents: Iterable[Multivector | Vectors]) -> NDArray[np.float32]:
    """Score stored documents against a query.

    :param query: what encode_multivector gave, in float32 or float16.
    :param documents: what encode_multivector gave, or the arrays of vectors alone [T, d], which are scored without the
        share of the cosine; all of the query's d and of one dtype.
    :return: [n] float32, the higher the better, at most 1. A document's score is bit-identical whatever else is scored.
    :raises InputError: another d, no vectors, or dtypes that differ.
    """
    own = list(documents)
    rows = [each.vectors if isinstance(each, Multivector) else np.asarray(each) for each in own]
    maxima = _maxima(query, rows)
    scores = np.add.reduce(maxima * _weights(query), axis=1)
    pooled = [number for number, each in enumerate(own) if isinstance(each, Multivector)]
    if pooled:
        means = np.stack([own[number].pooled for number in pooled])  # type: ignore[union-attr]
        cosines = np.add.reduce(means.astype(np.float64) * query.pooled, axis=1)
        scores[pooled] = (scores[pooled] + COSINE_SHARE * cosines) / (1 + COSINE_SHARE)
    rounded: NDArray[np.float32] = np.minimum(scores, 1.0).astype(np.float32)  # roundings may pass it
    return rounded


def best_window(query: Multivector, document: Multivector, tokens: int = WINDOW_TOKENS) -> tuple[int, int]:
    """Find the part of a document that answers a query best: the window with the highest MaxSim of its own.

    :param query: as in maxsim.
    :param document: as in maxsim.
    :param tokens: length of the window; a shorter document is its own window.
    :return: the window as token indices (first, end); (0, 0) for a document without a token of its own.
    """
    first = int(np.argmin(document.special))  # the text's own tokens stand together
    count = int((~document.special).sum())
    if not count:
        return 0, 0
    own = _own_tokens(query)
    vectors = document.vectors[first : first + count]
    parts = [_similarity(own, vectors[start : start + BLOCK_ROWS]) for start in range(0, count, BLOCK_ROWS)]
    similarity = np.concatenate(parts, axis=1)
    size = min(tokens, count)
    windows = np.lib.stride_tricks.sliding_window_view(similarity, size, axis=1).max(axis=2)
    start = first + int(np.argmax(np.add.reduce(windows * _weights(query)[:, None], axis=0)))
    return start, start + size


def unit_rows(hidden: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scale token vectors to length 1.

    :param hidden: [T, D].
    :return: [T, D] float64.
    """
    rows = hidden.astype(np.float64)
    norms = np.sqrt(np.add.reduce(rows * rows, axis=1, keepdims=True))
    rows /= np.maximum(norms, MIN_NORM)
    return rows


def rotate(units: NDArray[np.float64], rotation: NDArray[np.int16]) -> NDArray[np.float64]:
    """Turn token vectors so that what matters comes first, cut them, and scale them to length 1 again.

    :param units: [T, D].
    :param rotation: [D, d] orthonormal columns times ROTATION_SCALE.
    :return: [T, d].
    """
    exact = np.rint(units * FIXED_POINT) @ rotation.astype(np.float64)
    norms = np.sqrt(np.add.reduce(exact * exact, axis=1, keepdims=True))
    unit: NDArray[np.float64] = exact / np.maximum(norms, MIN_NORM)
    return unit


def stored(
    hidden: NDArray[np.float32], dtype: str = "float32", rotation: NDArray[np.int16] | None = None
) -> Vectors:
    """Make token vectors ready to store, a block of rows at a time.

    :param hidden: [T, D] what the graph gives.
    :param dtype: one of DTYPES.
    :param rotation: see rotate: [D, d]; None for all dimensions as they are.
    :return: [T, d] vectors of length 1.
    """
    vectors = np.empty((len(hidden), hidden.shape[1] if rotation is None else rotation.shape[1]), dtype)
    for start in range(0, len(hidden), ROWS):
        units = unit_rows(hidden[start : start + ROWS])
        if rotation is not None:
            units = rotate(units, rotation)
        if dtype == "int8":
            units = np.rint(units * INT8_SCALE)
        vectors[start : start + ROWS] = units
    return vectors


def check_rotation(
    rotation: NDArray[np.int16] | None, dimensions: object, hidden_size: int
) -> NDArray[np.int16]:
    """Cut a model folder's rotation.

    :param rotation: [hidden_size, K]; None where the folder has none.
    :param dimensions: how many of its K columns are wanted.
    :param hidden_size: of the model.
    :return: [hidden_size, dimensions].
    :raises InputError: it has not as many.
    :raises ModelError: it is not of this model.
    """
    most = 0 if rotation is None else rotation.shape[1]
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= most:
        have = (
            f"an integer from 1 to {most}"
            if most
            else f"None, since the model folder has no {TOKEN_ROTATION}"
        )
        raise InputError(f"dimensions={dimensions!r}: must be {have}, or None for all")
    if rotation is None or rotation.dtype != np.int16 or rotation.shape[0] != hidden_size:
        raise ModelError(f"{TOKEN_ROTATION} is not int16 [{hidden_size}, K]: export the model again")
    return rotation[:, :dimensions]


def principal_rotation(rows: NDArray[np.float64], dimensions: int) -> NDArray[np.int16]:
    """Find the directions that hold most of some token vectors: their principal components, not centred.

    :param rows: [n, D] unit vectors, n at least D.
    :param dimensions: K.
    :return: [D, K], ROTATION_SCALE times orthonormal columns, the most important first.
    """
    _, vectors = np.linalg.eigh(rows.T @ rows)
    columns = vectors[:, ::-1][:, :dimensions]
    columns *= np.sign(columns[np.abs(columns).argmax(axis=0), np.arange(columns.shape[1])])  # of two, one
    return np.rint(columns * ROTATION_SCALE).astype(np.int16)


def inverse_document_frequencies(texts: Iterable[NDArray[np.int32]], vocabulary: int) -> NDArray[np.float32]:
    """Weigh each token by how few texts of a corpus have it: ln((n + 1) / (texts with it + 1)).

    :param texts: token ids of each text, int32.
    :param vocabulary: V, more than the largest id.
    :return: [V] float32, 0 for a token that every text has.
    """
    found = np.zeros(vocabulary, np.int64)
    count = 0
    for ids in texts:
        found[np.unique(ids)] += 1
        count += 1
    return np.log((count + 1) / (found + 1)).astype(np.float32)


def _weights(query: Multivector) -> NDArray[np.float64]:
    """Weights of a query's own tokens, which add up to 1."""
    weights = query.weights[~query.special].astype(np.float64)
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(weights), 1 / max(1, len(weights)))


def _own_tokens(query: Multivector) -> Vectors:
    own = query.vectors[~query.special]
    if own.dtype == np.int8:
        raise InputError(
            "the query's vectors are int8: encode it with dtype='float32', documents may be int8"
        )
    return own


def _maxima(query: Multivector, rows: list[Vectors]) -> NDArray[np.float64]:
    """The similarity of each query token to its nearest token of each document: [n, Q]."""
    own = _own_tokens(query)
    _check(own.shape[1], rows)
    maxima = np.full((len(rows), len(own)), -np.inf)
    for numbers, pieces in _blocks(rows):
        similarity = _similarity(own, pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
        starts = np.cumsum([0, *map(len, pieces[:-1])])
        found = np.maximum.reduceat(similarity, starts, axis=1).T
        maxima[numbers] = np.maximum(maxima[numbers], found)
    return maxima


def _blocks(rows: list[Vectors]) -> Iterable[tuple[list[int], list[Vectors]]]:
    """Documents, or parts of long ones, that together have at most BLOCK_ROWS; each document at most once a block."""
    numbers: list[int] = []
    pieces: list[Vectors] = []
    room = BLOCK_ROWS
    parts = (
        (number, each[start : start + BLOCK_ROWS])
        for number, each in enumerate(rows)
        for start in range(0, len(each), BLOCK_ROWS)
    )
    for number, piece in chain(parts, [(-1, np.empty((BLOCK_ROWS, 0)))]):
        if len(piece) > room or number in numbers[-1:]:
            yield numbers, pieces
            numbers, pieces, room = [], [], BLOCK_ROWS
        numbers.append(number)
        pieces.append(piece)
        room -= len(piece)


def _similarity(own: Vectors, document: Vectors) -> NDArray[np.float64]:
    """Dot products [Q, T] of unit vectors, each exact in the numbers it is made of."""
    if document.dtype != np.int8 or own.shape[1] > MAX_INT8_DIMENSIONS:
        return (_fixed(own) @ _fixed(document).T) / FIXED_POINT**2
    query = np.rint(own.astype(np.float64) * LIMB * 127)
    high = np.rint(query / LIMB)
    limbs = np.concatenate([high, query - high * LIMB]).astype(np.float32)
    found = (limbs @ document.astype(np.float32).T).reshape(2, len(own), -1)
    exact: NDArray[np.float64] = found[0].astype(np.float64) * LIMB + found[1]
    return exact / (LIMB * 127 * INT8_SCALE)


def _fixed(vectors: Vectors) -> NDArray[np.float64]:
    """Unit vectors times FIXED_POINT, rounded. Converted first: numpy is slow at arithmetic in float16."""
    rows: NDArray[np.float64] = vectors.astype(np.float64)
    if vectors.dtype == np.int8:
        rows /= INT8_SCALE
    rows *= FIXED_POINT
    return np.rint(rows, out=rows)


def _check(dimensions: int, rows: list[Vectors]) -> None:
    for number, each in enumerate(rows):
        if each.ndim != 2 or each.shape[1] != dimensions or not len(each):
            raise InputError(
                f"documents[{number}] has vectors of shape {list(each.shape)}: expected [tokens, {dimensions}], "
                "the query's dimensions"
            )
        if each.dtype.name not in DTYPES or each.dtype != rows[0].dtype:
            raise InputError(
                f"documents[{number}] has vectors of {each.dtype}: expected one of {', '.join(DTYPES)}, "
                "the same for all documents"
            )
