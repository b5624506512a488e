"""Bulk jobs: processes times threads, and the rate beside a plain encode of the same texts.

Every layout that uses all CPU cores is measured, and one process with one thread for comparison. A job of a single
row says what starting and ending take. All layouts must give the same files to the bit, and the vectors of encode.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from pathlib import Path

import numpy as np

from runtime.resources import MAX_DEFAULT_THREADS
from runtime.tokenization.wordpiece import WordPiece
from tests.bench import corpora
from tests.bench.harness import Finished, WorkerError, finish
from tests.bench.report import Chart, Result, Table, figure
from tests.bench.settings import Settings

__all__ = ["bulk", "layouts"]

CASES = {"short": "STS-B test twice over", "mixed": "200 texts of 10 to 2,000 tokens"}
SHARDS_EACH = 4  # for each CPU core, so that all of them end at about the same time; real jobs have more
PLAIN = """
import json, sys, time
from runtime import Embedder
texts = json.load(open(sys.argv[1]))
embedder = Embedder(sys.argv[2], threads=int(sys.argv[3]))
embedder.encode(texts[:64])
start = time.perf_counter()
vectors = embedder.encode(texts)
print(time.perf_counter() - start)
import numpy
numpy.save(sys.argv[4], vectors)
"""


def layouts(cores: int) -> list[tuple[int, int]]:
    """Return (processes, threads of each) with as many threads in all as CPU cores; then one of each."""
    divisors = [n for n in range(1, min(cores, MAX_DEFAULT_THREADS) + 1) if cores % n == 0]
    full = [(cores // threads, threads) for threads in divisors]
    return full if full == [(1, 1)] else [*full, (1, 1)]


def bulk(settings: Settings) -> Result:
    """Measure all layouts.

    :param settings: see there; cases are "short" and "mixed"; threads are the CPU cores to use.
    :return: a table for each case.
    :raises WorkerError: pyarrow is missing, or outputs differ.
    """
    try:
        import pyarrow as pa  # noqa: F401
    except ImportError:
        raise WorkerError('bulk: pyarrow is not installed: pip install "jinabert-runtime[bulk]"') from None
    result = Result("bulk")
    for case in CASES:
        if not settings.cases or case in settings.cases:
            _case(result, case, settings)
    result.notes.append("texts/s without starting and ending: a job of one row is taken off the time")
    return result


def _case(result: Result, case: str, settings: Settings) -> None:
    if case == "short":
        texts = corpora.stsb() * 2
    else:
        tokenizer = WordPiece.from_file(str(settings.artifacts.model / "vocab.txt"))
        texts = corpora.mixed(tokenizer, 200)
    if settings.quick:
        texts = texts[:: len(texts) // 40]
    source, one = (
        _parquet(texts, settings.folder / case),
        _parquet(texts[:1], settings.folder / f"{case}-one"),
    )
    plan = layouts(settings.threads)
    shard_rows = max(1, len(texts) // (SHARDS_EACH * settings.threads))
    found: dict[tuple[int, int], list[tuple[float, float]]] = {layout: [] for layout in plan}
    plain: list[float] = []
    peaks: dict[tuple[int, int], int] = {}
    for _ in range(max(1, settings.rounds)):
        plain.append(_plain(texts, settings))
        for layout in plan:
            start, _ = _run(one, layout, shard_rows, settings)
            whole, output = _run(source, layout, shard_rows, settings)
            found[layout].append((start.seconds, whole.seconds))
            peaks[layout] = max(peaks.get(layout, 0), whole.peak_bytes)
            _same(output, settings.folder / "plain.npy")
            print(
                f"{case} {layout}: {whole.seconds:.2f} s, {whole.others:.0%} used by others",
                file=sys.stderr,
                flush=True,
            )
    base = statistics.median(plain)
    rows, rates = [], {}
    for layout, pairs in found.items():
        start, whole = (statistics.median(side) for side in zip(*pairs, strict=True))
        rates[layout] = len(texts) / max(whole - start, 1e-9)
        share = rates[layout] / (len(texts) / base)
        cells = [f"{layout[0]} x {layout[1]}", figure(whole, "s"), figure(start, "s"), figure(rates[layout])]
        rows.append([*cells, f"{share:.2f}", figure(peaks[layout] / 1e6, "MB")])
    rows.append(
        [f"encode, {settings.threads} threads", figure(base, "s"), "", figure(len(texts) / base), "1", ""]
    )
    head = ["processes x threads", "time", "of it starting", "texts/s", "beside encode", "largest process"]
    result.tables.append(Table(f"{CASES[case]}: {len(texts):,} texts", head, rows))
    result.charts.append(
        Chart(case, "texts/s", {"bulk": list(rates.values())}, [f"{p} x {t}" for p, t in rates], bars=True)
    )
    result.data[case] = {
        "texts": len(texts),
        "encode_s": plain,
        "layouts": {f"{p}x{t}": pairs for (p, t), pairs in found.items()},
    }


def _parquet(texts: list[str], path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = path.with_suffix(".parquet")
    pq.write_table(pa.table({"text": texts}), file)
    return file


def _plain(texts: list[str], settings: Settings) -> float:
    file = corpora.save(texts, settings.folder / "plain.json")
    vectors = str(settings.folder / "plain.npy")
    command = [
        sys.executable,
        "-c",
        PLAIN,
        file,
        str(settings.artifacts.model),
        str(settings.threads),
        vectors,
    ]
    return float(finish(command, settings.threads).output)


def _run(source: Path, layout: tuple[int, int], shard_rows: int, settings: Settings) -> tuple[Finished, Path]:
    output = settings.folder / "bulk"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "runtime.bulk", str(source), "--output", str(output), "--quiet"]
    command += ["--model", str(settings.artifacts.model), "--format", "npy"]
    command += ["--shard-rows", str(shard_rows), "--processes", str(layout[0]), "--threads", str(layout[1])]
    return finish(command, settings.threads), output


def _same(output: Path, plain: Path) -> None:
    parts = sorted(path for path in output.glob("part-*.npy") if ".ids." not in path.name)
    vectors = np.concatenate([np.load(part) for part in parts])
    if not np.array_equal(vectors, np.load(plain)):
        raise WorkerError("bulk: the vectors are not those of encode")
