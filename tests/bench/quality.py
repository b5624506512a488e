"""How good vectors are: similarity of sentences and retrieval, next to peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tests.bench import retrieval, sts

__all__ = ["SETS", "evaluate"]

SETS = (*sts.SETS, *retrieval.SETS)


def evaluate(
    encode: Callable[[list[str]], NDArray[np.float32]], sets: Sequence[str], *, limit: int | None = None
) -> dict[str, dict[str, float]]:
    """Score a model, whatever it is.

    :param encode: texts to vectors [n, D]; they need not have length 1.
    :param sets: of SETS.
    :param limit: only so many pairs of each file, or queries: quick, and the figures mean less.
    :return: set -> figures, from 0 to 1: ``spearman`` and more (sts.measure), or ``ndcg_at_10``, ``mrr_at_10``,
        ``hit_at_10`` (retrieval.score).
    :raises ValueError: there is no such set.
    """
    if unknown := [name for name in sets if name not in SETS]:
        raise ValueError(f"there is no set {unknown[0]!r}: choose of {', '.join(SETS)}")
    return {
        name: (sts.measure if name in sts.SETS else retrieval.measure)(encode, name, limit=limit)
        for name in sets
    }
