"""Texts per second, ours and each peer's, next to the int8 weight products alone at the same shapes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.tokenization.wordpiece import WordPiece
from tests.bench import corpora
from tests.bench.harness import Block, Timing, Worker, WorkerError, interleave
from tests.bench.long import run_one
from tests.bench.report import Chart, Result, Table, figure
from tests.bench.settings import Settings

__all__ = ["CASES", "PEERS", "Case", "throughput"]

PEERS = (
    "ours",
    "optimum int8",
    "optimum fp32",
    "openvino default",
    "openvino static int8",
    "openvino dynamic int8",
    "llama.cpp Q8_0",
    "llama.cpp F16",
    "fastembed",
    "torch fp32",
    "products",
)
# To torch, over all texts; others 0.9999. The scale over a whole tensor costs optimum most.
LEAST_COSINE = {
    "ours": 0.99,
    "optimum int8": 0.93,
    "openvino default": 0.99,  # bf16 where the processor has it
    "openvino static int8": 0.93,
    "openvino dynamic int8": 0.99,
    "llama.cpp Q8_0": 0.99,
}
TOGETHER = 40  # texts of 10 to 400 tokens, whose vectors are compared with those of each text alone
LONGEST = 8192  # tokens of the case that has a process for each run
BARE_TOKENS = 64  # of texts whose session is measured alone too: beyond, the rest is a few per cent
LONG_SECONDS = 6.0  # of a run that is not repeated


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
    Case("1x2048", "one text of 2,048 tokens", 1, 2048, seconds=0.4),
    Case(
        f"1x{LONGEST}",
        "one text of 8,192 tokens",
        1,
        LONGEST,
        peers=tuple(peer for peer in PEERS if peer not in ("fastembed", "products")),
    ),
)


@dataclass
class Found:
    """What was measured."""

    whole: dict[str, dict[str, Timing]]  # case -> peer -> encode
    bare: dict[str, dict[str, Timing]]  # case -> peer -> the session alone
    cosines: dict[str, dict[str, float]]  # case -> peer -> the least to torch
    tokens: dict[str, int]  # case -> of all its texts
    peaks: dict[str, float]  # peer -> bytes, with LONGEST tokens
    alone: dict[str, float]  # peer -> see _alone


def _texts(case: Case, tokenizer: WordPiece, settings: Settings) -> list[str]:
    if case.name == "stsb":
        return corpora.stsb()[:: 40 if settings.quick else 1]
    if case.name == "mixed":
        return corpora.mixed(tokenizer, 4 if settings.quick else case.texts)
    assert case.tokens is not None
    if case.tokens == LONGEST:
        return [corpora.running(tokenizer, case.tokens)]
    return corpora.exactly(tokenizer, case.tokens, case.texts)


def throughput(settings: Settings) -> Result:
    """Measure all cases and peers that settings.only does not leave out.

    :param settings: see there.
    :return: tables of times and of ratios.
    """
    tokenizer = WordPiece.from_file(settings.artifacts.model / "vocab.txt")
    result = Result("throughput")
    found = Found({}, {}, {}, {}, {}, {})
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for peer in settings.chosen(PEERS):
            # 256 texts padded to 2,000 tokens would take fastembed's scores 33 GB; see the case "mixed".
            try:
                workers[peer] = stack.enter_context(settings.start(peer))
            except WorkerError as error:
                result.notes.append(f"left out: {error}")
        result.notes += [
            f"{peer}: {', '.join(f'{key} {value}' for key, value in worker.loaded['about'].items())}"
            for peer, worker in workers.items()
        ]
        some = corpora.mixed(tokenizer, TOGETHER, 10, 400)
        found.alone.update(_alone(workers, some, settings.folder))
        for case in CASES:
            if settings.cases and case.name not in settings.cases:
                continue
            texts = _texts(case, tokenizer, settings)
            found.tokens[case.name] = sum(map(tokenizer.count, texts))
            if case.tokens == LONGEST:
                _longest(found, case, texts[0], settings, [peer for peer in case.peers if peer in workers])
                continue
            taking_part = {peer: worker for peer, worker in workers.items() if peer in case.peers}
            if case.name == "mixed" and "fastembed" in taking_part:
                taking_part["fastembed"] = stack.enter_context(settings.start("fastembed", batch_size=4))
            file = corpora.save(texts, settings.folder / f"{case.name}.json")
            for worker in taking_part.values():
                worker.ask("texts", file=file)
            found.cosines[case.name] = _check(taking_part, settings.folder, case)
            request = {"do": "time", "what": "encode", "seconds": case.seconds, "warm": 0}
            jobs = {peer: (worker, request) for peer, worker in taking_part.items()}
            found.whole[case.name] = interleave(jobs, rounds=settings.rounds)
            if case.tokens is not None and case.tokens <= BARE_TOKENS:
                ids = [tokenizer.encode(text) for text in texts]
                request = {"do": "time", "what": "run", "ids": ids, "seconds": case.seconds}
                jobs = {peer: (worker, request) for peer, worker in taking_part.items()}
                found.bare[case.name] = interleave(jobs, rounds=settings.rounds)
    _report(result, found)
    return result


def _alone(workers: dict[str, Worker], texts: list[str], folder: Path) -> dict[str, float]:
    """Return for each peer the largest difference in a number of a vector when its text is alone and among others."""
    file = folder / "vectors.npy"
    together = corpora.save(texts, folder / "together.json")
    single = [corpora.save([text], folder / f"alone-{number}.json") for number, text in enumerate(texts)]
    largest = {}
    for peer, worker in workers.items():
        if peer == "products":
            continue
        vectors = []
        for texts_file in (together, *single):
            worker.ask("texts", file=texts_file)
            worker.ask("vectors", file=str(file))
            vectors.append(np.load(file).astype(np.float64))
        largest[peer] = float(np.abs(vectors[0] - np.concatenate(vectors[1:])).max())
    return largest


def _longest(found: Found, case: Case, text: str, settings: Settings, peers: Sequence[str]) -> None:
    """A text that takes a machine's memory: a process each, one after the other; of two short runs the better one."""
    for peer in peers:
        runs = []
        for _ in range(1 if settings.quick else 2):
            run = run_one(peer, LONGEST, text, settings)
            print(f"{peer}, {case.name}: {run}", file=sys.stderr, flush=True)
            if "skipped" not in run:
                runs.append(run)
            if run.get("seconds", LONG_SECONDS) >= LONG_SECONDS:
                break
        if runs:
            best = Timing([Block(min(run["seconds"] for run in runs), 0.0)])
            found.whole.setdefault(case.name, {})[peer] = best
            found.peaks[peer] = min(run["peak"] for run in runs)


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


def _report(result: Result, found: Found) -> None:
    names = [case for case in CASES if case.name in found.whole]
    peers = [peer for peer in PEERS if any(peer in own for own in found.whole.values())]
    for title, timings in (("whole encode", found.whole), ("the session alone", found.bare)):
        rows = []
        for case in names:
            if case.name not in timings:
                continue
            own = timings[case.name]
            cosines = found.cosines.get(case.name, {})
            for peer, timing in own.items():
                ratio = timing.median / own["ours"].median if "ours" in own else float("nan")
                rows.append(
                    [
                        f"{case.what}: {peer}",
                        figure(timing.median * 1000, "ms"),
                        figure(found.tokens[case.name] / timing.median),
                        f"{ratio:.2f}",
                        f"{cosines[peer]:.5f}" if peer in cosines else "",
                        f"{timing.disturbed}/{len(timing.blocks)}",
                    ]
                )
        head = ["texts: peer", "time", "tokens/s", "time / ours", "least cosine to torch", "disturbed"]
        if rows:
            result.tables.append(Table(f"Throughput, {title}", head, rows))
    result.tables += [_beside(names, peers, found), _targets(found.whole, found.bare)]
    result.data["whole"] = {
        case: {peer: timing.document() for peer, timing in own.items()} for case, own in found.whole.items()
    }
    result.data["session"] = {
        case: {peer: timing.document() for peer, timing in own.items()} for case, own in found.bare.items()
    }
    result.data |= {
        "cosine": found.cosines,
        "tokens": found.tokens,
        "peak_bytes": found.peaks,
        "largest_difference_alone": found.alone,
    }
    for title, chosen in (
        ("many texts", [case for case in names if case.tokens is None]),
        ("few texts", [case for case in names if case.tokens is not None]),
    ):
        if chosen:
            series: dict[str, list[float | None]] = {
                peer: [
                    found.tokens[case.name] / found.whole[case.name][peer].median
                    if peer in found.whole[case.name]
                    else None
                    for case in chosen
                ]
                for peer in peers
            }
            result.charts.append(Chart(title, "tokens/s", series, [case.name for case in chosen], bars=True))


def _beside(cases: Sequence[Case], peers: Sequence[str], found: Found) -> Table:
    """Time relative to ours in each case, and the case where ours does worst; below 1 the peer is faster."""
    rows = []
    for peer in peers:
        ratios: dict[str, float] = {}
        cells = []
        for case in cases:
            timings = found.whole[case.name]
            if peer not in timings or "ours" not in timings:
                cells.append("")
                continue
            ratios[case.name] = timings[peer].median / timings["ours"].median
            seconds = timings["ours"].median
            own = figure(seconds, "s") if seconds >= 1 else figure(seconds * 1000, "ms")
            cells.append(f"1 ({own})" if peer == "ours" else f"{ratios[case.name]:.2f}")
        worst = min(ratios, key=ratios.__getitem__, default="")
        peak, alone = found.peaks.get(peer), found.alone.get(peer)
        rows.append(
            [
                peer,
                *cells,
                f"{ratios[worst]:.2f} ({worst})" if worst and peer != "ours" else "",
                figure(peak / 1e6, "MB") if peak else "",
                "" if alone is None else f"{alone:.1e}" if alone else "0",
            ]
        )
    head = ["time / ours", *(case.name for case in cases), "the least", f"peak, {LONGEST:,} tokens"]
    return Table("Beside ours", [*head, "largest difference of a vector, alone and in a batch"], rows)


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
