"""Vectors that can be cut: the same through every door, and refused where a model's vectors mean nothing when cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime import Embedder, InputError, ModelError, embed
from runtime.handlers.service import Service
from runtime.handlers.settings import from_environment
from runtime.integrations.sentence_transformers import SentenceTransformer
from tests.tiny import make_model

TEXTS = ["hello world", "", "a b c d e", "x y z"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "truncatable", truncatable=True)


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Embedder]:
    with Embedder(folder, threads=1) as embedder:
        yield embedder


@pytest.mark.parametrize("dimensions", [1, 5, np.int64(8), 16])
def test_the_first_numbers_are_kept_and_have_length_one(model: Embedder, dimensions: int) -> None:
    whole = model.encode(TEXTS)
    cut = model.encode(TEXTS, dimensions=dimensions)
    assert cut.shape == (4, dimensions)
    assert cut.dtype == np.float32
    expected = whole[:, :dimensions] / np.linalg.norm(whole[:, :dimensions], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, atol=1e-6)
    np.testing.assert_array_equal(model.encode(TEXTS[0], dimensions=dimensions), cut[0])
    raw = model.encode(TEXTS, dimensions=dimensions, normalize=False)
    np.testing.assert_array_equal(raw, model.encode(TEXTS, normalize=False)[:, :dimensions])


def test_all_of_them_are_what_one_gets_without_asking(model: Embedder) -> None:
    np.testing.assert_array_equal(model.encode(TEXTS, dimensions=16), model.encode(TEXTS))


def test_chunks_can_be_cut(model: Embedder) -> None:
    whole = model.encode_chunks(TEXTS[2], 2)
    cut = model.encode_chunks(TEXTS[2], 2, dimensions=6)
    for long, short in zip(whole, cut, strict=True):
        assert short[:4] == long[:4]
        np.testing.assert_allclose(short.vector, long.vector[:6] / np.linalg.norm(long.vector[:6]), atol=1e-6)


def test_cut_vectors_are_compared_with_each_other(model: Embedder, tiny: Embedder) -> None:
    cut = model.encode(TEXTS, dimensions=6)
    np.testing.assert_allclose(model.similarity(cut, cut), cut @ cut.T, atol=1e-6)
    with pytest.raises(InputError, match="of 6 and of 16 numbers: give both as many"):
        model.similarity(cut, TEXTS)
    with pytest.raises(InputError, match=r"expected \[16\] or \[n, 16\]"):
        tiny.similarity(cut, cut)


@pytest.mark.parametrize("dimensions", [0, -1, 17, True, 2.0, "8"])
def test_a_number_that_cannot_be_is_refused(model: Embedder, dimensions: object) -> None:
    with pytest.raises(InputError, match=r"^dimensions=.*: expected an integer from 1 to 16$"):
        model.encode(TEXTS, dimensions=dimensions)  # type: ignore[call-overload]


def test_a_model_that_was_not_made_for_it_is_not_cut(tiny: Embedder) -> None:
    np.testing.assert_array_equal(tiny.encode(TEXTS, dimensions=16), tiny.encode(TEXTS))
    for refused in (lambda: tiny.encode(TEXTS, dimensions=8), lambda: tiny.encode_chunks("a", dimensions=8)):
        with pytest.raises(InputError, match=r"tiny has 16, and its vectors cannot be cut: .*--rotate"):
            refused()


def test_a_manifest_says_so_with_true_or_false(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", truncatable="yes")
    with pytest.raises(ModelError, match="truncatable is 'yes', not true or false"):
        Embedder(folder)


def test_the_command_line_cuts(
    model: Embedder, folder: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(folder), "--threads", "1"]
    assert embed.main([*options, "--dimensions", "6", TEXTS[0]]) == 0
    found = json.loads(capsys.readouterr().out)["embedding"]
    np.testing.assert_array_equal(np.float32(found), model.encode(TEXTS[0], dimensions=6))
    npy = tmp_path / "vectors.npy"
    assert embed.main([*options, "--dimensions", "6", "--format", "npy", "--output", str(npy), *TEXTS]) == 0
    np.testing.assert_array_equal(np.load(npy), model.encode(TEXTS, dimensions=6))
    assert embed.main([*options, "--dimensions", "6", "--similarity", *TEXTS[::2]]) == 0
    cosine = float(capsys.readouterr().out.split("\n")[0].split()[1])
    cut = model.encode(TEXTS[::2], dimensions=6)
    assert cosine == pytest.approx(float(cut[0] @ cut[1]), abs=1e-5)
    assert embed.main(["--model", str(tiny_folder), "--dimensions", "6", TEXTS[0]]) == 2
    assert "cannot be cut" in capsys.readouterr().err


def test_handlers_cut(model: Embedder, folder: Path) -> None:
    service = Service(from_environment({"JINABERT_MODEL": str(folder), "JINABERT_MEMORY_MB": "0"}))
    for request, options in (({}, {}), ({"normalized": False}, {"normalize": False})):
        answer = service.answer({"input": TEXTS, "dimensions": 6, **request})
        found = np.array([item["embedding"] for item in answer["data"]], np.float32)
        np.testing.assert_array_equal(found, model.encode(TEXTS, dimensions=6, **options))
    error = service.answer({"input": TEXTS, "dimensions": 17})["error"]
    assert (error["status"], error["code"]) == (400, "invalid_dimensions")


def test_truncate_dim_of_sentence_transformers(model: Embedder, folder: Path) -> None:
    expected = model.encode(TEXTS, dimensions=6)
    np.testing.assert_array_equal(SentenceTransformer(folder).encode(TEXTS, truncate_dim=6), expected)
    shorter = SentenceTransformer(folder, truncate_dim=6)
    np.testing.assert_array_equal(shorter.encode(TEXTS), expected)
    assert shorter.get_sentence_embedding_dimension() == 6
