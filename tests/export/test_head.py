"""A trained head: vectors that are cut find what they should, and the folder gives what was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="needs the `distill` extra")

import torch
from torch.nn import functional

from export import rotate
from export.distill import __main__ as command
from export.distill import head
from export.distill.dev import ndcg
from export.distill.recipe import Recipe, Source
from export.errors import ExportError
from runtime import Embedder
from runtime.modules import INT16_SCALE
from tests.tiny import LETTERS, make_model

RECIPE = """
held_out_every = 4

[[sources]]
file = "prose.txt"
prose = true
"""


def corpus(folder: Path) -> Path:
    """Texts of a first sentence and more of the same words."""
    folder.mkdir()
    lines = []
    for number in range(80):
        words = [LETTERS[(number * step) % len(LETTERS)] for step in (1, 3, 5, 7)]
        lines.append(f"{' '.join(words * 6)}. {' '.join(words[::-1] * 20)} hello {number}")
    (folder / "prose.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return folder


def run(*arguments: object) -> int:
    return command.main([str(argument) for argument in arguments])


def test_from_texts_to_a_folder_whose_vectors_can_be_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, texts = make_model(tmp_path / "model", external=True), corpus(tmp_path / "texts")
    dev = tmp_path / "dev.tsv"
    dev.write_text("1\ta b\ta c\n5\ta b\ta b\n0\tc d\te f\n", encoding="utf-8")
    options = [texts, "--head", model, "--recipe", texts / "recipe.toml", "--dev", dev, "--threads", 1]
    assert run(*options, "--output", tmp_path / "run") == 0
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'run' / 'head.npy'}\n"
    assert "rotation: nDCG@10 of 20 held-out passages" in told.err
    assert "trained: nDCG@10" in told.err
    assert "dev.tsv" in told.err
    assert run(*options, "--output", tmp_path / "again") == 0
    first, again = (tmp_path / name / "head.npy" for name in ("run", "again"))
    assert first.read_bytes() == again.read_bytes()
    matrix = np.load(first) / INT16_SCALE
    lines = [f"{a} {b} hello" for a in LETTERS for b in LETTERS]
    written = rotate.rotate(
        model, tmp_path / "turned", lines, force=False, progress=lambda line: None, head=first
    )
    assert written["truncatable"] is True
    assert written["verification"]["head"]["texts"] == len(lines)  # type: ignore[index]
    with Embedder(model, threads=1) as before, Embedder(tmp_path / "turned", threads=1, verify=True) as after:
        expected = before.encode(lines, normalize=False).astype(np.float64) @ matrix.T
        np.testing.assert_allclose(after.encode(lines, normalize=False), expected, atol=1e-5)
        cut = expected[:, :4] / np.linalg.norm(expected[:, :4], axis=1, keepdims=True)
        np.testing.assert_allclose(after.encode(lines, dimensions=4), cut, atol=1e-5)
    options[2] = tmp_path / "turned"
    assert run(*options, "--output", tmp_path / "run") == 2
    assert "has a head or rotation already" in capsys.readouterr().err


def test_training_finds_what_a_rotation_puts_last() -> None:
    chance = torch.Generator().manual_seed(3)
    meaning = 0.95 * torch.randn(600, 64, generator=chance)  # what both of a pair have, and noise
    first, rest = (
        functional.normalize(torch.cat([torch.randn(600, 64, generator=chance), meaning], dim=1), dim=1)
        for _ in range(2)
    )
    start = head.whitening(torch.cat([first, rest]), 0.0)
    trained = head.train(first, rest, start, Recipe((Source("none"),)))
    assert torch.equal(trained, torch.round(trained * INT16_SCALE) / INT16_SCALE)
    assert trained.abs().max() < 1

    def score(matrix: torch.Tensor) -> float:
        left, right = (functional.normalize(side @ matrix[:32].T, dim=1) for side in (first, rest))
        return ndcg(left @ right.T)

    assert score(trained) > score(start) + 0.1


def test_whitening_evens_out_the_variances() -> None:
    vectors = torch.randn(500, 6, generator=torch.Generator().manual_seed(1)) * torch.arange(1.0, 7.0)
    spreads = [(vectors @ head.whitening(vectors, power).T).std(dim=0) for power in (0.0, 0.5, 1.0)]
    ratios = [float(spread.max() / spread.min()) for spread in spreads]
    assert ratios[0] > ratios[1] > ratios[2]
    assert ratios[2] == pytest.approx(1, abs=1e-3)
    assert ratios[1] == pytest.approx(ratios[0] ** 0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((3, 3), np.int16), "holds no head for vectors of 16 numbers"),
        (np.zeros((16, 16), np.float32), "holds no head"),
        (None, "cannot be read as a head"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, array: np.ndarray | None, reason: str) -> None:
    file = tmp_path / "head.npy"
    file.write_bytes(b"no array") if array is None else np.save(file, array)
    with pytest.raises(ExportError, match=reason):
        rotate.load_head(file, 16)
    with pytest.raises(ExportError, match="cannot be read as a head"):
        rotate.load_head(tmp_path / "missing.npy", 16)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--teacher", "t"], "--teacher is for training a student: leave it out with --head"),
        (["--steps", "3"], "--steps is for training a student"),
    ],
)
def test_options_of_a_student_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    assert run(tmp_path, "--head", tmp_path, "--output", tmp_path / "out", *arguments) == 2
    assert reason in capsys.readouterr().err
    assert run("--head", tmp_path, "--output", tmp_path / "out") == 2
    assert "--head needs TEXTS" in capsys.readouterr().err


def test_texts_of_one_sentence_are_too_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = corpus(tmp_path / "texts")
    (texts / "prose.txt").write_text("a short text\nanother short text\n" * 9, encoding="utf-8")
    recipe = texts / "recipe.toml"
    assert run(texts, "--head", tmp_path, "--recipe", recipe, "--output", tmp_path / "out") == 2
    assert "have no texts of several sentences" in capsys.readouterr().err
