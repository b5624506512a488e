"""encode outside its session, encode from several threads, and a corpus through the command line."""

from __future__ import annotations

import os
from typing import Any

from tests.bench import corpora
from tests.bench.environments import python_of
from tests.bench.harness import Worker, finish, interleave
from tests.bench.report import Chart, Result, Table, figure
from tests.bench.settings import Settings

__all__ = ["overhead"]

PARTS = ("session", "tokenize", "pool", "pad", "plan", "second session", "rest")
CALLERS = (1, 2, 4)
EACH = 8  # texts in one call
CORPUS_LINES = 100_000


def overhead(settings: Settings) -> Result:
    """Measure all three.

    :param settings: see there; cases are "parts", "callers" and "corpus".
    :return: a table for each.
    """
    result = Result("overhead")
    wanted = settings.cases or {"parts", "callers", "corpus"}
    with settings.start("ours") as worker:
        texts = corpora.stsb()[:: 40 if settings.quick else 1]
        file = corpora.save(texts, settings.folder / "stsb.json")
        if "parts" in wanted:
            _parts(result, worker, file, settings)
        if "callers" in wanted:
            _callers(result, worker, texts, settings)
    if "corpus" in wanted:
        _corpus(result, settings)
    return result


def _parts(result: Result, worker: Worker, file: str, settings: Settings) -> None:
    rows, shares = [], {}
    for title, fresh in (("texts never met", True), ("words met before", False)):
        request = {"do": "parts", "file": file, "rounds": settings.rounds, "fresh": fresh}
        answer = worker.ask(**request)
        parts: dict[str, float] = dict.fromkeys(PARTS, 0.0) | answer["parts"]
        whole = sum(parts[name] for name in PARTS)
        shares[title] = 1 - parts["session"] / whole
        rows += [
            [f"{title}: {name}", figure(parts[name] * 1000, "ms"), f"{parts[name] / whole:.1%}"]
            for name in PARTS
        ]
        result.data[f"parts, {title}"] = answer
    result.tables.append(Table("STS-B in one encode, by part", ["part", "time", "share"], rows))
    found = [
        [f"outside the session, {title}", "at most 5 %", f"{share:.1%}"] for title, share in shares.items()
    ]
    result.tables.append(Table("Targets", ["share of the time", "target", "found"], found))


def _callers(result: Result, worker: Worker, texts: list[str], settings: Settings) -> None:
    """The same calls from one, two and four threads of one process, which share one Embedder."""
    file = corpora.save(texts[: len(texts) // 3], settings.folder / "callers.json")
    jobs: dict[str, tuple[Worker, dict[str, Any]]] = {
        str(count): (worker, {"do": "callers", "file": file, "callers": count, "each": EACH})
        for count in CALLERS
    }
    timings = interleave(jobs, rounds=settings.rounds)
    one = timings["1"].median
    rows = [
        [f"{count} threads", figure(timing.median, "s"), f"{one / timing.median:.2f}"]
        for count, timing in timings.items()
    ]
    title = f"encode calls of {EACH} texts from several threads, one Embedder"
    result.tables.append(Table(title, ["callers", "time", "times the speed of one"], rows))
    result.data["callers"] = {count: timing.document() for count, timing in timings.items()}
    speeds: list[float | None] = [one / timing.median for timing in timings.values()]
    result.charts.append(
        Chart("callers", "times the speed of one", {"encode": speeds}, list(timings), bars=True)
    )


def _corpus(result: Result, settings: Settings) -> None:
    """Lines of English through `python -m runtime.embed --input`."""
    count = 200 if settings.quick else CORPUS_LINES
    lines = [line[:200] for line, _ in zip(corpora.english(), range(count), strict=False)]
    source, target = settings.folder / "corpus.txt", settings.folder / "corpus.npy"
    source.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    command = [python_of("plain"), "-m", "runtime.embed", "--model", str(settings.artifacts.model)]
    command += ["--input", str(source), "--output", str(target), "--format", "npy", "--force"]
    ended = finish(command, settings.threads)
    busy = ended.cpu_seconds / ended.seconds / len(os.sched_getaffinity(0))
    rows = [
        ["time", figure(ended.seconds, "s")],
        ["lines a second", figure(len(lines) / ended.seconds)],
        ["CPU cores busy", f"{busy:.1%}"],
        ["peak memory", figure(ended.peak_bytes / 1e6, "MB")],
    ]
    result.tables.append(Table(f"{len(lines):,} lines through the command line", ["", "found"], rows))
    result.data["corpus"] = {"lines": len(lines), "busy": busy, **vars(ended)}
