"""Training on another machine: the bundle that goes there, and the weights that come home."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from export.checkpoint import load_model
from export.distill import bundle
from export.errors import ExportError
from tests.export.distilling import VOCABULARY, command, run

pytest.importorskip("scipy", reason="needs the `distill` extra")


def test_a_bundle_trains_elsewhere_and_its_result_is_finished_here(place: Path, tmp_path: Path) -> None:
    """The extracted bundle needs nothing of the repository, the corpus or the teachers, and trains the same student."""
    dev_pairs = place / "evaluation" / "sts" / "a.tsv"
    prepare = command(place, tmp_path / "here", "--dev", str(dev_pairs), recipe="two.toml")
    written = run([*prepare, "--teacher", str(place / "second"), "--prepare", str(tmp_path / "b.tar.xz")])
    assert written.returncode == 0, written.stderr
    assert not (tmp_path / "here" / "checkpoint").exists()
    with tarfile.open(tmp_path / "b.tar.xz") as tar:
        tar.extractall(tmp_path / "b", filter="data")
    elsewhere = [
        sys.executable,
        "-W",
        "error",
        "train.py",
        "--output",
        str(tmp_path / "run"),
        "--threads",
        "1",
    ]
    trained = subprocess.run(
        [*elsewhere, "--parts", str(tmp_path / "parts"), "--score-steps", "22"],
        cwd=tmp_path / "b",
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert trained.returncode == 0, trained.stderr
    assert "step 44 of 44" in trained.stderr
    finish = [sys.executable, "-W", "error", "-m", "export.distill", "--bundle", str(tmp_path / "b")]
    finished = run([*finish, "--output", str(tmp_path / "there"), "--result", str(tmp_path / "parts")])
    assert finished.returncode == 0, finished.stderr
    assert "weights of step 44" in finished.stderr
    record = json.loads((tmp_path / "there" / "checkpoint" / "training.json").read_text())
    assert [step for step, _ in record["dev_scores"]] == [0, 22, 44]
    assert load_model(tmp_path / "there" / "checkpoint").config.hidden_size == 32
    (tmp_path / "parts" / "weights.000.part").write_bytes(b"cut off")
    damaged = run([*finish, "--output", str(tmp_path / "there"), "--result", str(tmp_path / "parts")])
    assert damaged.returncode == 2
    assert "1 parts do not make a whole" in damaged.stderr


def test_weights_come_home_in_parts(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(1)
    weights = {
        "embeddings.word_embeddings.weight": torch.randn(50, 16, generator=rng),
        "a": torch.randn(7, generator=rng),
    }
    files = bundle.write_parts(weights, {"step": 3}, tmp_path, 500)
    assert len(files) > 1
    assert all(file.stat().st_size <= 500 for file in files)
    found, record = bundle.read_parts(tmp_path)
    assert record == {"step": 3}
    assert torch.allclose(found["a"], weights["a"], atol=1e-3)
    table = weights["embeddings.word_embeddings.weight"]
    assert (found["embeddings.word_embeddings.weight"] - table).abs().max() <= table.abs().max() / 254 * 1.01
    files[0].unlink()
    with pytest.raises(ExportError, match="do not make a whole"):
        bundle.read_parts(tmp_path)


def test_fewer_dimensions_keep_what_is_similar() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((200, 5)) @ rng.standard_normal((5, 40))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    fewer = bundle.project(vectors, 6).astype(np.float32)
    assert fewer.shape == (200, 6)
    assert np.abs(fewer @ fewer.T - vectors.astype(np.float32) @ vectors.astype(np.float32).T).max() < 0.005


def test_a_bundle_of_more_than_the_limit_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "LIMIT", 1 << 10)
    (tmp_path / "texts.xz").write_bytes(b"")
    with pytest.raises(ExportError, match=r"would pass 0 MiB \(train.py|would pass 0 MiB \(code"):
        bundle.write(
            tmp_path / "b.tar.xz",
            run=tmp_path,
            recipe=place / "one.toml",
            teacher=place / "first",
            second=None,
            vocabulary=VOCABULARY,
            dev=None,
            start=None,
        )
    assert not list(tmp_path.glob("b.tar*"))
