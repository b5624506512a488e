"""A model folder made again from its own weights: the same int8 values in the graph that is built today."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from export import folder, graph
from export.__main__ import main
from export.distill.dequantize import load_model_folder, stored_arrays
from export.graph.weights import quantize_matrix
from export.models.jinabert import JinaBertConfig, JinaBertModel
from runtime import Embedder
from tests.export.conftest import WORDS, tiny_fields, write_checkpoint
from tests.unverified import make_folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chance = np.random.default_rng(0)
    words = [word for word in WORDS if not word.startswith("##")]
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    lines = [" ".join(chance.choice(words, length)) for length in chance.integers(1, 30, 1000)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 32, whose root is no power of two."""
    folder = tmp_path_factory.mktemp("remake")
    checkpoint = write_checkpoint(folder, tiny_fields(heads=2))
    made = make_folder(checkpoint, folder / "small", "int8")
    (made / "README.md").write_text("a card")
    return made


def test_int8_values_and_vectors_stay(
    small: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "again"
    assert main([str(small), "--output", str(output), "--texts", str(corpus), "--name", "again"]) == 0
    before, after = stored_arrays(small), stored_arrays(output)
    weights = {name for name in before if name.startswith("encoder.layer.")}
    assert len(weights) > 2 * 20
    for name in weights:
        np.testing.assert_array_equal(before[name], after[name])
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["name"] == "again"
    assert manifest["verification"]["remade"]["worst"] > 0.99999
    assert (output / "README.md").read_text() == "a card"
    assert "again: jinabert" in capsys.readouterr().out
    with Embedder(small, threads=1) as old, Embedder(output, threads=1, verify=True) as new:
        texts = corpus.read_text().splitlines()[:50]
        np.testing.assert_array_equal(old.encode(texts), new.encode(texts))


def test_a_folder_is_replaced_by_itself(small: Path, corpus: Path, tmp_path: Path) -> None:
    command = [str(small), "--output", str(tmp_path / "one"), "--texts", str(corpus)]
    assert main(command) == 0
    first = (tmp_path / "one" / "model.onnx.data").read_bytes()
    assert main([str(tmp_path / "one"), *command[1:], "--force"]) == 0
    assert (tmp_path / "one" / "model.onnx.data").read_bytes() == first
    assert (tmp_path / "one" / "README.md").exists()


@pytest.mark.parametrize("option", ["--compare", "--precision=fp32", "--scheme=optimum"])
def test_options_that_need_the_checkpoint_are_refused(
    small: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main([str(small), "--output", str(tmp_path / "x"), "--texts", str(corpus), option]) == 2
    assert (
        "is a model folder already: for anything but our int8, give its checkpoint" in capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []


def test_channels_multiplied_before_they_are_quantised_come_back(tmp_path: Path) -> None:
    """As smoothing leaves them: the int8 matrices are divided by a factor, which the graph multiplies channels by."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = JinaBertModel(JinaBertConfig(**sizes, intermediate_size=48))
    encoder = model.export_weights()
    factor = np.full(32, 0.5, np.float32)
    factor[::3] = 4
    layer = dict(encoder.layers[0])
    for name in ("attention.self", "mlp"):
        layer[name + ".factor"] = factor
    for name in ("attention.self.query", "attention.self.key", "attention.self.value", "mlp.gate", "mlp.up"):
        divided = layer[name + ".fp32"] / factor[:, None]
        layer[name + ".int8"], layer[name + ".scale"] = quantize_matrix(divided)
    folder.save_model(graph.build(dataclasses.replace(encoder, layers=[layer])), tmp_path)
    manifest = {"precision": "int8", "scheme": "per-token", "layers": 1, "heads": 2, "intermediate": 48}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    loaded = load_model_folder(tmp_path).export_weights().layers[0]
    for name in ("attention.self.value", "mlp.up", "mlp.wo"):
        expected = layer[name + ".fp32"]
        assert np.abs(loaded[name + ".fp32"] - expected).max() < 0.05 * np.abs(expected).max()
