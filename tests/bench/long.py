"""One text of 128 to 100,000 tokens, each peer in a process of its own: time and peak memory.

And what long texts do to others: memory afterwards, a long text among short ones, short texts in a graph that could
do long ones.
"""

from __future__ import annotations

import math
import random
import sys
import threading
from pathlib import Path
from typing import Any

from runtime.tokenization.wordpiece import WordPiece
from tests.bench import corpora
from tests.bench.harness import Worker, WorkerError, block, interleave
from tests.bench.report import Chart, Result, Table, figure
from tests.bench.settings import Settings

__all__ = ["long", "run_one"]

PEERS = ("ours", "optimum int8", "optimum fp32", "torch fp32", "openvino static int8", "llama.cpp Q8_0")
LENGTHS = (128, 512, 2048, 4096, 8192, 32768)
FARTHEST = 100_000  # for ours alone
SCORES = 9  # [heads, L, L] in float32 that a plain graph holds at once, measured at 4096 and 8192 tokens
KEEPS_SCORES = ("optimum", "torch", "fastembed")
RESERVE_BYTES = 1 << 30  # left to the machine; a worker that needs more is ended
SHORT = (12, 64, 128, 512)
MIXED_TEXTS = 1000
CASES = ("lengths", "farthest", "mixed", "padding", "short")


def available() -> int:
    """Return bytes that processes may still have."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")


class Guard:
    """Ends a worker before it takes the machine's last memory."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._over = threading.Event()
        self.tripped = False
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            if available() < RESERVE_BYTES:
                self.tripped = True
                self._worker.kill()
                return

    def __enter__(self) -> Guard:
        Path(f"/proc/{self._worker.pid}/oom_score_adj").write_text("1000")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def long(settings: Settings) -> Result:
    """Measure the cases that settings.cases does not leave out.

    :param settings: see there.
    :return: a table for each case.
    """
    tokenizer = WordPiece.from_file(settings.artifacts.model / "vocab.txt")
    result = Result("long")
    cases = [case for case in CASES if not settings.cases or case in settings.cases]
    if "lengths" in cases:
        _lengths(result, tokenizer, settings)
    if "farthest" in cases:
        tokens = 2048 if settings.quick else FARTHEST
        measured = run_one("ours", tokens, corpora.running(tokenizer, tokens), settings)
        result.data["farthest"] = {"tokens": tokens, **measured}
        rows = [[f"{tokens:,}", _time(measured), _memory(measured)]]
        result.tables.append(Table("The longest text, ours alone", ["tokens", "time", "peak memory"], rows))
    if "mixed" in cases:
        _mixed(result, tokenizer, settings)
    if "padding" in cases:
        _padding(result, tokenizer, settings)
    if "short" in cases:
        _short(result, tokenizer, settings)
    return result


def run_one(peer: str, tokens: int, text: str, settings: Settings) -> dict[str, Any]:
    """Time one text in a new process.

    :param peer: see Settings.start.
    :param tokens: of the text.
    :param text: it.
    :param settings: see there.
    :return: "seconds" and "peak" bytes, or "skipped" with the reason.
    """
    heads = settings.artifacts.manifest.heads
    needed = SCORES * heads * tokens * tokens * 4
    if peer.startswith(KEEPS_SCORES) and needed > available() - RESERVE_BYTES:
        return {"skipped": f"would need {needed / 1e9:,.0f} GB"}
    file = corpora.save([text], settings.folder / f"{tokens}.json")
    options = {"max_length": max(8192, tokens)}
    try:
        with settings.start(peer) as worker, Guard(worker) as guard:
            try:
                worker.ask("texts", file=file)
                # The first run pays for the memory's first use, as it does wherever a process makes one vector.
                first = worker.ask("time", what="encode", options=options)
                seconds = first["seconds"]
                if seconds < 20 and not settings.quick:
                    request = {"what": "encode", "options": options, "seconds": 1.0, "most": 20}
                    seconds = block(worker, {"do": "time", **request}).seconds
                return {"first_s": first["seconds"], "seconds": seconds, **worker.ask("memory")}
            except WorkerError:
                if guard.tripped:
                    return {"skipped": "ended: the machine ran out of memory"}
                raise
    except WorkerError as error:
        return {"skipped": str(error)}


def _time(measured: dict[str, Any]) -> str:
    if "skipped" in measured:
        return str(measured["skipped"])
    seconds = measured["seconds"]
    return figure(seconds, "s") if seconds >= 1 else figure(seconds * 1000, "ms")


def _memory(measured: dict[str, Any]) -> str:
    return "" if "skipped" in measured else figure(measured["peak"] / 1e6, "MB")


def _lengths(result: Result, tokenizer: WordPiece, settings: Settings) -> None:
    lengths = LENGTHS[:2] if settings.quick else LENGTHS
    peers = settings.chosen(PEERS)
    measured: dict[str, dict[int, dict[str, Any]]] = {peer: {} for peer in peers}
    for tokens in lengths:
        text = corpora.running(tokenizer, tokens)
        for peer in peers:
            measured[peer][tokens] = run_one(peer, tokens, text, settings)
            print(f"{peer}, {tokens}: {measured[peer][tokens]}", file=sys.stderr, flush=True)
    head = ["tokens", *(f"{peer}: {what}" for peer in peers for what in ("time", "peak"))]
    rows = [
        [
            f"{tokens:,}",
            *(show(measured[peer][tokens]) for peer in peers for show in (_time, _memory)),
        ]
        for tokens in lengths
    ]
    result.tables.append(Table("One text, a process each", head, rows))
    result.data["lengths"] = measured
    rows = []

    def found(peer: str, tokens: int, what: str) -> float | None:
        value: float | None = measured.get(peer, {}).get(tokens, {}).get(what)
        return value

    ours, theirs = (found(peer, 8192, "seconds") for peer in ("ours", "optimum int8"))
    if ours and theirs:
        rows.append(["8,192 tokens: optimum int8 / ours", "at least 3", f"{theirs / ours:.2f}"])
    for tokens, limit in ((8192, 350), (32768, 600)):
        if peak := found("ours", tokens, "peak"):
            rows.append([f"{tokens:,} tokens: peak memory", f"at most {limit} MB", figure(peak / 1e6, "MB")])
    near, far = (found("ours", tokens, "seconds") for tokens in (4096, 32768))
    if near and far:
        exponent = math.log(far / near) / math.log(8)
        rows.append(["4,096 to 32,768 tokens: exponent of time", "below 2", f"{exponent:.2f}"])
    result.tables.append(Table("Targets", ["long texts", "target", "found"], rows))
    for title, what, unit, scale in (("time", "seconds", "s", 1.0), ("peak memory", "peak", "MB", 1e-6)):
        series: dict[str, list[float | None]] = {
            peer: [own[tokens][what] * scale if what in own[tokens] else None for tokens in lengths]
            for peer, own in measured.items()
        }
        result.charts.append(Chart(title, unit, series, list(lengths), "tokens", logarithmic=True))


def _mixed(result: Result, tokenizer: WordPiece, settings: Settings) -> None:
    """Many texts with one of 8,192 tokens among them: what memory they take, and what stays."""
    count, longest = (20, 1500) if settings.quick else (MIXED_TEXTS, 8192)
    texts = corpora.mixed(tokenizer, count - 1, 10, 400)
    far = corpora.running(tokenizer, longest)
    rows = []
    orders = {
        "first": [far, *texts],
        "last": [*texts, far],
        "in the middle": random.Random(5).sample([*texts, far], len(texts) + 1),
    }
    for name, order in orders.items():
        with settings.start("ours") as worker:
            worker.ask("texts", file=corpora.save(texts[:32], settings.folder / "some.json"))
            worker.ask("time", what="encode")
            before = worker.ask("memory", reset=True)["rss"]
            worker.ask("texts", file=corpora.save(order, settings.folder / "order.json"))
            seconds = worker.ask("time", what="encode")["seconds"]
            after = worker.ask("memory")
        values = [before, after["peak"], after["rss"], after["rss"] - before]
        rows.append([name, figure(seconds, "s"), *(figure(value / 1e6, "MB") for value in values)])
        result.data[f"mixed, {name}"] = {"before": before, "seconds": seconds, **after}
    head = ["the long text comes", "time", "before", "peak", "after", "more than before"]
    title = f"{count:,} texts of 10 to 400 tokens and one of {longest:,} (targets: peak 450 MB, 60 MB more)"
    result.tables.append(Table(title, head, rows))


def _padding(result: Result, tokenizer: WordPiece, settings: Settings) -> None:
    """255 short texts and a long one in one call, against two calls."""
    short = corpora.mixed(tokenizer, 31 if settings.quick else 255, 8, 60)
    rows = []
    with settings.start("ours") as worker:
        for tokens in (512, 2048):
            far = corpora.running(tokenizer, tokens)
            parts = {"together": [*short, far], "short": short, "long": [far]}
            jobs = {}
            for name, texts in parts.items():
                file = corpora.save(texts, settings.folder / f"{name}-{tokens}.json")
                jobs[name] = (worker, {"do": "time", "what": "encode", "file": file, "seconds": 0.3})
            timings = interleave(jobs, rounds=settings.rounds)
            apart = timings["short"].median + timings["long"].median
            together = timings["together"].median
            rows.append(
                [
                    f"{tokens:,}",
                    figure(together * 1000, "ms"),
                    figure(apart * 1000, "ms"),
                    f"{together / apart:.2f}",
                ]
            )
            result.data[f"padding, {tokens}"] = {name: timing.document() for name, timing in timings.items()}
    head = ["tokens of the long text", "together", "apart", "ratio (at most 1.1)"]
    result.tables.append(Table(f"{len(short)} short texts and a long one", head, rows))


def _short(result: Result, tokenizer: WordPiece, settings: Settings) -> None:
    """The graph that ships against one without the branch for long texts."""
    rows = []
    model = str(settings.artifacts.unblocked())
    with settings.start("ours") as ours, settings.start("ours", model=model) as without:
        for tokens in SHORT:
            ids = [tokenizer.encode(corpora.exactly(tokenizer, tokens)[0])]
            request = {"do": "time", "what": "run", "ids": ids, "seconds": 0.3}
            jobs = {"with": (ours, request), "without": (without, request)}
            timings = interleave(jobs, rounds=2 * settings.rounds)
            ratio = timings["with"].median / timings["without"].median
            limit = "1.03" if tokens >= 64 else "1.05"
            times = [figure(timings[name].median * 1000, "ms") for name in ("with", "without")]
            rows.append([f"{tokens}", *times, limit, f"{ratio:.3f}"])
            result.data[f"short, {tokens}"] = {name: timing.document() for name, timing in timings.items()}
    head = ["tokens", "with blocks", "without", "at most", "ratio"]
    result.tables.append(Table("Short texts in a graph that can do long ones", head, rows))
