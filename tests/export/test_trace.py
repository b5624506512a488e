"""The traced graphs: any length at any batch size, and one node a layer in the coarse form."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from export.checkpoint import load_model
from export.errors import ExportError
from export.modeling import LAYER_WEIGHTS, JinaBertModel
from export.trace import trace
from tests.paths import SHARED

LENGTHS = (1, 2, 3, 100, 513)
LONG = 2048
TRAINED = SHARED / "model" / "jinabert-small-distilled"


def ragged(vocabulary: int, batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids, the second text of a batch half as long as the first."""
    ids = torch.randint(5, vocabulary, (batch, length), generator=torch.Generator().manual_seed(length))
    mask = torch.ones_like(ids)
    if batch > 1:
        mask[1, (length + 1) // 2 :] = 0
    return ids * mask, mask


def unit_means(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Vectors [batch, hidden]: unit length, mean over real tokens."""
    means = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    vectors: np.ndarray = means / np.linalg.norm(means, axis=1, keepdims=True)
    return vectors


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(path, options)


def worst_difference(
    model: JinaBertModel, path: Path, lengths: tuple[int, ...]
) -> dict[tuple[int, int], float]:
    """(batch, length) -> largest difference of a component of the unit vectors, onnxruntime against torch."""
    runner = session(path)
    found = {}
    for length in lengths:
        model.block_rows = 256 if length > 1000 else None
        for batch in (1, 3):
            ids, mask = ragged(model.config.vocab_size, batch, length)
            with torch.no_grad():
                expected = model(ids, mask).last_hidden_state.numpy()
            (seen,) = runner.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
            assert seen.dtype == np.float32
            assert seen.shape == expected.shape
            difference = unit_means(seen, mask.numpy()) - unit_means(expected, mask.numpy())
            found[batch, length] = float(np.abs(difference).max())
    model.block_rows = None
    return found


def shapes(values: object) -> dict[str, tuple[int, list[str | int]]]:
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in values  # type: ignore[attr-defined]
    }


@pytest.fixture(params=["tiny_checkpoint", "six_heads_checkpoint"])
def model(request: pytest.FixtureRequest) -> JinaBertModel:
    return load_model(request.getfixturevalue(request.param))


@pytest.mark.parametrize("lengths", [LENGTHS, pytest.param((LONG,), marks=pytest.mark.slow)])
def test_plain_holds_for_every_length(model: JinaBertModel, tmp_path: Path, lengths: tuple[int, ...]) -> None:
    trace(model, tmp_path / "plain.onnx", coarse=False)
    worst = worst_difference(model, tmp_path / "plain.onnx", lengths)
    assert max(worst.values()) < 1e-5, worst


@pytest.mark.slow
@pytest.mark.skipif(not TRAINED.is_dir(), reason="needs ../shared/model/jinabert-small-distilled")
def test_plain_of_a_trained_checkpoint(tmp_path: Path) -> None:
    model = load_model(TRAINED)
    trace(model, tmp_path / "plain.onnx", coarse=False)
    worst = worst_difference(model, tmp_path / "plain.onnx", (*LENGTHS, LONG))
    assert max(worst.values()) < 1e-5, worst


@pytest.mark.parametrize("coarse", [False, True])
def test_inputs_and_outputs(model: JinaBertModel, tmp_path: Path, coarse: bool) -> None:
    graph = trace(model, tmp_path / "model.onnx", coarse=coarse).graph
    axes = ["batch", "sequence"]
    assert shapes(graph.input) == {
        "input_ids": (onnx.TensorProto.INT64, axes),
        "attention_mask": (onnx.TensorProto.INT64, axes),
    }
    assert shapes(graph.output) == {
        "last_hidden_state": (onnx.TensorProto.FLOAT, [*axes, model.config.hidden_size])
    }


def test_nothing_of_the_trace_is_as_large_as_a_position_table(model: JinaBertModel, tmp_path: Path) -> None:
    graph = trace(model, tmp_path / "model.onnx", coarse=False).graph
    # Weights only: no [heads, 8192, 8192] bias, no token types, no pooler.
    parameters = sum(p.numel() for p in model.parameters())
    token_types = model.embeddings.token_type_embeddings.weight.numel()
    stored = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    assert 0 <= stored - (parameters - token_types) < 50
    assert not any("token_type" in tensor.name for tensor in graph.initializer)


def test_coarse_nodes(model: JinaBertModel, tmp_path: Path) -> None:
    graph = trace(model, tmp_path / "coarse.onnx", coarse=True).graph
    assert [node.op_type for node in graph.node] == ["Gather", "LayerNormalization", "Layer", "Layer"]
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    hidden = graph.node[1].output[0]
    for node, layer in zip(graph.node[2:], model.encoder.layer, strict=True):
        assert node.domain == "jinabert"
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert attributes == {"heads": layer.heads, "eps": pytest.approx(1e-12, rel=1e-6)}
        assert list(node.input[:2]) == [hidden, "attention_mask"]
        for name, weight in zip(node.input[2:], LAYER_WEIGHTS, strict=True):
            assert np.array_equal(weights[name], layer.get_parameter(weight).numpy()), weight
        hidden = node.output[0]
    assert hidden == "last_hidden_state"
    table = weights[graph.node[0].input[0]]
    assert np.array_equal(table, model.embeddings.word_embeddings.weight.numpy())  # token type 0 folded in


def test_coarse_nodes_have_weights_of_equal_value_as_inputs(tiny_checkpoint: Path, tmp_path: Path) -> None:
    # torch keeps one of several equal tensors and puts Identity nodes in the place of the others.
    model = load_model(tiny_checkpoint)
    for layer in model.encoder.layer:
        layer.mlp.wo.bias.zero_()
        layer.attention.output.dense.bias.zero_()
    graph = trace(model, tmp_path / "coarse.onnx", coarse=True).graph
    names = {tensor.name for tensor in graph.initializer}
    assert [node.op_type for node in graph.node] == ["Gather", "LayerNormalization", "Layer", "Layer"]
    assert all(set(node.input[2:]) <= names for node in graph.node[2:])


@pytest.mark.parametrize("opset", [17, 20, 21])
def test_opset(tiny_checkpoint: Path, tmp_path: Path, opset: int) -> None:
    model = load_model(tiny_checkpoint)
    proto = trace(model, tmp_path / "plain.onnx", coarse=False, opset=opset)
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": opset}
    assert onnx.load(tmp_path / "plain.onnx") == proto
    assert max(worst_difference(model, tmp_path / "plain.onnx", (1, 100)).values()) < 1e-5


@pytest.mark.parametrize("opset", [16, 22])
def test_opset_refused(tiny_checkpoint: Path, tmp_path: Path, opset: int) -> None:
    with pytest.raises(ExportError, match=f"opset {opset}"):
        trace(load_model(tiny_checkpoint), tmp_path / "plain.onnx", coarse=False, opset=opset)


def test_nothing_is_said(
    tiny_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace(load_model(tiny_checkpoint), tmp_path / "plain.onnx", coarse=False)
        trace(load_model(tiny_checkpoint), tmp_path / "coarse.onnx", coarse=True)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_a_frozen_length_fails(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_checkpoint)
    forward = model.embeddings.forward

    def branching(ids: torch.Tensor) -> torch.Tensor:
        return forward(ids) if int(ids.shape[1]) < 100 else forward(ids) * 1.0

    monkeypatch.setattr(model.embeddings, "forward", branching)
    with pytest.raises(ExportError, match="freeze"):
        trace(model, tmp_path / "plain.onnx", coarse=False)


def test_the_model_is_as_before(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = load_model(tiny_checkpoint)
    model.block_rows = 3
    ids, mask = ragged(64, 2, 11)
    before = model(ids, mask).last_hidden_state
    trace(model, tmp_path / "coarse.onnx", coarse=True)
    assert (model.coarse, model.block_rows) == (False, 3)
    assert torch.equal(model(ids, mask).last_hidden_state, before)
