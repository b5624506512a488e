"""Reranking by token vectors: what it finds beside cosine, BM25 and both together, and what it costs.

The first stage are the 30 documents that cosine (or the hybrid) ranks best. Hybrid is reciprocal rank fusion of cosine
and BM25 (Cormack et al., SIGIR 2009, k = 60). `--case formula` prints the table that the score's two constants were
chosen by, on held-out passages of the training text: a sentence, or its four rarest words, ask for the rest of the
paragraph that it begins.
"""

from __future__ import annotations

import lzma
import random
import re
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime import Embedder, Multivector, maxsim
from tests.bench import retrieval
from tests.bench.report import Result, Table
from tests.bench.settings import Settings, SettingsError
from tests.paths import SHARED

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fused", "rerank"]

SETS = ("xquad_en", "cranfield", "cisi", "passkey_1024")
CASES = (*SETS, "costs", "formula")
FIRST_STAGE = 30
FUSION = 60  # k of reciprocal rank fusion
PASSAGES = ("scitldr_train", "openstax_ccby", "foldoc_jargon_devil", "docs_html")
POWERS, SHARES = (0.0, 0.5, 1.0), (0.0, 0.25, 0.5, 1.0)
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def rerank(settings: Settings) -> Result:
    """Measure the cases of settings.cases, or all but formula.

    :param settings: see there.
    :return: tables.
    :raises SettingsError: the data or a package is not on this machine.
    """
    if unknown := sorted(set(settings.cases) - set(CASES)):
        raise SettingsError(f"there is no case {unknown[0]!r}: choose of {', '.join(CASES)}")
    wanted = [name for name in CASES if name in settings.cases or (not settings.cases and name != "formula")]
    if set(wanted) - {"costs"} and not SHARED.exists():
        raise SettingsError(f"{SHARED} does not exist: rerank needs the sets there, or --case costs")
    if set(wanted) & set(SETS) and find_spec("bm25s") is None:
        raise SettingsError('bm25s is missing: pip install -e ".[bench]"')
    result = Result("rerank")
    with Embedder(settings.artifacts.model, threads=settings.threads) as embedder:
        if names := [name for name in wanted if name in SETS]:
            result.tables.append(_quality(embedder, names, 20 if settings.quick else None))
        if "costs" in wanted:
            result.tables.append(_costs(embedder, settings.rounds))
        if "formula" in wanted:
            result.tables.append(_formula(embedder, 20 if settings.quick else 300))
    return result


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


def _quality(embedder: Embedder, names: Sequence[str], limit: int | None) -> Table:
    head = [
        "nDCG@10 / hit@1 / MRR@10, %",
        "cosine",
        "BM25",
        "hybrid",
        "cosine, reranked",
        "hybrid, reranked",
        "stored int8",
    ]
    rows = []
    for name in names:
        start = time.perf_counter()
        documents, queries, relevant = retrieval.load(retrieval.FOLDER / name)
        queries, relevant = queries[:limit], relevant[:limit]
        every = len(documents) if name.startswith("passkey") else FIRST_STAGE
        cosines = embedder.similarity(embedder.encode(queries), embedder.encode(documents)).astype(np.float64)
        words = _bm25(documents, queries)
        hybrid = np.array([fused(*pair) for pair in zip(cosines, words, strict=True)])
        stored = embedder.encode_multivector(documents, dtype="float16")
        small = embedder.encode_multivector(documents, dimensions=128, dtype="int8")
        asked = embedder.encode_multivector(queries, query=True)
        asked_small = embedder.encode_multivector(queries, query=True, dimensions=128)
        columns = [
            cosines,
            words,
            hybrid,
            _reranked(cosines, asked, stored, every),
            _reranked(hybrid, asked, stored, every),
            _reranked(cosines, asked_small, small, every),
        ]
        rows.append([name, *(_cell(similarity, relevant) for similarity in columns)])
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return Table("Retrieval, reranked by token vectors", head, rows)


def _reranked(
    first: NDArray[np.float64], queries: list[Multivector], documents: list[Multivector], count: int
) -> NDArray[np.float64]:
    """Scores in which the best `count` of the first stage are ordered anew, before all others."""
    scores = np.array(first)
    for number, query in enumerate(queries):
        best = np.argsort(-first[number], kind="stable")[:count]
        scores[number, best] = 1e6 + maxsim(query, [documents[index] for index in best])
    return scores


def _bm25(documents: list[str], queries: list[str]) -> NDArray[np.float64]:
    import bm25s

    index = bm25s.BM25()
    index.index(bm25s.tokenize(documents, stopwords="en", show_progress=False), show_progress=False)
    asked = bm25s.tokenize(queries, stopwords="en", show_progress=False, return_ids=False)
    return np.array([index.get_scores(list(words)) for words in asked], np.float64)


def _cell(similarity: NDArray[np.float64], relevant: Sequence[dict[int, float]]) -> str:
    found = retrieval.score(similarity, relevant)
    best = similarity.argmax(axis=1)
    hit = np.mean([int(index) in own for index, own in zip(best, relevant, strict=True)])
    return f"{100 * found['ndcg_at_10']:.1f} / {100 * hit:.1f} / {100 * found['mrr_at_10']:.1f}"


def _costs(embedder: Embedder, rounds: int) -> Table:
    chance = random.Random(5)
    words = [
        "time",
        "people",
        "water",
        "house",
        "number",
        "part",
        "sound",
        "work",
        "place",
        "year",
        "back",
        "give",
        "name",
        "very",
        "through",
        "form",
        "sentence",
        "great",
    ]

    def text(count: int) -> str:
        return " ".join(chance.choice(words) for _ in range(count))

    query, documents = text(10), [text(158) for _ in range(100)]  # and two special tokens
    asked = embedder.encode_multivector([query], query=True, dimensions=128)[0]
    stored = embedder.encode_multivector(documents, dimensions=128, dtype="int8")
    whole = embedder.encode_multivector([query], query=True)[0]
    floats = embedder.encode_multivector(documents, dtype="float16")
    cases: list[tuple[str, Callable[[], Any]]] = [
        (
            "20 documents of 160 tokens, from text",
            lambda: embedder.rerank(query, documents[:20], spans=False),
        ),
        ("20, from stored int8 vectors of 128 dimensions", lambda: maxsim(asked, stored[:20])),
        ("100, from stored int8 vectors of 128 dimensions", lambda: maxsim(asked, stored)),
        ("100, from stored float16 vectors of all dimensions", lambda: maxsim(whole, floats)),
    ]
    rows = []
    for name, run in cases:
        run()
        times = []
        for _ in range(5 * rounds):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        rows.append([name, f"{1000 * float(np.median(times)):.1f} ms", f"{1000 * min(times):.1f} ms"])
    rows.append(
        ["bytes a document, int8 / float16", f"{stored[0].vectors.nbytes:,}", f"{floats[0].vectors.nbytes:,}"]
    )
    return Table("What it costs", ["a query of 12 tokens", "median", "least"], rows)


def _formula(embedder: Embedder, queries: int) -> Table:
    columns: list[
        list[tuple[int, NDArray[np.intp], NDArray[np.float64], Multivector, list[Multivector]]]
    ] = []
    names = []
    for name in PASSAGES:
        pairs = _pairs(SHARED / "data" / "text" / f"{name}.txt.xz")[: 5 * queries]
        stored = embedder.encode_multivector([rest for _, rest in pairs], dtype="float16")
        means = np.stack([each.pooled for each in stored])
        for short in (False, True):
            first = [_rarest(sentence, embedder) if short else sentence for sentence, _ in pairs[:queries]]
            asked = embedder.encode_multivector(first, query=True)
            found = []
            for number, query in enumerate(asked):
                cosines = (means @ query.pooled).astype(np.float64)
                best = np.argsort(-cosines, kind="stable")[:FIRST_STAGE]
                found.append((number, best, cosines[best], query, [stored[index] for index in best]))
            columns.append(found)
            names.append(name.partition("_")[0] + (", words" if short else ""))
    rows = []
    for power in POWERS:
        values = [[(*case[:3], _sums(case[3], case[4], power)) for case in column] for column in columns]
        for share in SHARES:
            scores = [
                100
                * float(
                    np.mean(
                        [
                            _gain(number, best, sums + share * cosines)
                            for number, best, cosines, sums in column
                        ]
                    )
                )
                for column in values
            ]
            rows.append(
                [
                    f"IDF^{power:g} + {share:g} cosine",
                    *(f"{score:.1f}" for score in (*scores, np.mean(scores))),
                ]
            )
    return Table("nDCG@10 on held-out passages", ["score", *names, "mean"], rows)


def _sums(query: Multivector, documents: list[Multivector], power: float) -> NDArray[np.float64]:
    weighed = query._replace(weights=query.weights**power if power else (~query.special).astype(np.float32))
    return maxsim(weighed, [document.vectors.astype(np.float32) for document in documents]).astype(np.float64)


def _gain(number: int, best: NDArray[np.intp], scores: NDArray[np.float64]) -> float:
    place = np.flatnonzero(best[np.argsort(-scores, kind="stable")] == number)
    return 1 / np.log2(2 + place[0]) if len(place) and place[0] < retrieval.FIRST else 0.0


def _pairs(file: Path) -> list[tuple[str, str]]:
    lines = lzma.decompress(file.read_bytes()).decode("utf-8").split("\n")
    pairs = []
    for line in lines:
        sentences = SENTENCE.split(line.strip())
        if 500 <= len(line) <= 1600 and len(sentences) >= 3 and 40 <= len(sentences[0]) <= 220:
            pairs.append((sentences[0], " ".join(sentences[1:])))
    random.Random(7).shuffle(pairs)
    return pairs


def _rarest(sentence: str, embedder: Embedder) -> str:
    words = list(dict.fromkeys(re.findall(r"[A-Za-z][A-Za-z-]{2,}", sentence)))
    rarity = {}
    for word, own in zip(words, embedder.encode_multivector(words, query=True), strict=True):
        rarity[word] = float(own.weights.max())
    kept = sorted(words, key=lambda word: -rarity[word])[:4]
    return " ".join(word for word in words if word in kept)
