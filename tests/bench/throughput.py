"""Texts per second, ours and each peer's, next to the int8 weight products alone at the same shapes."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.tokenization.wordpiece import WordPiece
from tests.bench import corpora
from tests.bench.harness import Timing, Worker, WorkerError, interleave
from tests.bench.report import Chart, Result, Table, figure
from tests.bench.settings import Settings

__all__ = ["CASES", "PEERS", "Case", "throughput"]

PEERS = ("ours", "optimum int8", "optimum fp32", "openvino int8", "fastembed", "torch fp32", "products")
# To torch, over all texts; others 0.9999. The scale over a whole tensor costs optimum most.
LEAST_COSINE = {"ours": 0.99, "optimum int8": 0.93, "openvino int8": 0.93}


@dataclass(frozen=True)
class Case:
    """One set of texts."""

    name: str
    what: str
    texts: int
    tokens: int | None = None  # of each text; None: see _texts
    peers: tuple[str, ...] = PEERS
    seconds: float = 0.0  # how long one block repeats the run


CASES = (
    Case("stsb", "STS-B test, all in one call", 2758),
    Case("mixed", "lengths 10 to 2,000", 64, peers=tuple(peer for peer in PEERS if peer != "torch fp32")),
    Case("8x64", "8 texts of 64 tokens", 8, 64, seconds=0.4),
    Case("1x12", "one query of 12 tokens", 1, 12, seconds=0.3),
    Case("1x512", "one text of 512 tokens", 1, 512, seconds=0.4),
)


def _texts(case: Case, tokenizer: WordPiece, settings: Settings) -> list[str]:
    if case.name == "stsb":
        return corpora.stsb()[:: 40 if settings.quick else 1]
    if case.name == "mixed":
        return corpora.mixed(tokenizer, 4 if settings.quick else case.texts)
    assert case.tokens is not None
    return corpora.exactly(tokenizer, case.tokens, case.texts)


def throughput(settings: Settings) -> Result:
    """Measure all cases and peers that settings.only does not leave out.

    :param settings: see there.
    :return: tables of times and of ratios.
    """
    tokenizer = WordPiece.from_file(settings.artifacts.model / "vocab.txt")
    result = Result("throughput")
    measured: dict[str, dict[str, Timing]] = {}
    bare: dict[str, dict[str, Timing]] = {}
    cosines: dict[str, dict[str, float]] = {}
    tokens: dict[str, int] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for peer in settings.chosen(PEERS):
            # 256 texts padded to 2,000 tokens would take fastembed's scores 33 GB; see the case "mixed".
            try:
                workers[peer] = stack.enter_context(settings.start(peer))
            except WorkerError as error:
                result.notes.append(f"left out: {error}")
        for case in CASES:
            if settings.cases and case.name not in settings.cases:
                continue
            texts = _texts(case, tokenizer, settings)
            tokens[case.name] = sum(map(tokenizer.count, texts))
            taking_part = {peer: worker for peer, worker in workers.items() if peer in case.peers}
            if case.name == "mixed" and "fastembed" in taking_part:
                taking_part["fastembed"] = stack.enter_context(settings.start("fastembed", batch_size=4))
            file = corpora.save(texts, settings.folder / f"{case.name}.json")
            for worker in taking_part.values():
                worker.ask("texts", file=file)
            cosines[case.name] = _check(taking_part, settings.folder, case)
            request = {"do": "time", "what": "encode", "seconds": case.seconds, "warm": 0}
            jobs = {peer: (worker, request) for peer, worker in taking_part.items()}
            measured[case.name] = interleave(jobs, rounds=settings.rounds)
            if case.tokens is not None:
                ids = [tokenizer.encode(text) for text in texts]
                request = {"do": "time", "what": "run", "ids": ids, "seconds": case.seconds}
                jobs = {peer: (worker, request) for peer, worker in taking_part.items()}
                bare[case.name] = interleave(jobs, rounds=settings.rounds)
    _report(result, measured, bare, cosines, tokens)
    return result


def _check(workers: dict[str, Worker], folder: Path, case: Case) -> dict[str, float]:
    """Vectors of every peer against those of torch.

    :return: Peer -> least cosine over the texts.
    :raises AssertionError: a peer computes something else, and its time would mean nothing.
    """
    vectors = {}
    for peer, worker in workers.items():
        if peer != "products":
            file = folder / "vectors.npy"
            worker.ask("vectors", file=str(file))
            vectors[peer] = np.load(file).astype(np.float64)
    reference = vectors.get("torch fp32", vectors.get("optimum fp32"))
    if reference is None:
        return {}
    found = {}
    for peer, own in vectors.items():
        lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(reference, axis=1)
        found[peer] = float(((own * reference).sum(axis=1) / lengths).min())
        least = LEAST_COSINE.get(peer, 0.9999)
        assert found[peer] >= least, f"{peer}, {case.name}: cosine {found[peer]:.5f} to torch, not {least}"
    return found


def _report(
    result: Result,
    measured: dict[str, dict[str, Timing]],
    bare: dict[str, dict[str, Timing]],
    cosines: dict[str, dict[str, float]],
    tokens: dict[str, int],
) -> None:
    names = [case for case in CASES if case.name in measured]
    for title, timings in (("whole encode", measured), ("the session alone", bare)):
        rows = []
        for case in names:
            if case.name not in timings:
                continue
            own = timings[case.name]
            for peer, timing in own.items():
                ratio = timing.median / own["ours"].median if "ours" in own else float("nan")
                rows.append(
                    [
                        f"{case.what}: {peer}",
                        figure(timing.median * 1000, "ms"),
                        figure(tokens[case.name] / timing.median),
                        f"{ratio:.2f}",
                        f"{cosines[case.name][peer]:.5f}" if peer in cosines.get(case.name, {}) else "",
                        f"{timing.disturbed}/{len(timing.blocks)}",
                    ]
                )
        head = ["texts: peer", "time", "tokens/s", "time / ours", "least cosine to torch", "disturbed"]
        if rows:
            result.tables.append(Table(f"Throughput, {title}", head, rows))
    result.tables.append(_targets(measured, bare))
    result.data["whole"] = {
        case: {peer: timing.document() for peer, timing in own.items()} for case, own in measured.items()
    }
    result.data["session"] = {
        case: {peer: timing.document() for peer, timing in own.items()} for case, own in bare.items()
    }
    result.data |= {"cosine": cosines, "tokens": tokens}
    peers = [peer for peer in PEERS if any(peer in own for own in measured.values())]
    for title, chosen in (
        ("many texts", [case for case in names if case.tokens is None]),
        ("few texts", [case for case in names if case.tokens is not None]),
    ):
        if chosen:
            series: dict[str, list[float | None]] = {
                peer: [
                    tokens[case.name] / measured[case.name][peer].median
                    if peer in measured[case.name]
                    else None
                    for case in chosen
                ]
                for peer in peers
            }
            result.charts.append(Chart(title, "tokens/s", series, [case.name for case in chosen], bars=True))


def _targets(measured: dict[str, dict[str, Timing]], bare: dict[str, dict[str, Timing]]) -> Table:
    rows = []

    def add(what: str, target: str, over: Timing | None, under: Timing | None) -> None:
        if over is not None and under is not None:
            rows.append([what, target, f"{over.median / under.median:.2f}"])

    stsb, several, query = (measured.get(case, {}) for case in ("stsb", "8x64", "1x12"))
    add("STS-B: fastembed / ours", "at least 8", stsb.get("fastembed"), stsb.get("ours"))
    add("STS-B: optimum int8 / ours", "at least 1.15", stsb.get("optimum int8"), stsb.get("ours"))
    add("STS-B: ours / products alone", "", stsb.get("ours"), stsb.get("products"))
    add("8 x 64: ours / products alone", "at most 1.2", several.get("ours"), several.get("products"))
    add(
        "1 x 12: ours / optimum int8's bare session",
        "at most 1.0",
        query.get("ours"),
        bare.get("1x12", {}).get("optimum int8"),
    )
    return Table("Targets", ["ratio of medians", "target", "found"], rows)
