"""Retrieval of whole documents: which story, or which meeting, is a question about?

``stories``: 55 stories of 5,000 to 12,600 words from five books of Doyle, Chesterton and Kipling, and three questions
or one-sentence summaries for each, written for this benchmark (stories.toml) so that they say what happens and not how
the text words it. ``meetings``: the 35 transcripts of QMSum's test set (arXiv 2104.05938, 2,500 to 25,200 words) and
its questions about parts of them.

Our model reads the first 256, 512, 2,048 and 8,192 tokens into one vector. MiniLM reads 256 tokens, or the first 8,192
in passages of 256, whose vectors are averaged, or of which the best counts: 32 vectors a document instead of one.
TF-IDF of all words says how much the questions' words give away.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
import tomllib
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime import Embedder
from tests.bench import minilm, retrieval, sources
from tests.bench.environments import CACHE
from tests.bench.report import Chart, Result, Table, figure
from tests.bench.settings import Settings, SettingsError

__all__ = ["LENGTHS", "SETS", "Collection", "documents", "load", "meetings", "passages", "stories", "tf_idf"]

LENGTHS = (256, 512, 2048, 8192)
PASSAGE_TOKENS = 256
PEERS = CACHE / "documents"  # MiniLM's vectors, which change with nothing here
OURS, MINILM, WORDS = "ours", "minilm", "tf-idf"
QUESTIONS = Path(__file__).with_name("stories.toml")
WORD = re.compile(r"[a-z0-9]+")


class Collection(NamedTuple):
    """Documents, and questions of which each is about one of them or a few."""

    documents: list[str]
    queries: list[str]
    relevant: list[dict[int, float]]


def stories(folder: Path = sources.DATA) -> Collection:
    """Load the stories.

    :param folder: see sources.read.
    :return: the stories without their headings, and the questions of stories.toml.
    :raises sources.SourceError: a book was not fetched.
    """
    found = Collection([], [], [])
    for book in tomllib.loads(QUESTIONS.read_text(encoding="utf-8"))["books"]:
        text = sources.read(book["title"], folder).split("\nEnd of ")[0]
        headings = list(re.finditer(book["heading"], text, flags=re.MULTILINE))
        ends = [heading.start() for heading in headings[1:]] + [len(text)]
        parts = {
            heading[1]: text[heading.end() : end].strip() for heading, end in zip(headings, ends, strict=True)
        }
        for title, questions in book["questions"].items():
            found.queries.extend(questions)
            found.relevant.extend({len(found.documents): 1.0} for _ in questions)
            found.documents.append(parts[title])
    return found


def meetings(folder: Path = sources.DATA) -> Collection:
    """Load the meetings.

    :param folder: see sources.read.
    :return: the transcripts of QMSum's test set, and its questions about parts of a meeting. A question that is asked
        about several meetings is one question with several answers.
    :raises sources.SourceError: it was not fetched.
    """
    texts: list[str] = []
    answers: dict[str, dict[int, float]] = {}
    for number, line in enumerate(filter(None, sources.read("QMSum", folder).split("\n"))):
        meeting = json.loads(line)
        texts.append(
            "\n".join(f"{turn['speaker']}: {turn['content']}" for turn in meeting["meeting_transcripts"])
        )
        for question in meeting["specific_query_list"]:
            answers.setdefault(question["query"], {})[number] = 1.0
    return Collection(texts, list(answers), list(answers.values()))


SETS = {"stories": stories, "meetings": meetings}


def load(name: str, *, quick: bool = False) -> Collection:
    """Load a collection of documents.

    :param name: a key of SETS.
    :param quick: three documents and their questions alone.
    :return: the collection.
    :raises SettingsError: there is no such set, or it was not fetched.
    """
    if name not in SETS:
        raise SettingsError(f"there is no set {name!r}: choose of {', '.join(SETS)}")
    try:
        whole = SETS[name]()
    except sources.SourceError as error:
        raise SettingsError(str(error)) from None
    if not quick:
        return whole
    chosen = [(query, own) for query, own in zip(whole.queries, whole.relevant, strict=True) if min(own) < 3]
    return Collection(
        [text[:2000] for text in whole.documents[:3]],
        [query for query, _ in chosen],
        [{number: 1.0 for number in own if number < 3} for _, own in chosen],
    )


def documents(settings: Settings) -> Result:
    """Measure the sets of settings.cases, or both, with the systems of settings.only, or all.

    :param settings: see there.
    :return: a table, and a plot for each set.
    :raises SettingsError: there is no such set, or it was not fetched.
    """
    result = Result("documents")
    for name in [name for name in SETS if not settings.cases or name in settings.cases] or settings.cases:
        collection = load(name, quick=settings.quick)
        rows: list[tuple[str, dict[str, float], float]] = []
        chosen = settings.chosen((OURS, MINILM, WORDS))
        if OURS in chosen:
            rows += _ours(settings, collection)
        if MINILM in chosen:
            try:
                rows += _minilm(settings, collection)
            except minilm.PeerMissingError as error:
                result.notes.append(f"without all-MiniLM-L6-v2: {error}")
        if WORDS in chosen:
            start = time.perf_counter()
            figures = retrieval.score(tf_idf(collection.queries, collection.documents), collection.relevant)
            rows.append(("TF-IDF, all words", figures, time.perf_counter() - start))
        title = f"{name}: {len(collection.documents)} documents, {len(collection.queries)} questions"
        cells = [
            [
                what,
                *(f"{100 * figures[key]:.1f}" for key in ("ndcg_at_10", "mrr_at_10")),
                figure(seconds, "s"),
            ]
            for what, figures, seconds in rows
        ]
        result.tables.append(Table(title, ["read", "nDCG@10", "MRR@10", "time"], cells))
        result.charts.append(_chart(title, [(what, figures["ndcg_at_10"]) for what, figures, _ in rows]))
        result.data[name] = {what: figures | {"seconds": seconds} for what, figures, seconds in rows}
    return result


def _chart(title: str, found: list[tuple[str, float]]) -> Chart:
    """A line over the tokens read, and a flat one for each rival."""
    series: dict[str, list[float | None]] = {}
    for what, ndcg in found:
        model, _, tokens = what.partition(", ")
        if tokens.removesuffix(" tokens").replace(",", "").isdecimal():
            series.setdefault(model, []).append(100 * ndcg)
        else:
            series[re.sub(r" of the passages.*", " of passages", what)] = [100 * ndcg] * len(LENGTHS)
    return Chart(
        title, "nDCG@10 x 100", series, LENGTHS, "tokens read", logarithmic=True, linear_y=True, width=6.5
    )


def _ours(settings: Settings, collection: Collection) -> list[tuple[str, dict[str, float], float]]:
    rows = []
    with Embedder(settings.artifacts.model, threads=settings.threads) as embedder:
        asked = embedder.encode(collection.queries)
        for tokens in LENGTHS:
            start = time.perf_counter()
            vectors = embedder.encode(collection.documents, max_length=tokens)
            seconds = time.perf_counter() - start
            figures = retrieval.score(asked @ vectors.T, collection.relevant)
            rows.append((f"{embedder.manifest.name}, {tokens:,} tokens", figures, seconds))
            print(
                f"{rows[-1][0]}: {100 * figures['ndcg_at_10']:.1f} in {seconds:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    return rows


def _minilm(settings: Settings, collection: Collection) -> list[tuple[str, dict[str, float], float]]:
    model = minilm.load_minilm(settings.threads)
    asked = model.encode(collection.queries)
    vectors, of_document, seconds = _remembered(model, collection.documents)
    similarity = asked @ vectors.T
    first = np.flatnonzero(np.diff(of_document, prepend=-1))
    means = np.add.reduceat(vectors, first, axis=0)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    best = np.maximum.reduceat(similarity, first, axis=1)
    ways = {
        f"cut at {PASSAGE_TOKENS} tokens": (similarity[:, first], seconds * len(first) / len(vectors)),
        f"mean of the passages of {LENGTHS[-1]:,} tokens": (asked @ means.T, seconds),
        f"best of the passages of {LENGTHS[-1]:,} tokens": (best, seconds),
    }
    return [
        (f"all-MiniLM-L6-v2, {way}", retrieval.score(scores, collection.relevant), spent)
        for way, (scores, spent) in ways.items()
    ]


def passages(ids: list[int], limit: int) -> list[list[int]]:
    """Cut a document into passages.

    :param ids: of a document, [CLS] and [SEP] included.
    :param limit: tokens of it that are read.
    :return: ids of passages of PASSAGE_TOKENS, each between [CLS] and [SEP].
    """
    inner, step = ids[1:-1][: limit - 2], PASSAGE_TOKENS - 2
    return [[ids[0], *inner[start : start + step], ids[-1]] for start in range(0, max(1, len(inner)), step)]


def _remembered(
    model: minilm.MiniLM, texts: list[str]
) -> tuple[NDArray[np.float32], NDArray[np.int64], float]:
    """Vectors of all passages, the document of each, and the seconds it took when it was measured."""
    digest = hashlib.sha256(f"{minilm.SHA256} {version('onnxruntime')} {LENGTHS[-1]}".encode())
    for text in texts:
        digest.update(text.encode())
    file = PEERS / f"{digest.hexdigest()[:32]}.npz"
    if not file.exists():
        start = time.perf_counter()
        parts = [passages(model.tokenizer.encode(text), LENGTHS[-1]) for text in texts]
        vectors = model.encode_tokens([part for own in parts for part in own])
        of_document = np.repeat(np.arange(len(parts)), [len(own) for own in parts])
        PEERS.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".part.npz")
        np.savez(partial, vectors=vectors, of_document=of_document, seconds=time.perf_counter() - start)
        partial.replace(file)
    with np.load(file) as known:
        return known["vectors"], known["of_document"], float(known["seconds"])


def tf_idf(queries: list[str], texts: list[str]) -> NDArray[np.float64]:
    """Cosine of (1 + log tf) · log((1 + N) / (1 + df)) over lower-case words.

    :param queries: any number.
    :param texts: N documents, which decide the document frequencies.
    :return: float64 [queries, texts].
    """
    counts = [Counter(WORD.findall(text.lower())) for text in (*texts, *queries)]
    frequency = Counter(word for count in counts[: len(texts)] for word in count)
    place = {word: number for number, word in enumerate(frequency)}
    idf = np.log((1 + len(texts)) / (1 + np.array(list(frequency.values()))))
    rows = np.zeros((len(counts), len(place)))
    for row, count in zip(rows, counts, strict=True):
        for word, times in count.items():
            if word in place:
                row[place[word]] = (1 + np.log(times)) * idf[place[word]]
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    result: NDArray[np.float64] = rows[len(texts) :] @ rows[: len(texts)].T
    return result
