"""``python -m export`` of a checkpoint of each kind, with its proof, and what the runtime makes of the folder."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("needs the `export` extra", allow_module_level=True)

from export import texts as shipped
from export.__main__ import main
from export.package.__main__ import main as package
from runtime import Embedder, ModelError, Reranker
from runtime.manifest import load_manifest
from tests.kinds.conftest import KINDS, make_checkpoint
from tests.serverless.conftest import ARCH, PYTHON
from tests.unverified import make_folder

WORDS = [
    "hello",
    "world",
    "the",
    "there",
    "is",
    "in",
    "it's",
    "déjà",
    "über",
    "1234",
    "日本語",
    "привет",
    "<mask>",
    "ab",
]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand texts and one of some hundred tokens."""
    chance = random.Random(3)
    lines = [" ".join(chance.choices(WORDS, k=1 + number % 12)) for number in range(1000)]
    lines.append(" ".join(chance.choices(WORDS, k=400)))
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def short(checkpoint: Path) -> Path:
    """The checkpoint with a limit of 128 tokens, so that its proof is quick."""
    (checkpoint / "tokenizer_config.json").write_text('{"model_max_length": 128}', encoding="utf-8")
    return checkpoint


@pytest.mark.parametrize("name", [name for name in KINDS if name != "base-en"])
def test_export_of_each_kind(
    name: str, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = short(make_checkpoint(tmp_path / name, *KINDS[name]))
    output = tmp_path / "model"
    arguments = [str(checkpoint), "--output", str(output), "--texts", str(texts), "--precision", "fp32"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "fp32 against torch" in printed.out
    document = load_manifest(output).document
    architecture = {"es": "jinabert-qk-devlin-norm", "code": "jinabert-qk-post-norm", "t5": "t5"}
    assert document["architecture"] == architecture.get(KINDS[name][0], "jinabert")
    assert document["tokenizer"]["type"] == KINDS[name][1]
    assert max(document["verification"]["fp32"]["alone"].values()) <= 1e-5
    with Embedder(output, threads=1) as embedder:
        assert np.isfinite(embedder.encode(["hello world", "", "日本語"])).all()


def test_texts_in_the_languages_of_the_tokenizer_are_verified_too(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "SHIPPED", texts)
    checkpoint = short(make_checkpoint(tmp_path / "base-zh", *KINDS["base-zh"]))
    assert main([str(checkpoint), "--output", str(tmp_path / "model"), "--precision", "fp32"]) == 0
    more = len(shipped.of_tokenizer("character-bpe"))
    assert more > 30
    figures = load_manifest(tmp_path / "model").document["verification"]
    assert figures["tokenizer"]["texts"] == len(shipped.load(texts)) + more


def test_export_of_a_reranker(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = short(make_checkpoint(tmp_path / "reranker", "rerank", "character-bpe"))
    output = tmp_path / "model"
    assert main([str(checkpoint), "--output", str(output), "--texts", str(texts), "--min-cosine", "0.9"]) == 0
    printed = capsys.readouterr().out
    assert "scores against torch" in printed
    assert "Kendall's tau" in printed
    document = load_manifest(output).document
    assert (document["task"], document["dimension"]) == ("rerank", 1)
    with pytest.raises(ModelError, match="Reranker"):
        Embedder(output)
    ranked = Reranker(output, threads=1).rerank("hello", ["the world", "hello there", "日本語"])
    assert sorted(one.index for one in ranked) == [0, 1, 2]
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)


def test_a_package_of_a_reranker_for_lambda(
    wheels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_checkpoint(tmp_path / "reranker", "rerank", "character-bpe")
    folder = make_folder(checkpoint, tmp_path / "model", "fp32")
    options = ["--target", "lambda", "--arch", ARCH, "--python", PYTHON, "--wheels", str(wheels)]
    output = str(tmp_path / "function")
    assert package([*options, "--model", str(folder), "--output", output]) == 0
    assert "tried: scores from the package alone, 0.00000" in capsys.readouterr().out


def test_an_encoder_is_no_reranker(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = short(make_checkpoint(tmp_path / "encoder", "plain", "character-bpe"))
    output = tmp_path / "model"
    for extra in (["--task", "rerank"], ["--name", "jina-reranker-v1-turbo-en"]):
        assert main([str(checkpoint), "--output", str(output), "--texts", str(texts), *extra]) == 2
        assert "no trained head" in capsys.readouterr().err
    fields = json.loads((checkpoint / "config.json").read_text())
    fields["architectures"] = ["JinaBertForSequenceClassification"]
    (checkpoint / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    assert main([str(checkpoint), "--output", str(output), "--texts", str(texts)]) == 2
    assert "no trained head" in capsys.readouterr().err
    assert not output.exists()
