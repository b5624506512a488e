"""The graph that ships against the torch module: both branches, every length, alone and in batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export.checkpoint import load_model
from export.folder import save_model
from export.graph import MAX_DENSE_TOKENS, build, linear_names
from export.graph.builder import FLOAT, Builder, value
from export.graph.encoder import Encoder
from export.graph.tokens import Tokens, normalize
from export.models import EncoderModel

Run = Callable[[onnx.ModelProto, np.ndarray, np.ndarray], np.ndarray]


@pytest.fixture(
    params=["tiny_checkpoint", "six_heads_checkpoint", "es_checkpoint", "code_checkpoint", "t5_checkpoint"]
)
def checkpoint(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def loaded(checkpoint: Path) -> tuple[EncoderModel, Encoder]:
    model = load_model(checkpoint)
    model.block_rows = 256
    return model, model.export_weights()


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(graph: onnxruntime.InferenceSession, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    mask = np.ones_like(ids) if mask is None else mask
    return graph.run(None, {"input_ids": ids, "attention_mask": mask})[0]


def in_torch(model: EncoderModel, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        tensor = torch.from_numpy(ids)
        return model(tensor, torch.ones_like(tensor)).last_hidden_state.numpy()


def unit(hidden: np.ndarray) -> np.ndarray:
    mean = hidden.astype(np.float64).mean(axis=-2)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def tokens(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(5, 60, (1, length))


LENGTHS = [1, 2, 3, 100, 513, MAX_DENSE_TOKENS, MAX_DENSE_TOKENS + 1, 1151, 1152, 1153, 2048, 5000]


@pytest.mark.parametrize("channels", [32, 24])  # with and without InstanceNormalization
@pytest.mark.parametrize("shape", [(3, 5), (5,)])
def test_normalize_is_layer_normalization(channels: int, shape: tuple[int, ...]) -> None:
    g, rng = Builder(), np.random.default_rng(1)
    weight, bias = rng.random((2, channels)).astype(np.float32)
    batch, length = (g.constant(np.array(part)) for part in (shape[:1], shape[-1:]))
    tokens = Tokens.counted(g, batch if len(shape) == 2 else None, length)
    normalize(g, "x", g.constant(weight), g.constant(bias), channels, 1e-12, tokens)
    g.nodes[-1].output[0] = "y"
    axes: list[str | int | None] = [*shape, channels]
    model = g.model("norm", [value("x", FLOAT, axes)], [value("y", FLOAT, axes)])
    x = (3 + rng.standard_normal((*shape, channels))).astype(np.float32)
    expected = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) * weight + bias
    (found,) = session(model).run(None, {"x": x})
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_fp32_is_the_torch_module_at_every_length(loaded: tuple[EncoderModel, Encoder]) -> None:
    model, encoder = loaded
    graph = session(build(encoder, precision="fp32"))
    for length in LENGTHS:
        ids = tokens(length)
        expected, found = in_torch(model, ids), run(graph, ids)
        np.testing.assert_allclose(unit(found), unit(expected), atol=1e-5, err_msg=f"{length} tokens")
        np.testing.assert_allclose(found, expected, atol=2e-4, err_msg=f"{length} tokens")


@pytest.mark.slow
@pytest.mark.parametrize("length", [16384, 32768])
def test_fp32_is_the_torch_module_far_beyond_the_maximum(
    checkpoint_with: Callable[..., Path], length: int
) -> None:
    model = load_model(checkpoint_with(num_hidden_layers=1, num_attention_heads=2))  # torch has length² to do
    model.block_rows = 256
    graph = session(build(model.export_weights(), precision="fp32"))
    ids = tokens(length)
    np.testing.assert_allclose(unit(run(graph, ids)), unit(in_torch(model, ids)), atol=1e-5)


def test_both_branches_agree(loaded: tuple[EncoderModel, Encoder]) -> None:
    _, encoder = loaded
    for precision, worst in (("fp32", 1 - 1e-6), ("int8", 0.9999)):
        blocked = session(build(encoder, precision=precision))
        plain = session(build(encoder, precision=precision, blockwise=False))
        ids = tokens(MAX_DENSE_TOKENS + 200)
        assert (unit(run(blocked, ids)) * unit(run(plain, ids))).sum() > worst


def test_int8_is_near_fp32(loaded: tuple[EncoderModel, Encoder]) -> None:
    _, encoder = loaded
    int8, fp32 = (session(build(encoder, precision=precision)) for precision in ("int8", "fp32"))
    for length in (2, 30, 700, 1500):
        ids = tokens(length)
        assert (unit(run(int8, ids)) * unit(run(fp32, ids))).sum() > 0.99


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_padding_and_batch_mates_change_no_bit(loaded: tuple[EncoderModel, Encoder], precision: str) -> None:
    _, encoder = loaded
    graph = session(build(encoder, precision=precision))
    texts = [tokens(length, seed=length)[0] for length in (2, 7, 64, 65, 300, 511)]
    ids = np.zeros((len(texts), 520), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    together = run(graph, ids, mask)
    for row, text in enumerate(texts):
        np.testing.assert_array_equal(together[row, : len(text)], run(graph, text[None])[0])


def test_long_texts_in_a_batch_or_padded_are_right_too(loaded: tuple[EncoderModel, Encoder]) -> None:
    model, encoder = loaded
    graph = session(build(encoder, precision="fp32"))
    ids = np.concatenate([tokens(1300, seed=1), tokens(1300, seed=2)])
    for row, found in enumerate(run(graph, ids)):
        np.testing.assert_allclose(unit(found), unit(in_torch(model, ids[row : row + 1])[0]), atol=1e-5)
    mask = np.ones_like(ids[:1])
    mask[0, 1200:] = 0
    np.testing.assert_allclose(
        unit(run(graph, ids[:1], mask)[0, :1200]), unit(in_torch(model, ids[:1, :1200])[0]), atol=1e-5
    )


def test_stacks_take_no_room_on_disk(tiny_checkpoint: Path, tmp_path: Path) -> None:
    encoder = load_model(tiny_checkpoint).export_weights()
    sizes = {}
    for blocked in (False, True):
        folder = tmp_path / str(blocked)
        folder.mkdir()
        save_model(build(encoder, precision="fp32", blockwise=blocked), folder)
        sizes[blocked] = (folder / "model.onnx.data").stat().st_size
        stored = onnx.load(folder / "model.onnx")
        expected = {
            tensor.name: tensor
            for tensor in build(encoder, precision="fp32", blockwise=blocked).graph.initializer
        }
        for tensor in stored.graph.initializer:
            np.testing.assert_array_equal(
                onnx.numpy_helper.to_array(tensor), onnx.numpy_helper.to_array(expected[tensor.name])
            )
    matrices = 2 * (4 * 64 * 64 + 3 * 64 * 128) * 4  # bytes of the matrices of two layers
    assert sizes[True] - sizes[False] < matrices / 10


def test_one_product_alone_can_be_quantised(loaded: tuple[EncoderModel, Encoder]) -> None:
    _, encoder = loaded
    names = linear_names(encoder)
    assert len(names) == 1 + 2 * len(encoder.matrices)
    assert len(set(names)) == len(names)
    for name in (names[0], names[5], names[-1]):
        graph = build(encoder, forms={name: "int8"}, blockwise=False)
        stored = {
            tensor.name for tensor in graph.graph.initializer if tensor.data_type == onnx.TensorProto.INT8
        }
        assert stored == {name + ".int8"}
