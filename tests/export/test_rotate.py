"""Rotation: cosines stay, the first dimensions hold most, and the folder is otherwise the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export import rotate
from export.errors import ExportError
from runtime import Embedder
from tests.tiny import LETTERS, make_model

TEXTS = [f"{a} {b}{c} hello" for a in LETTERS[:6] for b in LETTERS[6:12] for c in LETTERS[12:16]]


def rotated(tmp_path: Path) -> tuple[Path, Path, dict[str, object]]:
    straight = make_model(tmp_path / "straight", external=True)
    written = rotate.rotate(straight, tmp_path / "rotated", TEXTS, force=False, progress=lambda line: None)
    return straight, tmp_path / "rotated", written


def test_cosines_stay_and_the_first_dimensions_hold_most(tmp_path: Path) -> None:
    straight, folder, manifest = rotated(tmp_path)
    with Embedder(straight, threads=1) as before, Embedder(folder, threads=1, verify=True) as after:
        old, new = before.encode(TEXTS), after.encode(TEXTS)
        np.testing.assert_allclose(new @ new.T, old @ old.T, atol=1e-6)
        assert np.abs(new - old).max() > 0.1
        np.testing.assert_allclose(
            np.linalg.norm(after.encode(TEXTS, normalize=False), axis=1),
            np.linalg.norm(before.encode(TEXTS, normalize=False), axis=1),
            rtol=1e-5,
        )
        spread = new.astype(np.float64).var(axis=0)
        assert (np.diff(spread) <= 1e-7).all()
        whole = (old @ old.T)[np.triu_indices(len(TEXTS), 1)]

        def kept(vectors: np.ndarray) -> float:
            return float(np.corrcoef((vectors @ vectors.T)[np.triu_indices(len(TEXTS), 1)], whole)[0, 1])

        unrotated = old[:, :8] / np.linalg.norm(old[:, :8], axis=1, keepdims=True)
        assert kept(after.encode(TEXTS, dimensions=8)) > kept(unrotated)
        assert after.manifest.name == before.manifest.name
    assert manifest["truncatable"] is True
    assert float(manifest["verification"]["rotation"]["largest_change_of_a_cosine"]) < 1e-6  # type: ignore[index]


def test_int8_weights_are_rotated_in_int16(tmp_path: Path) -> None:
    straight = make_model(tmp_path / "straight", precision="int8", scheme="per-token")
    written = rotate.rotate(straight, tmp_path / "rotated", TEXTS, force=False, progress=lambda line: None)
    (module,) = written["modules"]  # type: ignore[misc]
    assert module["dtype"] == "int16"
    assert (tmp_path / "rotated" / "modules.bin").stat().st_size == 2 * 16 * 16
    with Embedder(straight, threads=1) as before, Embedder(tmp_path / "rotated", threads=1) as after:
        old, new = before.encode(TEXTS), after.encode(TEXTS)
        np.testing.assert_allclose(new @ new.T, old @ old.T, atol=1e-4)


def test_a_rotated_folder_is_not_rotated_again(tmp_path: Path) -> None:
    _, folder, _ = rotated(tmp_path)
    with pytest.raises(ExportError, match="is rotated already"):
        rotate.rotate(folder, tmp_path / "again", TEXTS, force=False, progress=lambda line: None)
    with pytest.raises(ExportError, match="exists: pass --force"):
        rotate.rotate(tmp_path / "straight", folder, TEXTS, force=False, progress=lambda line: None)


def test_components_are_a_rotation_in_the_order_of_variance() -> None:
    vectors = np.random.default_rng(1).standard_normal((50, 6)) * [1, 5, 2, 0, 3, 4] + 10
    components = rotate.principal_components(vectors)
    np.testing.assert_allclose(components @ components.T, np.eye(6), atol=1e-12)
    assert (np.diff((vectors @ components.T).var(axis=0)) <= 1e-9).all()
    assert np.abs(components).argmax(axis=1)[0] == 1
    assert (components[np.arange(6), np.abs(components).argmax(axis=1)] > 0).all()


def test_a_model_folder_of_fp32_is_taken_only_to_be_rotated(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the `export` extra")
    from export import pipeline

    straight = make_model(tmp_path / "straight")
    texts = tmp_path / "texts"
    texts.write_text("".join(f"{text} {number}\n" for number in range(7) for text in TEXTS))
    settings = pipeline.ExportSettings(str(straight), tmp_path / "out", texts=texts)
    with pytest.raises(ExportError, match="is a model folder already, .*--rotate"):
        pipeline.export_checkpoint(settings, lambda line: None)
    written, _ = pipeline.export_checkpoint(
        pipeline.ExportSettings(str(straight), tmp_path / "out", texts=texts, rotate=True), lambda line: None
    )
    assert written["truncatable"] is True
    with Embedder(tmp_path / "out", threads=1) as embedder:
        assert embedder.encode("hello", dimensions=4).shape == (4,)
