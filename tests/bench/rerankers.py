"""A cross-encoder beside fastembed's TextCrossEncoder and sentence-transformers' CrossEncoder, on the same weights: a
seeded checkpoint in the shape of jina-reranker-v1-tiny-en. And what `Embedder.rerank` takes for long documents."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

import numpy as np

from runtime.manifest import VOCABULARY
from runtime.reranker import Reranker
from runtime.tokenization.wordpiece import WordPiece
from tests.bench import corpora, retrieval
from tests.bench.environments import python_of
from tests.bench.harness import Worker, WorkerError, interleave
from tests.bench.report import Result, Table, figure
from tests.bench.reranker_files import files
from tests.bench.settings import Settings, SettingsError

__all__ = ["rerankers"]

# Name -> which of RANKERS, in which environment, with which of the files
PEERS = {
    "ours int8": ("rank-ours", "plain"),
    "ours fp32": ("rank-ours", "plain"),
    "fastembed int8": ("rank-fastembed", "fastembed"),
    "fastembed fp32": ("rank-fastembed", "fastembed"),
    "sentence-transformers onnx int8": ("rank-sentence-transformers", "here"),
    "sentence-transformers onnx fp32": ("rank-sentence-transformers", "here"),
    "sentence-transformers torch fp32": ("rank-sentence-transformers", "here"),
}
CASES = {"1": 1, "20": 20, "100": 100}  # name -> paragraphs of XQuAD that are ranked for a question
MOST_TOKENS = 256  # of a paragraph: 64 of 1,200 tokens, padded, would take fastembed's scores 40 GB
LATE = "late-8192"  # documents of 8,192 tokens for Embedder.rerank
LATE_DOCUMENTS, LATE_TOKENS = 2, 8192
LEAST = {"int8": 0.9, "fp32": 0.9999}  # correlation of scores with those of torch


def rerankers(settings: Settings) -> Result:
    """Measure the cases of settings.cases and the peers of settings.only, or all.

    :param settings: see there; the model is that of the case LATE.
    :return: tables.
    :raises SettingsError: there is no such case, or ../shared is missing.
    """
    if unknown := sorted(settings.cases - {*CASES, LATE}):
        raise SettingsError(f"there is no case {unknown[0]!r}: choose of {', '.join([*CASES, LATE])}")
    if not retrieval.FOLDER.is_dir():
        raise SettingsError(f"{retrieval.FOLDER} does not exist: rerankers needs the sets there")
    result = Result("rerankers")
    if cases := [name for name in CASES if not settings.cases or name in settings.cases]:
        _cross_encoders(result, settings, cases)
    if not settings.cases or LATE in settings.cases:
        result.tables.append(_late(result, settings))
    return result


def _cross_encoders(result: Result, settings: Settings, cases: list[str]) -> None:
    documents, queries, _ = retrieval.load(retrieval.FOLDER / "xquad_en")
    made = files()
    with Reranker(made.ours["int8"]) as reranker:
        counts = {text: reranker.model.tokenizer.count(text) for text in documents}
    documents = [text for text in documents if counts[text] <= MOST_TOKENS]
    peaks: dict[str, int] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name in settings.chosen(PEERS):
            kind, environment = PEERS[name]
            precision = name.rpartition(" ")[2]
            options: dict[str, Any] = {"threads": settings.threads}
            if kind == "rank-ours":
                options["model"] = str(made.ours[precision])
            elif "torch" in name:
                options["folder"] = str(made.torch)
            else:
                graph = "model.onnx" if precision == "fp32" else "model_int8.onnx"
                options |= {"folder": str(made.onnx), "file": graph}
            try:
                worker = Worker(name, python_of(environment), kind, options)
            except (OSError, WorkerError) as error:
                result.notes.append(f"left out: {name}: {error}")
                continue
            workers[name] = stack.enter_context(worker)
            about = ", ".join(f"{key} {value}" for key, value in worker.loaded["about"].items())
            result.notes.append(f"{name}: {about}")
        rows = []
        for case in cases:
            texts = [queries[0], *documents[: CASES[case]]]
            file = corpora.save(texts, settings.folder / f"rank-{case}.json")
            for worker in workers.values():
                worker.ask("texts", file=file)
            agreement = _check(workers, settings)
            request = {"do": "time", "what": "encode", "seconds": 0.0 if settings.quick else 0.5}
            timings = interleave(
                {name: (worker, request) for name, worker in workers.items()}, rounds=settings.rounds
            )
            result.data[case] = {name: timing.document() for name, timing in timings.items()}
            for name, timing in timings.items():
                peaks[name] = worker_peak = workers[name].ask("memory")["peak"]
                own = f"ours {name.rpartition(' ')[2]}"
                ratio = timing.median / timings[own].median if own in timings else float("nan")
                rows.append(
                    [
                        f"{case} documents: {name}",
                        figure(timing.median * 1000, "ms"),
                        f"{ratio:.2f}",
                        figure(worker_peak / 1e6, "MB"),
                        f"{worker_peak / peaks[own]:.1f}" if own in peaks else "",
                        f"{agreement[name]:.4f}" if name in agreement else "",
                        f"{timing.disturbed}/{len(timing.blocks)}",
                    ]
                )
        result.data["peak_bytes"] = peaks
        mean = np.mean([counts[text] for text in documents[: max(CASES[case] for case in cases)]])
        head = [
            f"a question and paragraphs of {mean:.0f} tokens",
            "time",
            "time / ours of that precision",
            "peak memory",
            "peak / ours",
            "correlation with torch",
            "disturbed",
        ]
        result.tables.append(Table("Cross-encoders", head, rows))


def _check(workers: dict[str, Worker], settings: Settings) -> dict[str, float]:
    """Scores of each beside those of torch, or another one in fp32.

    :return: name -> correlation; empty for fewer than three documents.
    :raises AssertionError: a peer computes something else, and its time would mean nothing.
    """
    scores = {}
    for name, worker in workers.items():
        file = settings.folder / "scores.npy"
        worker.ask("vectors", file=str(file))
        scores[name] = np.load(file)[:, 0].astype(np.float64)
    reference = next((scores[name] for name in reversed(scores) if name.endswith("fp32")), None)
    if reference is None or len(reference) < 3:
        return {}
    found = {name: float(np.corrcoef(own, reference)[0, 1]) for name, own in scores.items()}
    for name, correlation in found.items():
        least = LEAST[name.rpartition(" ")[2]]
        assert correlation >= least, f"{name}: correlation {correlation:.4f} with torch, not {least}"
    return found


def _late(result: Result, settings: Settings) -> Table:
    """Peak memory of `Embedder.rerank` by the length of its documents, each length in a new process."""
    model = settings.artifacts.model
    tokenizer = WordPiece.from_file(model / VOCABULARY, lower_case=settings.artifacts.manifest.lower_case)
    rows = []
    for tokens in (512,) if settings.quick else (512, LATE_TOKENS):
        text = corpora.running(tokenizer, tokens)
        texts = [corpora.QUERY, *[text] * LATE_DOCUMENTS]
        file = corpora.save(texts, settings.folder / f"late-{tokens}.json")
        options = {"threads": settings.threads, "model": str(model)}
        with Worker(LATE, python_of("plain"), "rank-late-interaction", options) as worker:
            worker.ask("texts", file=file)
            before = worker.ask("memory")["rss"]
            seconds = worker.ask("time", what="encode")["seconds"]
            peak = worker.ask("memory")["peak"]
        with settings.start("ours", model=str(model)) as worker:
            alone = corpora.save([text], settings.folder / f"one-{tokens}.json")
            worker.ask("texts", file=alone)
            worker.ask("time", what="encode")
            plain = worker.ask("memory")["peak"]
        print(f"{tokens}: {seconds:.2f} s, {peak / 1e6:.0f} MB", file=sys.stderr, flush=True)
        result.data[f"{LATE}, {tokens}"] = {
            "seconds": seconds,
            "before": before,
            "peak": peak,
            "one_vector_peak": plain,
        }
        cells = [figure(seconds, "s"), *(figure(value / 1e6, "MB") for value in (before, peak, plain))]
        rows.append([f"{LATE_DOCUMENTS} of {tokens:,} tokens", *cells])
    head = ["documents", "time", "memory before", "peak memory", "peak of encode on one of them"]
    return Table("Embedder.rerank, the bundled model, spans included", head, rows)
