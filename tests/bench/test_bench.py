"""The benchmarks run: their command line, their harness on a tiny model, and what they write."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import harness, report
from tests.bench.__main__ import BENCHMARKS, main
from tests.bench.corpora import save
from tests.paths import ROOT


def test_help_names_every_benchmark() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert all(name in result.stdout for name in [*BENCHMARKS, "all"])


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["throughput", "--model", str(tmp_path / "none"), "--checkpoint", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("python -m tests.bench throughput: ")
    assert captured.err.count("\n") == 1


@pytest.fixture(scope="module")
def worker(tiny_folder: Path) -> Iterator[harness.Worker]:
    with harness.Worker("tiny", sys.executable, "ours", {"model": str(tiny_folder), "threads": 1}) as started:
        yield started


def test_workers_take_turns_and_every_block_is_timed(worker: harness.Worker, tmp_path: Path) -> None:
    file = save(["hello world", "hello"], tmp_path / "texts.json")
    whole = {"do": "time", "what": "encode", "file": file, "seconds": 0.01}
    alone = {"do": "time", "what": "run", "ids": [[2, 5, 3]], "seconds": 0.01}
    timings = harness.interleave({"whole": (worker, whole), "alone": (worker, alone)}, rounds=3)
    assert {name: len(timing.blocks) for name, timing in timings.items()} == {"whole": 3, "alone": 3}
    assert all(0 < timing.median < 10 for timing in timings.values())


def test_vectors_come_back_in_a_file(worker: harness.Worker, tmp_path: Path) -> None:
    import numpy as np

    worker.ask("texts", file=save(["hello world", "hello"], tmp_path / "texts.json"))
    worker.ask("vectors", file=str(tmp_path / "vectors.npy"))
    vectors = np.load(tmp_path / "vectors.npy")
    assert vectors.shape == (2, 16)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)


def test_the_parts_of_an_encode_add_up(worker: harness.Worker, tmp_path: Path) -> None:
    file = save(["hello world"] * 20, tmp_path / "texts.json")
    parts = worker.ask("parts", file=file, rounds=1, fresh=True)["parts"]
    assert parts.pop("whole") == pytest.approx(sum(parts.values()))


def test_a_worker_says_in_one_line_what_it_cannot_do(worker: harness.Worker, tmp_path: Path) -> None:
    with pytest.raises(harness.WorkerError, match=r"tiny: FileNotFoundError: .*missing\.json"):
        worker.ask("texts", file=str(tmp_path / "missing.json"))
    assert worker.ask("memory")["rss"] > 1 << 20  # and goes on


def test_a_peer_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(harness.WorkerError, match="nobody: ModelError: .*does not exist"):
        harness.Worker("nobody", sys.executable, "ours", {"model": str(tmp_path / "none"), "threads": 1})


def test_a_finished_process_tells_its_time_and_memory() -> None:
    ended = harness.finish([sys.executable, "-c", "print(sum(range(100)))"], 1)
    assert ended.output == "4950\n"
    assert ended.seconds >= ended.cpu_seconds * 0.5 > 0
    assert ended.peak_bytes > 1 << 20
    with pytest.raises(harness.WorkerError, match="ended with 3: gone"):
        harness.finish([sys.executable, "-c", "import sys; sys.stderr.write('gone'); sys.exit(3)"], 1)


def test_results_are_written_as_json_and_shown_as_markdown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = report.Result(
        "one", [report.Table("A table", ["name", "time"], [["a", "1.00 ms"]])], data={"a": 1}
    )
    report.show(result)
    assert "| name |    time |\n| ---- | ------: |\n| a    | 1.00 ms |" in capsys.readouterr().out
    (file,) = report.write(result, tmp_path / "figures")
    document = json.loads(file.read_text(encoding="utf-8"))
    assert document["a"] == 1
    assert document["tables"][0]["rows"] == [["a", "1.00 ms"]]


def test_plots_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    charts = [
        report.Chart("bars", "s", {"a": [1.0, None], "b": [2.0, 3.0]}, ["x", "y"], bars=True),
        report.Chart("lines", "s", {"a": [1.0, None, 4.0]}, [128, 512, 2048], "tokens", logarithmic=True),
    ]
    files = report.write(report.Result("two", charts=charts), tmp_path)
    assert files[1].read_bytes().startswith(b"\x89PNG")
