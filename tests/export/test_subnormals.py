"""No value that a graph computes is a subnormal number: some processors take a hundred times as long for one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from export.checkpoint import load_model
from export.distill.dequantize import load_model_folder
from export.graph import build
from export.graph.encoder import Encoder
from runtime.bundled import bundled_model

# Types of outputs that are not the type of the first input; of Cast and ConstantOfShape an attribute says it.
TYPES = {
    "MatMulIntegerToFloat": TensorProto.FLOAT,
    "QuantizeLinear": TensorProto.UINT8,
    **dict.fromkeys(["Shape", "Size", "ArgMax"], TensorProto.INT64),
    **dict.fromkeys(["Greater", "Less", "LessOrEqual", "Equal"], TensorProto.BOOL),
}


class Counter:
    """Makes every graph of a model count the subnormal numbers among its values."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        self._types |= {given.name: given.type.tensor_type.elem_type for given in graph.input}
        self._constants = {
            "smallest normal": np.float32(np.finfo(np.float32).tiny),
            "nothing": np.float32(0),
        }
        for name, constant in self._constants.items():
            graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(constant), name))
        self._made = 0
        self.values = 0  # of float32 that are looked at
        count = self._graph(graph)
        graph.output.append(helper.make_tensor_value_info(count, TensorProto.INT64, []))

    def _name(self) -> str:
        self._made += 1
        return f"counted_{self._made}"

    def _type(self, node: onnx.NodeProto) -> int:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Cast":
            return int(attributes["to"].i)
        if node.op_type == "ConstantOfShape":
            return int(attributes["value"].t.data_type)
        place = 1 if node.op_type == "Where" else 0
        return TYPES.get(node.op_type) or self._types[node.input[place]]

    def _graph(self, graph: onnx.GraphProto) -> str:
        """Add the counting nodes; the name of the count, int64."""
        nodes, counts = [], []

        def add(op: str, *inputs: str, **attributes: object) -> str:
            nodes.append(helper.make_node(op, list(inputs), [self._name()], **attributes))
            return str(nodes[-1].output[0])

        for node in graph.node:
            nodes.append(node)
            inner = [
                attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH
            ]
            if inner:
                counts.append(self._inside(node, inner, add))
                continue
            for output in node.output:
                self._types[output] = self._type(node)
                if self._types[output] != TensorProto.FLOAT:
                    continue
                self.values += 1
                size = add("Abs", output)
                is_one = add("And", add("Less", size, "smallest normal"), add("Greater", size, "nothing"))
                counts.append(add("ReduceSum", add("Cast", is_one, to=TensorProto.INT64), keepdims=0))
        total = add("Sum", *[add("Cast", count, to=TensorProto.DOUBLE) for count in counts])
        result = add("Cast", total, to=TensorProto.INT64)
        del graph.node[:]
        graph.node.extend(nodes)
        return result

    def _inside(self, node: onnx.NodeProto, graphs: list[onnx.GraphProto], add: Callable[..., str]) -> str:
        for graph in graphs:
            self._types |= {given.name: given.type.tensor_type.elem_type for given in graph.input}
            count = self._graph(graph)
            graph.output.append(helper.make_tensor_value_info(count, TensorProto.INT64, None))
        made = [output.name for output in graphs[0].output][node.op_type == "Loop" :]
        for output, inner in zip(node.output, made, strict=False):
            self._types[output] = self._types[inner]
        node.output.append(self._name())
        return add("ReduceSum", node.output[-1], keepdims=0)


def subnormals(encoder: Encoder, precision: str, lengths: Iterable[int]) -> list[int]:
    model = build(encoder, precision=precision)
    counter = Counter(model)
    assert counter.values > 50
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    counts = []
    for length in lengths:
        ids = np.random.default_rng(length).integers(5, 60, (1, length))
        found = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        assert np.isfinite(found[0]).all()
        counts.append(int(found[1]))
    return counts


LENGTHS = (512, 1000, 3000)


@pytest.mark.parametrize(
    ("heads", "precision", "sharpness"), [(8, "int8", 1), (8, "fp32", 8), (16, "int8", 8)]
)
def test_steep_heads(
    checkpoint_with: Callable[..., Path], heads: int, precision: str, sharpness: int
) -> None:
    encoder = load_model(checkpoint_with(num_attention_heads=heads)).export_weights()
    for layer in encoder.layers:
        for part in ("attention.self.query.fp32", "attention.self.query.bias"):
            layer[part][...] *= sharpness  # so that queries score keys far below the best
    assert subnormals(encoder, precision, LENGTHS) == [0, 0, 0]


def test_they_would_be_seen(checkpoint_with: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.graph.attention.FLOOR", np.float32(-1e9))
    monkeypatch.setattr("export.graph.blocks.FLOOR", np.float32(-1e9))
    encoder = load_model(checkpoint_with(num_attention_heads=8)).export_weights()
    assert min(subnormals(encoder, "fp32", LENGTHS)) > 1000


def test_bundled_model() -> None:
    encoder = load_model_folder(Path(bundled_model())).export_weights()
    assert subnormals(encoder, "int8", LENGTHS) == [0, 0, 0]


def test_relative_positions(t5_checkpoint: Path) -> None:
    assert subnormals(load_model(t5_checkpoint).export_weights(), "fp32", LENGTHS) == [0, 0, 0]
