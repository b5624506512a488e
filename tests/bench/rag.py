"""Retrieval for a generating model, end to end: split, embed, store in a vector database, ask.

Each corpus is stored three ways: whole documents, their chunks embedded one by one, and the same chunks with late
chunking. Whatever is retrieved counts as found if the document that it is, or is a chunk of, answers the query. So ten
results are ten documents or ten chunks: what a generating model would be given to read, whose tokens are in the table.

Beside them stand BM25, the hybrid of it and cosine, and the 30 best by cosine ordered anew by token vectors
(searching.py); the time of the last is that of its token vectors.

XQuAD took five paragraphs of each of 48 articles, one after the other. A document is a paragraph here, as its
judgements want it, and late chunking reads the five of an article in one pass. CISI's documents are abstracts, each on
its own. The meetings are the shortest of QMSum's test set (tests/bench/sources.py), where people say "it" and "that" of
what was named minutes ago: a document is some turns in a row of at least SEGMENT_WORDS, late chunking reads a whole
meeting in one pass, and what answers a question is every document with a turn that QMSum's annotators marked for it.

Where the environment variable JINABERT_BENCH_POSTGRES holds the address of a PostgreSQL with pgvector
("postgresql://user@host/database"), the vectors are stored and asked for there too, and both must find the same.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime import Embedder
from runtime.chunking import find_spans
from tests.bench import minilm, searching, sources, stores
from tests.bench.report import Chart, Result, Table, figure
from tests.bench.settings import Settings
from tests.paths import SHARED

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Corpus", "Scores", "best", "judge", "load", "rag"]

CORPORA = {"xquad_en": 5, "cisi": 1}  # name -> documents in a row that late chunking reads in one pass
MEETINGS = "meetings"
SHORTEST = 12  # meetings
SEGMENT_WORDS = 150
CHUNK_TOKENS = 64
CUTOFFS = (1, 5, 10)
PLAIN, LATE, WHOLE = "plain chunks", "late chunks", "whole documents"
OURS, MINILM = "ours", "minilm"
POSTGRES = "JINABERT_BENCH_POSTGRES"
NEEDED = {
    "bm25s": "bm25s",
    "qdrant_client": "qdrant-client",
    "langchain_text_splitters": "langchain-text-splitters",
}
NEEDED_FOR_POSTGRES = {"psycopg": '"psycopg[binary]"', "pgvector": "pgvector"}
QUICK = 20  # documents


@dataclass
class Corpus:
    """Documents, what is asked, and which documents answer."""

    documents: list[str]
    queries: list[str]
    answers: list[set[int]]  # for each query, numbers of documents
    groups: list[int]  # how many documents in a row belong together


@dataclass
class Scores:
    """How well one way of storing a corpus answers its queries."""

    hit: dict[int, float]  # cutoff -> share of queries with an answer among so many results
    mrr: dict[int, float]  # cutoff -> mean of 1 / rank of the first answer, 0 where it is not among them
    error: float  # standard error of the last hit rate


def load(name: str, quick: bool = False) -> Corpus:
    """Read a corpus in BEIR form, or the meetings.

    :param name: folder in ../shared/data/retrieval, or MEETINGS.
    :param quick: the first documents alone.
    :return: it; queries that no document answers are left out.
    :raises sources.SourceError: the meetings were not fetched.
    """
    if name == MEETINGS:
        return meetings(1 if quick else SHORTEST)
    folder = SHARED / "data" / "retrieval" / name
    documents, queries = (
        [json.loads(line) for line in (folder / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()]
        for part in ("corpus", "queries")
    )
    documents = documents[:QUICK] if quick else documents
    place = {document["_id"]: number for number, document in enumerate(documents)}
    answers: dict[str, set[int]] = {}
    for row in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, score = row.split("\t")
        if int(score) > 0 and document in place:
            answers.setdefault(query, set()).add(place[document])
    asked = [query for query in queries if query["_id"] in answers]
    return Corpus(
        [" ".join(filter(None, (document.get("title"), document["text"]))) for document in documents],
        [query["text"] for query in asked],
        [answers[query["_id"]] for query in asked],
        _groups(len(documents), CORPORA[name]),
    )


def meetings(count: int, folder: Path = sources.DATA) -> Corpus:
    """
    :param count: of the shortest meetings.
    :param folder: see sources.read.
    :return: their turns in documents, and the questions about parts of them.
    :raises sources.SourceError: they were not fetched.
    """
    found = Corpus([], [], [], [])
    every = [json.loads(line) for line in sources.read("QMSum", folder).split("\n") if line]
    for meeting in sorted(every, key=lambda meeting: len(str(meeting["meeting_transcripts"])))[:count]:
        first, of_turn, words = len(found.documents), [], 0
        lines: list[str] = []
        turns = meeting["meeting_transcripts"]
        for number, turn in enumerate(turns):
            lines.append(f"{turn['speaker']}: {turn['content']}")
            words += len(lines[-1].split())
            of_turn.append(len(found.documents))
            if words >= SEGMENT_WORDS or number == len(turns) - 1:
                found.documents.append("\n".join(lines))
                lines, words = [], 0
        found.groups.append(len(found.documents) - first)
        for question in meeting["specific_query_list"]:
            spans = [range(int(start), int(end) + 1) for start, end in question["relevant_text_span"]]
            found.queries.append(question["query"])
            found.answers.append({of_turn[turn] for span in spans for turn in span if turn < len(of_turn)})
    return found


def _groups(documents: int, size: int) -> list[int]:
    """Groups of a size, and what is left."""
    whole, left = divmod(documents, size)
    return [size] * whole + [left] * bool(left)


def split(embedder: Embedder, documents: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Chunks of at most CHUNK_TOKENS tokens, at the ends of sentences where possible.

    :param embedder: counts the tokens; MiniLM's are the same.
    :param documents: to split.
    :return: for each document the spans of its chunks, in characters.
    """
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    splitter = RecursiveCharacterTextSplitter(
        chunk_size=CHUNK_TOKENS,
        chunk_overlap=0,
        length_function=lambda text: embedder.count_tokens(text) - 2,
        separators=["\n\n", "\n", ". ", "? ", "! ", "; ", ", ", " ", ""],
        keep_separator="end",
    )
    return [find_spans(document, splitter.split_text(document)) for document in documents]


def late(embedder: Embedder, corpus: Corpus, spans: list[list[tuple[int, int]]]) -> NDArray[np.float32]:
    """Embed chunks with late chunking.

    :param embedder: the model.
    :param corpus: whose documents are read in one pass with those they belong to.
    :param spans: of each document's chunks.
    :return: [chunks, D] in the order of documents and spans.
    """
    vectors = []
    ends = list(accumulate(corpus.groups))
    for first, end in zip([0, *ends], ends, strict=False):
        text, moved = "", []
        for number in range(first, end):
            moved += [(start + len(text), end + len(text)) for start, end in spans[number]]
            text += corpus.documents[number] + "\n\n"
        vectors += [chunk.vector for chunk in embedder.encode_chunks(text, spans=moved)]
    return np.array(vectors)


def judge(found: NDArray[np.int64], documents: NDArray[np.int64], answers: Sequence[set[int]]) -> Scores:
    """Score the answers to queries.

    :param found: [queries, 10] numbers of vectors, best first; -1 for none.
    :param documents: the document of each vector.
    :param answers: for each query, the documents that answer it.
    :return: hit rates and mean reciprocal ranks.
    """
    right = np.array(
        [
            [n >= 0 and int(documents[n]) in wanted for n in row]
            for row, wanted in zip(found, answers, strict=True)
        ]
    )
    hits = {k: right[:, :k].any(axis=1) for k in CUTOFFS}
    ranks = 1 + right.argmax(axis=1)
    last = hits[CUTOFFS[-1]]
    return Scores(
        {k: float(hit.mean()) for k, hit in hits.items()},
        {k: float(np.where(hit, 1 / ranks, 0).mean()) for k, hit in hits.items()},
        float(np.sqrt(last.mean() * (1 - last.mean()) / len(last))),
    )


def best(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the numbers of the best texts for each query.

    :param scores: [queries, texts].
    :return: [queries, 10], best first; -1 where there are too few texts.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, : CUTOFFS[-1]]
    return np.pad(order, ((0, 0), (0, CUTOFFS[-1] - order.shape[1])), constant_values=-1)


def rag(settings: Settings) -> Result:
    """Measure both corpora, or those named in settings.cases, with both models, or those in settings.only.

    :param settings: see there.
    :return: a table and a chart for each corpus.
    """
    needed = NEEDED | (NEEDED_FOR_POSTGRES if POSTGRES in os.environ else {})
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        sys.stderr.write(f"python -m tests.bench rag: not installed: pip install {' '.join(missing)}\n")
        raise SystemExit(2)
    result = Result("rag")
    chosen = settings.chosen([OURS, MINILM])
    peer = None
    if MINILM in chosen:
        try:
            peer = minilm.load_minilm(settings.threads)
        except minilm.PeerMissingError as error:
            result.notes.append(f"without all-MiniLM-L6-v2: {error}")
    with Embedder(settings.artifacts.model, threads=settings.threads) as embedder:
        names = {OURS: embedder.manifest.name, MINILM: "all-MiniLM-L6-v2 int8"}
        for name in (name for name in (*CORPORA, MEETINGS) if not settings.cases or name in settings.cases):
            try:
                corpus = load(name, settings.quick)
            except sources.SourceError as error:
                result.notes.append(f"not measured: {name}: {error}")
                continue
            models = {
                key: model for key, model in ((OURS, embedder), (MINILM, peer)) if model and key in chosen
            }
            measure(result, name, corpus, embedder, models, names)
    if POSTGRES not in os.environ:
        result.notes.append(f"PostgreSQL with pgvector not asked: {POSTGRES} holds no address")
    return result


def measure(
    result: Result,
    name: str,
    corpus: Corpus,
    embedder: Embedder,
    models: dict[str, Any],
    names: dict[str, str],
) -> None:
    """Add what one corpus gives to the result.

    :param result: gets a table, a chart, data and notes.
    :param name: of the corpus.
    :param corpus: see there.
    :param embedder: our model, which also counts tokens.
    :param models: key -> what has an encode(texts) and an encode_multivector(texts).
    :param names: key -> name for the table.
    """
    spans = split(embedder, corpus.documents)
    chunks = [doc[start:end] for doc, own in zip(corpus.documents, spans, strict=True) for start, end in own]
    stored = {
        WHOLE: (corpus.documents, np.arange(len(corpus.documents))),
        PLAIN: (chunks, np.repeat(np.arange(len(spans)), [len(own) for own in spans])),
    }
    stored[LATE] = stored[PLAIN]
    rows: list[list[str]] = []
    series: dict[str, list[float | None]] = {}

    def add(title: str, way: str, found: NDArray[np.int64], more: dict[str, Any]) -> None:
        """A row of the table."""
        texts, documents = stored[way]
        scores = judge(found, documents, corpus.answers)
        tokens = float(np.mean(embedder.count_tokens(texts))) - 2
        cells = [f"{100 * part[k]:.1f}" for part in (scores.hit, scores.mrr) for k in CUTOFFS]
        seconds = more.get("embed_seconds")
        rows.append([title, *cells, f"{tokens:.0f}", figure(seconds, "s") if seconds is not None else ""])
        if way != PLAIN:
            series[title] = [100 * scores.hit[k] for k in CUTOFFS]
        result.data[f"{name}, {title}"] = {
            "hit": scores.hit,
            "mrr": scores.mrr,
            "standard_error": scores.error,
            "vectors": len(texts),
            "tokens_a_result": tokens,
            **more,
        }

    words = {way: searching.bm25(stored[way][0], corpus.queries) for way in (WHOLE, PLAIN)}
    for way, scores in words.items():
        add(f"BM25, {way}", way, best(scores), {})
    for key, model in models.items():
        embed: dict[str, Callable[[], NDArray[np.float32]]] = {
            WHOLE: lambda model=model: model.encode(corpus.documents),  # type: ignore[misc]
            PLAIN: lambda model=model: model.encode(chunks),  # type: ignore[misc]
        }
        if key == OURS:
            embed[LATE] = lambda: late(embedder, corpus, spans)
        asked = model.encode(corpus.queries)
        for way, work in embed.items():
            start = time.perf_counter()
            vectors = work()
            more: dict[str, Any] = {"embed_seconds": time.perf_counter() - start}
            found = stores.qdrant(vectors, asked, CUTOFFS[-1])
            more["qdrant_query_ms"] = 1000 * found.seconds
            title = f"{names[key]}, {way}"
            if POSTGRES in os.environ:
                other = stores.postgres(os.environ[POSTGRES], vectors, asked, CUTOFFS[-1])
                if not np.allclose(found.scores, other.scores, atol=1e-5):
                    raise ValueError(f"{name}, {title}: Qdrant and PostgreSQL find different vectors")
                same = float(np.mean(found.numbers == other.numbers))
                more |= {"postgres_query_ms": 1000 * other.seconds, "postgres_same": same}
            add(title, way, found.numbers, more)
            if way == LATE:
                continue
            cosines = asked.astype(np.float64) @ vectors.T.astype(np.float64)
            add(f"{title}, hybrid", way, best(searching.hybrid(cosines, words[way])), {})
            start = time.perf_counter()
            texts = model.encode_multivector(stored[way][0])
            seconds = time.perf_counter() - start
            again = searching.reranked(cosines, model.encode_multivector(corpus.queries, query=True), texts)
            add(f"{title}, reranked", way, best(again), {"embed_seconds": seconds})
    head = [
        "stored",
        *(f"{what}@{k}" for what in ("hit", "MRR") for k in CUTOFFS),
        "tokens a result",
        "embedding",
    ]
    sizes = f"{len(corpus.documents):,} documents, {len(chunks):,} chunks, {len(corpus.queries):,} queries"
    title = f"{name}: {sizes}; %"
    result.tables.append(Table(title, head, rows))
    result.charts.append(
        Chart(name, "queries answered, %", series, [f"first {k}" for k in CUTOFFS], bars=True)
    )
    errors = [data["standard_error"] for key, data in result.data.items() if key.startswith(f"{name}, ")]
    result.notes.append(f"{name}: standard error of hit@{CUTOFFS[-1]} up to {100 * max(errors):.1f} points")
