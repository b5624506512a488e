"""Reranking by token vectors: what it finds beside cosine, BM25 and both together, and what it costs.

The first stage are the 30 documents that cosine (or the hybrid, searching.py) ranks best. `--case formula` prints the
table that the score's two constants were chosen by, on held-out passages of the training text: a sentence, or its four
rarest words, ask for the rest of the paragraph that it begins.
"""

from __future__ import annotations

import lzma
import random
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime import Embedder, Multivector, maxsim
from runtime.multivector import inverse_document_frequencies
from tests.bench import minilm, retrieval, searching
from tests.bench.report import Result, Table
from tests.bench.settings import Settings, SettingsError
from tests.paths import SHARED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.bench.minilm import MiniLM

__all__ = ["rerank"]

SETS = ("xquad_en", "cranfield", "cisi", "passkey_1024")
CASES = (*SETS, "costs", "formula")
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
    if set(wanted) & set(SETS):
        searching.need_bm25s()
    result = Result("rerank")
    peer = None
    if set(wanted) & set(SETS):
        try:
            peer = minilm.load_minilm(settings.threads)
        except minilm.PeerMissingError as error:
            result.notes.append(f"without all-MiniLM-L6-v2: {error}")
    with Embedder(settings.artifacts.model, threads=settings.threads) as embedder:
        if names := [name for name in wanted if name in SETS]:
            result.tables.append(_quality(embedder, peer, names, 20 if settings.quick else None, result.data))
        if "costs" in wanted:
            result.tables.append(_costs(embedder, settings.rounds))
        if "formula" in wanted:
            result.tables.append(_formula(embedder, 20 if settings.quick else 300))
    return result


def _quality(
    embedder: Embedder, peer: MiniLM | None, names: Sequence[str], limit: int | None, data: dict[str, Any]
) -> Table:
    rows = []
    for name in names:
        documents, queries, relevant = retrieval.load(retrieval.FOLDER / name)
        queries, relevant = queries[:limit], relevant[:limit]
        every = len(documents) if name.startswith("passkey") else searching.FIRST_STAGE
        words = searching.bm25(documents, queries)
        models: dict[str, Embedder | MiniLM] = {"": embedder} | ({", MiniLM": peer} if peer else {})
        for who, model in models.items():
            start = time.perf_counter()
            asked = model.encode_multivector(queries, query=True)
            stored = model.encode_multivector(documents)
            cosines = _pooled(asked) @ _pooled(stored).T
            hybrid = searching.hybrid(cosines, words)
            weights = inverse_document_frequencies((each.ids for each in stored), len(embedder.tokenizer))
            own = [
                query._replace(weights=np.where(query.special, np.float32(0), weights[query.ids]))
                for query in asked
            ]
            again = searching.reranked(cosines, asked, stored, every)
            columns: dict[str, NDArray[np.float64] | None] = {
                "cosine": cosines,
                "BM25": words,
                "hybrid": hybrid,
                "cosine, reranked": again,
                # Where all are ordered anew, the first search does not matter.
                "hybrid, reranked": again
                if every == len(documents)
                else searching.reranked(hybrid, asked, stored, every),
                "reranked, IDF of the corpus": searching.reranked(cosines, own, stored, every),
                "stored int8": _small(model, queries, documents, cosines, every),
            }
            found = {
                what: _scores(column, relevant) for what, column in columns.items() if column is not None
            }
            data[f"{name}{who}"] = found
            rows.append([f"{name}{who}", *(_cell(found.get(what)) for what in columns)])
            print(f"{name}{who}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return Table("Retrieval, reranked by token vectors", ["nDCG@10 / hit@1 / MRR@10, %", *columns], rows)


def _small(
    model: Embedder | MiniLM,
    queries: Sequence[str],
    documents: Sequence[str],
    cosines: NDArray[np.float64],
    every: int,
) -> NDArray[np.float64] | None:
    """Reranked by int8 vectors of 128 dimensions; None for a model without a rotation."""
    if not isinstance(model, Embedder):
        return None
    asked = model.encode_multivector(queries, query=True, dimensions=128)
    stored = model.encode_multivector(documents, dimensions=128, dtype="int8")
    return searching.reranked(cosines, asked, stored, every)


def _pooled(vectors: Sequence[Multivector]) -> NDArray[np.float64]:
    return np.stack([each.pooled for each in vectors]).astype(np.float64)


def _scores(similarity: NDArray[np.float64], relevant: Sequence[dict[int, float]]) -> dict[str, float]:
    found = retrieval.score(similarity, relevant)
    best = similarity.argmax(axis=1)
    hit = np.mean([int(index) in own for index, own in zip(best, relevant, strict=True)])
    return found | {"hit_at_1": float(hit)}


def _cell(found: dict[str, float] | None) -> str:
    if found is None:
        return "-"
    return " / ".join(f"{100 * found[name]:.1f}" for name in ("ndcg_at_10", "hit_at_1", "mrr_at_10"))


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
                best = np.argsort(-cosines, kind="stable")[: searching.FIRST_STAGE]
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
