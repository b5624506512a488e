"""What the measures of quality share: each text encoded once, and vectors of length 1."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["encode_once", "unit"]


def encode_once(
    encode: Callable[[list[str]], NDArray[np.float32]], texts: Iterable[str]
) -> dict[str, NDArray[np.float32]]:
    """Return a table text -> vector; a text that comes twice is encoded once."""
    different = list(dict.fromkeys(texts))
    return dict(zip(different, np.asarray(encode(different)), strict=True))


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the rows of [n, D], each divided by its Euclidean length.

    A row of zeros stays.
    """
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
