"""Retrieval of a pass key hidden in documents of 256 to 8,192 tokens: cut at 512 tokens, and whole."""

from __future__ import annotations

from runtime import Embedder
from tests.bench import retrieval
from tests.bench.report import Chart, Result, Table, figure
from tests.bench.settings import Settings

__all__ = ["passkey"]

TRUNCATED = 512


def passkey(settings: Settings) -> Result:
    """Measure all lengths, or those named in settings.cases.

    :param settings: see there.
    :return: a table and a plot.
    """
    result = Result("passkey")
    lengths = [tokens for tokens in retrieval.LENGTHS if not settings.cases or str(tokens) in settings.cases]
    rows = []
    series: dict[str, list[float | None]] = {f"cut at {TRUNCATED}": [], "whole": []}
    with Embedder(settings.artifacts.model, threads=settings.threads) as embedder:
        for tokens in lengths:
            documents, queries, relevant = retrieval.load(retrieval.FOLDER / f"passkey_{tokens}")
            if settings.quick:
                documents, queries, relevant = documents[:3], queries[:3], relevant[:3]
            asked = embedder.encode(queries)
            cells = [f"{tokens:,}"]
            for name, limit in zip(series, (TRUNCATED, None), strict=True):
                vectors, stats = embedder.encode(documents, max_length=limit, return_stats=True)
                scores = asked @ vectors.T
                ndcg = retrieval.score(scores, relevant)["ndcg_at_10"]
                best = scores.argmax(axis=1)
                hit = sum(int(document) in own for document, own in zip(best, relevant, strict=True))
                hit /= len(queries)
                series[name].append(100 * ndcg)
                cells += [f"{100 * ndcg:.1f}", f"{100 * hit:.0f} %", figure(stats.seconds, "s")]
                result.data[f"{tokens}, {name}"] = {
                    "ndcg_at_10": ndcg,
                    "first": hit,
                    "cut_tokens": stats.cut_tokens,
                    "seconds": stats.seconds,
                }
            rows.append(cells)
    head = ["tokens", *(f"{name}: {what}" for name in series for what in ("nDCG@10", "found first", "time"))]
    result.tables.append(Table("Pass keys: 100 documents and queries for each length", head, rows))
    result.charts.append(
        Chart(
            "pass key retrieval",
            "nDCG@10",
            series,
            [f"{n:,}" for n in lengths],
            "tokens of a document",
            bars=True,
        )
    )
    return result
