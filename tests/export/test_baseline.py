"""optimum's int8 as people use it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from export.baseline import PRESETS, quantize_optimum
from export.checkpoint import load_model
from export.errors import ExportError
from export.trace import trace


@pytest.fixture(scope="module")
def plain(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    trace(load_model(tiny_checkpoint), path)
    return path


def hidden(path: Path, ids: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path)
    (output,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    result: np.ndarray = output
    return result


@pytest.mark.parametrize("preset", PRESETS)
def test_int8_graph(
    plain: Path,
    tmp_path: Path,
    preset: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    quantize_optimum(plain, tmp_path / "model.onnx", preset)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]

    graph = onnx.load(tmp_path / "model.onnx").graph
    operators = Counter(node.op_type for node in graph.node)
    # Per layer: q, k, v, output, gates, wo, and the two products of attention.
    assert (
        operators["MatMulInteger"] == operators["DynamicQuantizeLinear"] + operators["MatMulInteger"] - 2 * 8
    )
    assert operators["MatMulInteger"] == 2 * 8
    assert operators["MatMul"] == 0
    # The embedding table too, or the file is more than twice as large.
    tables = [tensor for tensor in graph.initializer if list(tensor.dims) == [64, 64]]
    assert tables
    assert all(tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) for tensor in tables)

    ids = np.random.default_rng(0).integers(5, 64, (2, 30))
    seen, expected = (hidden(path, ids).mean(1) for path in (tmp_path / "model.onnx", plain))
    cosine = (seen * expected).sum(1) / np.linalg.norm(seen, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.97


def test_the_plain_graph_stays(plain: Path, tmp_path: Path) -> None:
    before = plain.read_bytes()
    quantize_optimum(plain, tmp_path / "model.onnx")
    assert plain.read_bytes() == before
    assert [path.name for path in plain.parent.iterdir()] == [plain.name]


def test_refusals(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'avx9'.*avx512_vnni"):
        quantize_optimum(plain, tmp_path / "model.onnx", "avx9")
    with pytest.raises(ExportError, match=r"absent\.onnx is missing"):
        quantize_optimum(tmp_path / "absent.onnx", tmp_path / "model.onnx")
