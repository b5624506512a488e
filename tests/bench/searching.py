"""Search by words, by both words and vectors, and anew by token vectors: what benchmarks of retrieval share.

Hybrid is reciprocal rank fusion of cosine and BM25 (Cormack et al., SIGIR 2009, k = 60); reranking orders the best
FIRST_STAGE of a first search by MaxSim (runtime.multivector).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from runtime import Multivector, maxsim
from tests.bench.settings import SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FIRST_STAGE", "bm25", "fused", "hybrid", "need_bm25s", "reranked"]

FIRST_STAGE = 30
FUSION = 60  # k of reciprocal rank fusion
ABOVE = 1e6  # what reranked scores are lifted by: more than any score of a first search


def need_bm25s() -> None:
    """Check that BM25 can be computed.

    :raises SettingsError: the package is missing.
    """
    if find_spec("bm25s") is None:
        raise SettingsError('bm25s is missing: pip install -e ".[bench]"')


def bm25(documents: Sequence[str], queries: Sequence[str]) -> NDArray[np.float64]:
    """Score documents by their words, English stop words left out.

    :param documents: n texts.
    :param queries: q texts.
    :return: [q, n], the higher the better.
    """
    import bm25s

    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(documents), stopwords="en", show_progress=False), show_progress=False)
    asked = bm25s.tokenize(list(queries), stopwords="en", show_progress=False, return_ids=False)
    nothing = np.zeros(len(documents))  # for a query of stop words alone
    return np.array([index.get_scores(list(words)) if words else nothing for words in asked], np.float64)


def fused(*rankings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reciprocal rank fusion.

    :param rankings: [documents] scores each, the higher the better.
    :return: [documents] the sum of 1 / (FUSION + rank).
    """
    total = np.zeros(len(rankings[0]))
    for scores in rankings:
        order = np.argsort(-scores, kind="stable")
        total[order] += 1 / (FUSION + 1 + np.arange(len(order)))
    return total


def hybrid(cosines: NDArray[np.float64], words: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fuse two searches.

    :param cosines: [queries, documents].
    :param words: the same, of bm25.
    :return: the same.
    """
    return np.array([fused(*pair) for pair in zip(cosines, words, strict=True)])


def reranked(
    first: NDArray[np.float64],
    queries: Sequence[Multivector],
    documents: Sequence[Multivector],
    count: int = FIRST_STAGE,
) -> NDArray[np.float64]:
    """Order the best documents of a first search anew, before all others.

    :param first: [queries, documents] scores.
    :param queries: token vectors of each query.
    :param documents: token vectors of each document.
    :param count: how many are ordered anew.
    :return: [queries, documents].
    """
    scores = np.array(first, np.float64)
    for number, query in enumerate(queries):
        best = np.argsort(-first[number], kind="stable")[:count]
        scores[number, best] = ABOVE + maxsim(query, [documents[index] for index in best]).astype(np.float64)
    return scores
