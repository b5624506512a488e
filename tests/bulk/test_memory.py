"""Memory does not grow with the corpus."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import tiny as tiny_module
from tests.bulk.conftest import spawn
from tests.tiny import make_model

pa = pytest.importorskip("pyarrow", reason='needs pip install "jinabert-runtime[bulk]"')
pq = pytest.importorskip("pyarrow.parquet")

DIMENSION = 512  # as the real model: the vectors of LARGE rows are 328 MB
SMALL, LARGE = 40_000, 160_000
GROWTH_BYTES = 40 << 20


def peak_bytes(source: Path, output: Path, model: Path) -> int:
    """The largest of a job's processes, at its largest."""
    process = spawn(
        source, "--output", output, "--model", model, "--processes", "1", "--threads", "1", "--quiet"
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    return used.ru_maxrss * 1024


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_four_times_the_rows_take_no_more_memory(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_module, "DIMENSION", DIMENSION)
    model = make_model(tmp_path / "model")
    peaks = []
    for rows in (SMALL, LARGE):
        source = tmp_path / f"{rows}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.table({"text": ["hello", "world"] * (rows // 2)}), source)  # one row group
        else:
            source.write_text('{"text": "hello"}\n{"text": "world"}\n' * (rows // 2))
        peaks.append(peak_bytes(source, tmp_path / f"out-{rows}", model))
    assert peaks[1] - peaks[0] < GROWTH_BYTES, peaks
