"""Cosines of texts or vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import pooling
from .errors import InputError
from .texts import iter_items

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import ArrayLike, NDArray

    from .manifest import Manifest

    Encode = Callable[[str | list[Any]], NDArray[np.float32]]  # texts -> vectors of length 1


def similarity(
    a: str | Iterable[str] | ArrayLike, b: str | Iterable[str] | ArrayLike, encode: Encode, manifest: Manifest
) -> NDArray[np.float32]:
    """Cosine of each pair of a and b.

    :param a: see Embedder.similarity.
    :param b: see Embedder.similarity.
    :param encode: makes vectors of texts.
    :param manifest: of the model.
    :return: float32 [n, m]; a single text or vector on either side drops that axis.
    :raises InputError: see Embedder.similarity.
    """
    left, right = _vectors(a, "a", encode, manifest), _vectors(b, "b", encode, manifest)
    if left.shape[-1] != right.shape[-1]:
        raise InputError(
            f"vectors of {left.shape[-1]} and of {right.shape[-1]} numbers: give both as many (dimensions=)"
        )
    cosines: NDArray[np.float32] = np.clip(left @ right.T, -1, 1).astype(np.float32)
    return cosines


def _vectors(side: Any, name: str, encode: Encode, manifest: Manifest) -> NDArray[np.float64]:
    if isinstance(side, str):
        return encode(side).astype(np.float64)
    if not isinstance(side, np.ndarray) or side.dtype.kind not in "fiu":
        side = list(iter_items(side, name))
        side = [item.as_py() if hasattr(item, "as_py") else item for item in side]
        if not side or isinstance(side[0], str):
            return encode(side).astype(np.float64)
    vectors = np.asarray(side, np.float64)
    dimension = manifest.dimension
    least = 1 if manifest.truncatable else dimension
    if vectors.ndim not in (1, 2) or not least <= vectors.shape[-1] <= dimension:
        raise InputError(
            f"vectors of shape {list(vectors.shape)}: expected [{dimension}] or [n, {dimension}]"
        )
    return vectors / pooling.norms(vectors)[..., None]
