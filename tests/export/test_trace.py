"""The traced graph: any length at any batch size."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export.checkpoint import load_model
from export.errors import ExportError
from export.models.jinabert import JinaBertModel
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
    trace(model, tmp_path / "plain.onnx")
    worst = worst_difference(model, tmp_path / "plain.onnx", lengths)
    assert max(worst.values()) < 1e-5, worst


@pytest.mark.slow
@pytest.mark.skipif(not TRAINED.is_dir(), reason="needs ../shared/model/jinabert-small-distilled")
def test_plain_of_a_trained_checkpoint(tmp_path: Path) -> None:
    model = load_model(TRAINED)
    trace(model, tmp_path / "plain.onnx")
    worst = worst_difference(model, tmp_path / "plain.onnx", (*LENGTHS, LONG))
    assert max(worst.values()) < 1e-5, worst


def test_inputs_and_outputs(model: JinaBertModel, tmp_path: Path) -> None:
    graph = trace(model, tmp_path / "model.onnx").graph
    axes = ["batch", "sequence"]
    assert shapes(graph.input) == {
        "input_ids": (onnx.TensorProto.INT64, axes),
        "attention_mask": (onnx.TensorProto.INT64, axes),
    }
    assert shapes(graph.output) == {
        "last_hidden_state": (onnx.TensorProto.FLOAT, [*axes, model.config.hidden_size])
    }


def test_nothing_of_the_trace_is_as_large_as_a_position_table(model: JinaBertModel, tmp_path: Path) -> None:
    graph = trace(model, tmp_path / "model.onnx").graph
    # Weights only: no [heads, 8192, 8192] bias, no pooler.
    parameters = sum(p.numel() for p in model.parameters())
    stored = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    assert abs(stored - parameters) < 150


@pytest.mark.parametrize("opset", [17, 20, 21])
def test_opset(tiny_checkpoint: Path, tmp_path: Path, opset: int) -> None:
    model = load_model(tiny_checkpoint)
    proto = trace(model, tmp_path / "plain.onnx", opset=opset)
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": opset}
    assert onnx.load(tmp_path / "plain.onnx") == proto
    assert max(worst_difference(model, tmp_path / "plain.onnx", (1, 100)).values()) < 1e-5


@pytest.mark.parametrize("opset", [16, 22])
def test_opset_refused(tiny_checkpoint: Path, tmp_path: Path, opset: int) -> None:
    with pytest.raises(ExportError, match=f"opset {opset}"):
        trace(load_model(tiny_checkpoint), tmp_path / "plain.onnx", opset=opset)


def test_nothing_is_said(
    tiny_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace(load_model(tiny_checkpoint), tmp_path / "plain.onnx")
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
        trace(model, tmp_path / "plain.onnx")


def test_the_model_is_as_before(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = load_model(tiny_checkpoint)
    model.block_rows = 3
    ids, mask = ragged(64, 2, 11)
    before = model(ids, mask).last_hidden_state
    trace(model, tmp_path / "plain.onnx")
    assert model.block_rows == 3
    assert torch.equal(model(ids, mask).last_hidden_state, before)
