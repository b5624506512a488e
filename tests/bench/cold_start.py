"""A new process that makes an Embedder and one vector: how long, in which phases, and how much memory stays.

The limit is an interpreter that imports onnxruntime and reads the model's files. Times are from before the process is
made until after it has ended; the file cache is warm, since every program runs once before anything counts.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass

from tests.bench.environments import python_of
from tests.bench.harness import DISTURBED, finish
from tests.bench.report import Chart, Result, Table, figure
from tests.bench.settings import Settings

__all__ = ["cold_start"]

MOST_REPEATS = 4
TEXT = "How is the weather today?"

# Every program ends by printing its phases and its memory; {model} and so on are filled in.
HEAD = """\
import time
start = time.time()
marks = []
def mark(name):
    marks.append((name, time.time()))
"""
TAIL = """
import json
with open("/proc/self/status") as file:
    rss = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))
print(json.dumps([start, marks, rss]))
"""
LIMIT = """
import onnxruntime
for name in ("model.onnx", "model.onnx.data"):
    with open({model!r} + "/" + name, "rb") as file:
        file.read()
"""
OURS = """
from runtime import Embedder
embedder = Embedder({model!r})
vector = embedder.encode({text!r})
assert vector.shape == ({dimension},)
"""
PHASES = """
mark("interpreter")
import numpy
mark("numpy")
import onnxruntime
mark("onnxruntime")
from runtime import Embedder
import runtime.session
mark("runtime")
opened = runtime.session.Session._open
def open_session(self, *rest, **named):
    mark("files, vocabulary")
    handle = opened(self, *rest, **named)
    mark("session")
    return handle
runtime.session.Session._open = open_session
embedder = Embedder({model!r})
vector = embedder.encode({text!r})
mark("first vector")
"""
FASTEMBED = """
mark("interpreter")
import numpy
mark("numpy")
import onnxruntime
mark("onnxruntime")
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
mark("library")
TextEmbedding.add_custom_model(
    model="local/jinabert", pooling=PoolingType.MEAN, normalization=True, sources=ModelSource(hf="local/jinabert"),
    dim={dimension}, model_file="model.onnx")
model = TextEmbedding("local/jinabert", specific_model_path={plain!r}, threads={threads})
mark("files, session")
vector = next(iter(model.embed([{text!r}])))
assert vector.shape == ({dimension},)
mark("first vector")
"""
OPTIMUM = """
mark("interpreter")
import numpy as np
mark("numpy")
import onnxruntime
mark("onnxruntime")
from tokenizers import BertWordPieceTokenizer
mark("library")
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = {threads}
session = onnxruntime.InferenceSession({optimum!r} + "/model.onnx", options, providers=["CPUExecutionProvider"])
tokenizer = BertWordPieceTokenizer({optimum!r} + "/vocab.txt", lowercase=True)
mark("files, session")
ids = np.array([tokenizer.encode({text!r}).ids])
hidden = session.run(None, {{"input_ids": ids, "attention_mask": np.ones_like(ids)}})[0]
vector = hidden[0].mean(axis=0)
assert vector.shape == ({dimension},)
mark("first vector")
"""
# What "library", "files, session" of the peers are of ours.
SAME_PHASE = {"runtime": "library", "files, vocabulary": "files, session", "session": "files, session"}
PHASED = {"ours": "ours, in phases", "optimum int8": "optimum int8", "fastembed": "fastembed"}

PROGRAMS = {  # name -> environment, program
    "interpreter alone": ("plain", ""),
    "imports alone": ("plain", "import onnxruntime"),
    "limit": ("plain", LIMIT),
    "ours": ("plain", OURS),
    "ours, in phases": ("plain", PHASES),
    "optimum int8": ("plain", OPTIMUM),
    "fastembed": ("fastembed", FASTEMBED),
}


@dataclass
class Run:
    """One process."""

    seconds: float  # whole
    phases: dict[
        str, float
    ]  # seconds; the first is from before the process until its first line, the last its end
    rss: int  # bytes, at the end
    others: float


def _run(python: str, program: str, threads: int) -> Run:
    ended = finish([python, "-c", HEAD + program + TAIL], threads)
    start, marks, rss = json.loads(ended.output.strip().splitlines()[-1])
    phases, last = {}, ended.started
    for name, moment in marks or [["start", start]]:
        phases[name] = moment - last
        last = moment
    phases["end"] = ended.started + ended.seconds - last
    return Run(ended.seconds, phases, rss, ended.others)


def cold_start(settings: Settings) -> Result:
    """Measure all programs by turns.

    :param settings: see there; rounds are taken three times, since a process lasts a tenth of a second.
    :return: tables of times, phases and memory.
    """
    artifacts = settings.artifacts
    names = settings.chosen(PROGRAMS)
    fill = {
        "model": str(artifacts.model),
        "plain": str(artifacts.plain()) if "fastembed" in names else "",
        "optimum": str(artifacts.optimum()) if "optimum int8" in names else "",
        "threads": settings.threads,
        "text": TEXT,
        "dimension": artifacts.manifest.dimension,
    }
    jobs = {}
    for name in names:
        kind, program = PROGRAMS[name]
        jobs[name] = (python_of(kind), program.format(**fill))
    runs: dict[str, list[Run]] = {name: [] for name in jobs}
    for python, program in jobs.values():
        _run(python, program, settings.threads)  # reads files into the cache, writes .pyc
    for _ in range(settings.rounds * (1 if settings.quick else 3)):
        for name, (python, program) in jobs.items():
            for _ in range(MOST_REPEATS):
                run = _run(python, program, settings.threads)
                if run.others <= DISTURBED:
                    break
            runs[name].append(run)
    return _report(runs, settings)


def _median(runs: list[Run]) -> float:
    return statistics.median(run.seconds for run in runs)


def _phases(runs: list[Run]) -> dict[str, float]:
    """Return the median seconds of each phase, in the peers' common terms."""
    phases: dict[str, float] = {}
    for name in runs[0].phases:
        common = SAME_PHASE.get(name, name)
        phases[common] = phases.get(common, 0.0) + statistics.median(run.phases[name] for run in runs)
    return phases


def _report(runs: dict[str, list[Run]], settings: Settings) -> Result:
    result = Result("cold-start")
    seconds = {name: _median(own) for name, own in runs.items()}
    rss = {name: int(statistics.median(run.rss for run in own)) for name, own in runs.items()}
    rows = [
        [
            name,
            figure(seconds[name] * 1000, "ms"),
            f"{seconds[name] / seconds['limit']:.2f}" if "limit" in seconds else "",
            figure(rss[name] / 1e6, "MB"),
        ]
        for name in runs
    ]
    result.tables.append(
        Table(
            "Cold start: a new process, file cache warm",
            ["program", "time", "times the limit", "RSS"],
            rows,
        )
    )
    phased = {name: _phases(runs[program]) for name, program in PHASED.items() if program in runs}
    chart = None
    if phased:
        names = list(dict.fromkeys(name for phases in phased.values() for name in phases))
        rows = [
            [
                name,
                *(figure(phases[name] * 1000, "ms") if name in phases else "" for phases in phased.values()),
            ]
            for name in names
        ]
        result.tables.append(Table("Cold start: where the time goes", ["phase", *phased], rows))
        result.data["phases_s"] = phased
        series: dict[str, list[float | None]] = {
            peer: [phases.get(name, 0.0) * 1000 for name in names] for peer, phases in phased.items()
        }
        chart = Chart("cold start by phase", "ms", series, names, bars=True)
    files = sum(
        (settings.artifacts.model / name).stat().st_size for name in settings.artifacts.manifest.files
    )
    rows = []
    if {"ours", "limit"} <= seconds.keys():
        rows.append(["cold start: ours / limit", "at most 1.3", f"{seconds['ours'] / seconds['limit']:.2f}"])
    if {"ours", "fastembed"} <= seconds.keys():
        rows.append(
            ["cold start: fastembed / ours", "at least 4.5", f"{seconds['fastembed'] / seconds['ours']:.2f}"]
        )
    if {"ours", "imports alone"} <= seconds.keys():
        ratio = rss["ours"] / (rss["imports alone"] + files)
        rows.append(["RSS: ours / (imports + model files)", "at most 1.2", f"{ratio:.2f}"])
    result.tables.append(Table("Targets", ["ratio of medians", "target", "found"], rows))
    shown = [name for name in ("limit", "ours", "optimum int8", "fastembed") if name in seconds]
    result.charts = [
        Chart("cold start", "ms", {"time": [seconds[name] * 1000 for name in shown]}, shown, bars=True),
        Chart(
            "after one query",
            "MB of RSS",
            {"memory": [rss[name] / 1e6 for name in shown]},
            shown,
            bars=True,
        ),
    ]
    if chart:
        result.charts.append(chart)
    result.data |= {
        "seconds": seconds,
        "rss_bytes": rss,
        "model_files_bytes": files,
        "runs": {name: [vars(run) for run in own] for name, own in runs.items()},
    }
    return result
