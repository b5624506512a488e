"""Bulk jobs at scale: a minute of work beside encode, the first part, the plan of many files, memory by rows.

The memory is that of the process that reads and writes, with units of rows that are made up and vectors that are not
computed: what grows with the number of rows is what it holds of parts that are done.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import threading
import time
from pathlib import Path

from tests.bench import corpora
from tests.bench.bulk import PLAIN
from tests.bench.environments import python_of
from tests.bench.harness import finish
from tests.bench.report import Result, Table, figure
from tests.bench.settings import Settings

__all__ = ["bulk_peer", "bulk_scale"]

TEXTS = 90_000  # about a minute on two cores
FILES = 10_000
ROWS = (1_000_000, 10_000_000, 100_000_000)
PLAN = """
import sys, time
from runtime.bulk import embed_files, job
class Planned(BaseException):
    pass
def planned(*_):
    raise Planned
job._Job.work = planned
start = time.perf_counter()
try:
    embed_files(sys.argv[1], sys.argv[2], id_column="id", force=True)
except Planned:
    print(time.perf_counter() - start)
"""
MEMORY = """
import resource, sys, time
import numpy as np
from runtime.bulk import job, output, plan, rows
from runtime.bulk.embedding import Embedded
count, folder = int(sys.argv[1]), sys.argv[2]
class Nowhere:
    def __init__(self, *_): pass
    def write(self, *_): pass
    def close(self): return []
    def discard(self): pass
output.WRITERS["parquet"] = Nowhere
size = 1024
texts, errors = ["text"] * size, [None] * size
def units(self, start, part):
    for number in range(count // size):
        first = number * size
        places = [(first + n, "in.jsonl", first + n, first + n) for n in range(size)]
        last, end = number % 8 == 7, rows.Place(row=first)
        part = number // 8
        yield rows.Unit(size, part=part, texts=texts, places=places, kept=[(None, ())] * size, last=last, end=end)
def embed_units(embedder, units, processes, dedupe):
    vectors = np.zeros((size, embedder.dimension), np.float32)
    for unit in units:
        yield unit, Embedded(vectors, errors, size, 0, 0)
rows.Reading.units = units
job.embed_units = embed_units
plan._check_field = lambda *_: None
open(folder + "/in.jsonl", "w").write('{"text": "a"}')
start = time.perf_counter()
job.embed_files(folder + "/in.jsonl", folder + "/out")
print(time.perf_counter() - start)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


PEERS = {
    "fastembed": "datasets.map + fastembed, fp32",
    "ray-fp32": "Ray Data + sentence-transformers (ONNX), our graph in fp32",
    "ray-int8": "Ray Data + sentence-transformers (ONNX), our graph in int8",
}
FASTEMBED = """
import json, sys, time
from datasets import Dataset
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
TextEmbedding.add_custom_model(
    model="local/jinabert", pooling=PoolingType.MEAN, normalization=True, sources=ModelSource(hf="local/jinabert"),
    dim=int(sys.argv[3]), model_file="model.onnx",
)
model = TextEmbedding("local/jinabert", specific_model_path=sys.argv[2], threads=int(sys.argv[4]))
rows = Dataset.from_dict({"text": json.load(open(sys.argv[1]))})
list(model.embed(rows["text"][:64]))
start = time.perf_counter()
rows = rows.map(lambda batch: {"embedding": list(model.embed(batch["text"]))}, batched=True)
rows.to_parquet(sys.argv[5])
print(time.perf_counter() - start)
"""


RAY = """
import sys, time
import ray
ray.init(num_cpus=int(sys.argv[4]) + 1, include_dashboard=False, log_to_driver=False, logging_level="error")
ray.data.DataContext.get_current().enable_progress_bars = False
class Embed:
    def __init__(self, folder):
        from sentence_transformers import SentenceTransformer
        self.model = SentenceTransformer(folder, backend="onnx", device="cpu")
    def __call__(self, batch):
        return batch | {"embedding": self.model.encode(list(batch["text"]))}
def run(rows, name):
    start = time.perf_counter()
    rows = rows.map_batches(
        Embed, fn_constructor_args=[sys.argv[2]], batch_size=1024, num_cpus=int(sys.argv[4]),
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    rows.write_parquet(sys.argv[3] + name)
    return time.perf_counter() - start
one = run(ray.data.from_items([{"text": "a"}]), "-one")
print(run(ray.data.read_json(sys.argv[1]), "") - one)
"""


def bulk_scale(settings: Settings) -> Result:
    """Measure all of it.

    :param settings: see there; cases are "minute", "plan" and "memory".
    """
    result = Result("bulk-scale")
    for name, case in {"minute": _minute, "plan": _plan, "memory": _memory}.items():
        if not settings.cases or name in settings.cases:
            case(result, settings)
    return result


def _minute(result: Result, settings: Settings) -> None:
    count = 200 if settings.quick else TEXTS
    base = corpora.stsb()
    texts = [f"{text} {number}" for number in range(count // len(base) + 1) for text in base][:count]
    source = settings.folder / "minute.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    model, threads = str(settings.artifacts.model), settings.threads
    file, vectors = corpora.save(texts, settings.folder / "minute.json"), str(settings.folder / "plain.npy")
    plain, whole, first = [], [], []
    for _ in range(max(1, settings.rounds)):
        plain.append(
            float(finish([sys.executable, "-c", PLAIN, file, model, str(threads), vectors], threads).output)
        )
        seconds, part = _job(source, settings)
        whole.append(seconds)
        first.append(part)
    ratio = statistics.median(a / b for a, b in zip(plain, whole, strict=True))
    rows = [
        ["encode, model loaded", figure(statistics.median(plain), "s"), "1"],
        ["the job, from its start to its end", figure(statistics.median(whole), "s"), f"{ratio:.2f}"],
        ["its first part", figure(statistics.median(first), "s"), ""],
    ]
    result.tables.append(
        Table(f"{count:,} texts of STS-B as JSON lines", ["what", "time", "rate beside encode"], rows)
    )
    result.data["minute"] = {"encode_s": plain, "job_s": whole, "first_part_s": first}


def _job(source: Path, settings: Settings) -> tuple[float, float]:
    """Seconds of a job, and until its first part."""
    output = settings.folder / "minute"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "runtime.bulk", str(source), "--output", str(output), "--quiet"]
    ended, first = threading.Event(), []
    start = time.perf_counter()

    def watch() -> None:
        while not ended.wait(0.02) and not (output / "part-00000.parquet").exists():
            pass
        first.append(time.perf_counter() - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        seconds = finish([*command, "--model", str(settings.artifacts.model)], settings.threads).seconds
    finally:
        ended.set()
        watcher.join()
    return seconds, first[0]


def bulk_peer(settings: Settings) -> Result:
    """Measure datasets.map with fastembed, Ray Data with sentence-transformers and the job, all of the same weights.

    fastembed and sentence-transformers run them in fp32, the latter with our graph; and with our int8 graph too. Theirs
    are times with the model loaded (Ray: less a run of one row), the job's are from its start to its end.

    :param settings: see there; cases are "fastembed", "ray-fp32" and "ray-int8".
    """
    result = Result("bulk-peer")
    texts = corpora.stsb()[: 100 if settings.quick else None]
    source, file = settings.folder / "peer.jsonl", corpora.save(texts, settings.folder / "peer.json")
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    artifacts, threads = settings.artifacts, settings.threads
    out, rows = str(settings.folder / "peer.parquet"), []
    for case, name in PEERS.items():
        if settings.cases and case not in settings.cases:
            continue
        if case == "fastembed":
            peer = [python_of("fastembed-datasets"), "-c", FASTEMBED, file, str(artifacts.plain())]
            peer += [str(artifacts.manifest.dimension), str(threads), out]
        else:
            from export.layout import write_layout

            folder = settings.folder / case
            shutil.copytree(artifacts.model if case == "ray-int8" else artifacts.fp32(), folder)
            write_layout(folder)
            peer = [sys.executable, "-c", RAY, str(source), str(folder), str(settings.folder / case / "out")]
            peer.append(str(threads))
        theirs, ours = [], []
        for _ in range(max(1, settings.rounds)):
            theirs.append(float(finish(peer, threads).output.split()[-1]))
            ours.append(_job(source, settings)[0])
        ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
        times = [figure(statistics.median(seconds), "s") for seconds in (theirs, ours)]
        rows.append([name, *times, f"{ratio:.2f}"])
        result.data[case] = {"peer_s": theirs, "job_s": ours}
    head = ["peer, model loaded", "its time", "the job, int8, start to end", "rate beside it"]
    result.tables.append(Table(f"{len(texts):,} texts of STS-B", head, rows))
    return result


def _plan(result: Result, settings: Settings) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 50 if settings.quick else FILES
    rows = []
    for kind in ("jsonl", "parquet"):
        folder = settings.folder / f"many-{kind}"
        folder.mkdir()
        for number in range(count):
            path = folder / f"{number:05d}.{kind}"
            if kind == "parquet":
                pq.write_table(pa.table({"id": [number], "text": ["hello"]}), path)
            else:
                path.write_text('{"id": 1, "text": "hello"}\n', encoding="utf-8")
        command = [sys.executable, "-c", PLAN, str(folder), str(settings.folder / f"plan-{kind}")]
        seconds = min(float(finish(command, 1).output) for _ in range(max(1, settings.rounds)))
        shutil.rmtree(settings.folder / f"plan-{kind}", ignore_errors=True)
        rows.append([f"{count:,} files, {kind}", figure(seconds, "s")])
    result.tables.append(Table("from the call to the first row", ["input", "time"], rows))
    result.data["plan"] = dict(rows)


def _memory(result: Result, settings: Settings) -> None:
    rows = []
    for count in ROWS[:1] if settings.quick else ROWS:
        folder = settings.folder / f"memory-{count}"
        folder.mkdir()
        command = [sys.executable, "-c", MEMORY, str(count), str(folder)]
        seconds, peak = finish(command, 1).output.split()
        rows.append([f"{count:,}", figure(int(peak) / 1e6, "MB"), figure(float(seconds), "s")])
    result.tables.append(
        Table(
            "the process that reads and writes, vectors left out", ["rows", "peak memory", "its time"], rows
        )
    )
    result.data["memory"] = rows
