"""Retrieval: are the documents that people judged relevant among the first ten by cosine?

nDCG@10 as trec_eval computes it: gain is the judgement, the discount of rank r is log2(1 + r), and the ideal order is
that of all judged documents. MRR@10 is 1 / rank of the first relevant document within ten, else 0; the hit rate is how
often there is one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.bench.vectors import encode_once, unit
from tests.paths import SHARED

__all__ = [
    "FIRST",
    "FOLDER",
    "LENGTHS",
    "SETS",
    "Collection",
    "Search",
    "load",
    "measure",
    "measure_search",
    "score",
]

FOLDER = SHARED / "data" / "retrieval"
LENGTHS = (256, 1024, 4096, 8192)  # tokens of a document of the pass key sets
SETS = ("cranfield", "cisi", "xquad_en", *(f"passkey_{tokens}" for tokens in LENGTHS))
FIRST = 10
Search = Callable[[list[str], list[str]], NDArray[np.float64]]


class Collection(NamedTuple):
    """Documents, queries and what answers which."""

    documents: list[str]
    queries: list[str]
    relevant: list[dict[int, float]]  # for each query: number of a document -> gain, above 0


def load(path: Path) -> Collection:
    """Read a folder in BEIR form.

    :param path: holds ``corpus.jsonl``, ``queries.jsonl`` and ``qrels.tsv``.
    :return: documents, each after its title, as BEIR and MTEB do; and the queries that something answers.
    """
    documents, queries = (
        # Not splitlines(): U+2028 and the like are part of a text.
        [
            json.loads(line)
            for line in (path / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
            if line
        ]
        for name in ("corpus", "queries")
    )
    place = {document["_id"]: number for number, document in enumerate(documents)}
    judged: dict[str, dict[int, float]] = {}
    for line in (path / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, gain = line.split("\t")
        if float(gain) > 0:
            judged.setdefault(query, {})[place[document]] = float(gain)
    asked = [query for query in queries if query["_id"] in judged]
    return Collection(
        [" ".join(filter(None, (document.get("title"), document["text"]))) for document in documents],
        [query["text"] for query in asked],
        [judged[query["_id"]] for query in asked],
    )


def measure(
    encode: Callable[[list[str]], NDArray[np.float32]],
    name: str,
    *,
    limit: int | None = None,
    folder: Path | None = None,
) -> dict[str, float]:
    """Score one set by the cosine of vectors.

    :param encode: texts to vectors [n, D], of any length.
    :param name: one of SETS.
    :param limit: only so many queries, and of the documents up to ten of each and ten times `limit` others.
    :param folder: holds the sets; None for FOLDER.
    :return: see score.
    """

    def search(documents: list[str], queries: list[str]) -> NDArray[np.float64]:
        vectors = encode_once(encode, [*documents, *queries])
        found, asked = (unit(np.stack([vectors[text] for text in texts])) for texts in (documents, queries))
        return asked @ found.T

    return measure_search(search, name, limit=limit, folder=folder)


def measure_search(
    search: Search, name: str, *, limit: int | None = None, folder: Path | None = None
) -> dict[str, float]:
    """Score one set by whatever search.

    :param search: documents and queries to scores [queries, documents].
    :param name: see measure.
    :param limit: see measure.
    :param folder: see measure.
    :return: see score.
    """
    documents, queries, relevant = load((folder or FOLDER) / name)
    if limit is not None:
        queries = queries[:limit]
        relevant = [dict(list(own.items())[:FIRST]) for own in relevant[:limit]]
        kept = sorted({*range(10 * limit), *(number for own in relevant for number in own)})
        kept = [number for number in kept if number < len(documents)]
        place = {number: new for new, number in enumerate(kept)}
        documents = [documents[number] for number in kept]
        relevant = [{place[number]: gain for number, gain in own.items()} for own in relevant]
    return score(search(documents, queries), relevant)


def score(similarity: NDArray[np.floating], relevant: Sequence[dict[int, float]]) -> dict[str, float]:
    """Compute nDCG@10.

    :param similarity: [queries, documents]. Of equally similar documents the one that comes first wins.
    :param relevant: for each query: number of a document -> gain.
    :return: ``ndcg_at_10``, ``mrr_at_10``, ``hit_at_10``: means over the queries, from 0 to 1; ``queries``,
        ``documents``: how many.
    """
    discount = 1 / np.log2(1 + np.arange(1, FIRST + 1))
    ndcg, reciprocal, hit = (np.zeros(len(relevant)) for _ in range(3))
    for query, own in enumerate(relevant):
        best = np.argsort(-similarity[query], kind="stable")[:FIRST]
        gains = np.array([own.get(int(document), 0.0) for document in best])
        ideal = np.array(sorted(own.values(), reverse=True)[:FIRST])
        ndcg[query] = (gains * discount[: len(gains)]).sum() / (ideal * discount[: len(ideal)]).sum()
        ranks = np.flatnonzero(gains > 0)
        if len(ranks):
            hit[query], reciprocal[query] = 1, 1 / (1 + ranks[0])
    return {
        "ndcg_at_10": float(ndcg.mean()),
        "mrr_at_10": float(reciprocal.mean()),
        "hit_at_10": float(hit.mean()),
        "queries": float(len(relevant)),
        "documents": float(similarity.shape[1]),
    }
