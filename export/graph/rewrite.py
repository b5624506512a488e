"""The whole graph: embeddings, then all layers at once for short texts, or in blocks for a long one.

The coarse trace holds each layer as one node ``jinabert::Layer`` (see export.trace). Each is expanded twice, into the
two branches of one If:

* batches, and texts of up to ALONE_TOKENS tokens: ``layer.short_layer``;
* one text of more than ALONE_TOKENS tokens, without padding: ``blocks.long_layer``.

The branch depends on nothing but a text's own length as long as such texts run alone, as the runtime runs them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.errors import ExportError
from export.graph.blocks import long_layer
from export.graph.builder import BOOL, FLOAT, INT32, INT64, Builder, value
from export.graph.layer import LayerWeights, norm, short_layer
from export.graph.products import ZERO_POINT, Products, Weight, quantize_table
from export.graph.windows import grid
from export.modeling import alibi_slopes

__all__ = ["ALONE_TOKENS", "EMBEDDINGS", "product_names", "rewrite"]

ALONE_TOKENS = 1024  # about where blocks begin to be faster than one piece
EMBEDDINGS = "embeddings.word_embeddings"  # the embedding table's name among the products
Float = NDArray[np.float32]


@dataclass(frozen=True)
class _Model:
    """The weights of a coarse trace."""

    table: Float  # [vocabulary, hidden]
    embedding_norm: tuple[Float, Float]
    layers: list[LayerWeights]

    @property
    def first(self) -> LayerWeights:
        return self.layers[0]


def product_names(coarse: onnx.ModelProto) -> list[str]:
    """What can be quantised.

    :param coarse: the graph of ``export.trace.trace(coarse=True)``.
    :return: the embedding table and every product with weights, in the order in which they run.
    """
    return [EMBEDDINGS, *(weight.name for layer in _read(coarse).layers for weight in layer.products)]


def rewrite(
    coarse: onnx.ModelProto,
    *,
    precision: str = "int8",
    only: Collection[str] | None = None,
    blocked: bool = True,
) -> onnx.ModelProto:
    """Build the graph that ships.

    :param coarse: the graph of ``export.trace.trace(coarse=True)``.
    :param precision: "int8" or "fp32".
    :param only: with int8, names out of product_names to be quantised; None quantises all.
    :param blocked: False leaves the branch for long texts out (to measure what it costs short ones).
    :return: inputs ``input_ids``, ``attention_mask`` int64 [batch, sequence]; output ``last_hidden_state`` float32
        [batch, sequence, hidden]; needs onnxruntime's com.microsoft operators.
    :raises ExportError: the trace does not have the expected form.
    """
    model = _read(coarse)
    int8 = frozenset[str]() if precision == "fp32" else None if only is None else frozenset(only)
    g = Builder()
    output = "last_hidden_state"
    if blocked:
        short, long = Builder(g), Builder(g)
        short_output = _short(short, Products(int8), model)
        long_output = _long(long, Products(int8, loose=long), model)
        shape: list[str | int | None] = [None, None, model.first.hidden]
        g.nodes.append(
            onnx.helper.make_node(
                "If",
                [_is_long(g)],
                [output],
                name="long_or_short",
                then_branch=long.graph("long", [], [value(long_output, FLOAT, shape)]),
                else_branch=short.graph("short", [], [value(short_output, FLOAT, shape)]),
            )
        )
    else:
        _short(g, Products(int8), model)
        g.nodes[-1].output[0] = output
    axes: list[str | int | None] = ["batch", "sequence"]
    return g.model(
        "jinabert",
        [value("input_ids", INT64, axes), value("attention_mask", INT64, axes)],
        [value(output, FLOAT, [*axes, model.first.hidden])],
    )


def _read(coarse: onnx.ModelProto) -> _Model:
    weights = {tensor.name: tensor for tensor in coarse.graph.initializer}

    def array(name: str) -> Float:
        return numpy_helper.to_array(weights[name]).astype(np.float32)

    by_op: dict[str, list[onnx.NodeProto]] = {}
    for node in coarse.graph.node:
        by_op.setdefault(node.op_type, []).append(node)
    try:
        (gather,), (layer_norm,) = by_op.pop("Gather"), by_op.pop("LayerNormalization")
        layers = by_op.pop("Layer")
    except (KeyError, ValueError):
        by_op = {"": []}
    if by_op:
        raise ExportError(
            "the trace is not one Gather, one LayerNormalization and layers: trace with coarse=True"
        )
    return _Model(
        array(gather.input[0]),
        (array(layer_norm.input[1]), array(layer_norm.input[2])),
        [
            _layer(f"encoder.layer.{i}.", node, [array(name) for name in node.input[2:]])
            for i, node in enumerate(layers)
        ],
    )


def _layer(prefix: str, node: onnx.NodeProto, weights: list[Float]) -> LayerWeights:
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    query, query_bias, key, key_bias, value_, value_bias, output, output_bias, *rest = weights
    norm_weight, norm_bias, gated, down, down_bias, mlp_norm_weight, mlp_norm_bias = rest
    gate, up = np.split(gated, 2)
    heads = int(attributes["heads"])
    scale = np.float32((len(query) // heads) ** -0.5)

    def weight(name: str, matrix: Float, bias: Float | None = None) -> Weight:
        return Weight(prefix + name, np.ascontiguousarray(matrix.T), bias)

    return LayerWeights(
        prefix,
        heads,
        float(attributes["eps"]),
        weight("attention.self.query", query * scale, query_bias * scale),
        weight("attention.self.key", key, key_bias),
        weight("attention.self.value", value_, value_bias),
        weight("attention.output.dense", output, output_bias),
        (norm_weight, norm_bias),
        weight("mlp.gate", gate),
        weight("mlp.up", up),
        weight("mlp.wo", down, down_bias),
        (mlp_norm_weight, mlp_norm_bias),
    )


def _embed(g: Builder, products: Products, model: _Model, ids: str) -> str:
    """LN(table[ids]).

    The table is int8 with a scale per row, and the scale cancels in the normalisation that follows, so that it is not
    stored; only an epsilon that is not tiny beside a row's variance (JinaBert's 1e-12 is) makes it necessary.
    """
    if products.int8 is not None and EMBEDDINGS not in products.int8:
        rows = g("Gather", _shared(g, EMBEDDINGS + ".fp32", model.table), ids)
    else:
        quantized, scale = quantize_table(model.table)
        rows = g("Cast", g("Gather", _shared(g, EMBEDDINGS + ".int8", quantized), ids), to=FLOAT)
        used = model.table[model.table.var(axis=1) > 0]
        if model.first.eps > 1e-7 * used.var(axis=1).min(initial=np.inf):
            rows = g("Mul", rows, g("Gather", _shared(g, EMBEDDINGS + ".scale", scale), ids))
    return norm(g, rows, model.embedding_norm, model.first.eps, "embeddings.LayerNorm")


def _shared(g: Builder, name: str, array: NDArray[np.generic]) -> str:
    return name if name in g.initializers else g.constant(array, name)


def _short(g: Builder, products: Products, model: _Model) -> str:
    x = _embed(g, products, model, "input_ids")
    mask = g("Cast", "attention_mask", to=INT32)
    shape = g("Shape", "input_ids")
    length = g("Cast", g("Gather", shape, np.int64(1)), to=FLOAT)
    position = g("Range", np.float32(0), length, np.float32(1))
    distance = g("Abs", g("Sub", position, g("Unsqueeze", position, np.array([1]))))
    slopes = np.array(alibi_slopes(model.first.heads), np.float32)[:, None, None]
    alibi = g("Mul", distance, -slopes[None])
    zero_points = _zero_points(g, g("Concat", shape, np.array([1]), axis=0))
    for layer in model.layers:
        x = short_layer(g, products, x, layer, mask, alibi, zero_points)
    return x


def _long(g: Builder, products: Products, model: _Model) -> str:
    ids = g("Squeeze", "input_ids", np.array([0]))
    length = g("Size", ids)
    blocks = grid(g, length, np.array(alibi_slopes(model.first.heads), np.float32))
    padding = g("Concat", np.array([0]), g("Unsqueeze", g("Sub", blocks.rows, length), np.array([0])), axis=0)
    x = _embed(g, products, model, g("Pad", ids, padding))
    zero_points = _zero_points(
        g, g("Concat", g("Unsqueeze", blocks.rows, np.array([0])), np.array([1]), axis=0)
    )
    for layer in model.layers:
        x = long_layer(g, products, x, layer, blocks, zero_points)
    kept = g.slice(x, np.array([0]), g("Unsqueeze", length, np.array([0])), [0])
    result: str = g("Unsqueeze", kept, np.array([0]))
    return result


def _zero_points(g: Builder, shape: str) -> str:
    fill = numpy_helper.from_array(np.array([ZERO_POINT], np.uint8))
    result: str = g("ConstantOfShape", shape, value=fill)
    return result


def _is_long(g: Builder) -> str:
    """More than ALONE_TOKENS tokens, one text, no padding."""
    batch = g("Shape", "input_ids", start=0, end=1)
    length = g("Shape", "input_ids", start=1, end=2)
    unpadded = g("Cast", g("ReduceMin", "attention_mask", keepdims=0), to=BOOL)
    alone = g("And", g("Equal", batch, np.array([1])), g("Greater", length, np.array([ALONE_TOKENS])))
    result: str = g("And", alone, unpadded)
    return result
