"""The whole graph: embeddings, then all layers with dense attention for short texts, or blockwise for a long one.

The layers are written out twice, in the two branches of one If:

* batches, and texts of up to MAX_DENSE_TOKENS tokens: ``layer.dense_layer``;
* one text of more than that, without padding: ``blocks.blockwise_layers``.

The branch depends on nothing but a text's own length as long as such texts run alone, as the runtime runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx

from export.graph.attention import DenseAttention
from export.graph.blocks import blockwise_layers
from export.graph.builder import FLOAT, INT64, Builder, value
from export.graph.encoder import Encoder
from export.graph.layer import dense_layer
from export.graph.positions import Alibi
from export.graph.tokens import Tokens, normalize, rms_normalize
from export.graph.weights import (
    FORMS,
    Arrays,
    Selectable,
    Weights,
    quantize_table,
    quantized,
    store,
)
from export.graph.windows import EPSILON, INT8_EPSILON, grid

__all__ = ["EMBEDDINGS", "MAX_DENSE_TOKENS", "build", "build_selectable", "linear_names"]

MAX_DENSE_TOKENS = 1024  # where blocks begin to be faster, with 8 heads and with 16
EMBEDDINGS = "embeddings.word_embeddings"  # the embedding table's name among the linear layers


def linear_names(encoder: Encoder) -> list[str]:
    """What can be quantised.

    :param encoder: what the graph is built from.
    :return: the embedding table and every linear layer, in the order in which they run.
    """
    layers = range(len(encoder.layers))
    return [EMBEDDINGS, *(f"encoder.layer.{i}.{name}" for i in layers for name in encoder.matrices)]


def build(
    encoder: Encoder,
    *,
    precision: str = "int8",
    forms: Mapping[str, str] | None = None,
    blockwise: bool = True,
) -> onnx.ModelProto:
    """Build the graph that ships.

    :param encoder: sizes and weights, from ``export_weights`` of the torch module.
    :param precision: "int8" or "fp32": the form of all linear layers, where forms is None.
    :param forms: names out of linear_names -> form out of FORMS; fp32 for those left out.
    :param blockwise: False leaves the branch for long texts out.
    :return: inputs ``input_ids``, ``attention_mask`` int64 [batch, sequence]; output ``last_hidden_state`` float32
        [batch, sequence, hidden]; needs onnxruntime's com.microsoft operators.
    """
    if forms is None:
        forms = dict.fromkeys(linear_names(encoder), precision)
    layers = [
        quantized(arrays, {name: forms.get(f"encoder.layer.{i}.{name}", "fp32") for name in encoder.matrices})
        for i, arrays in enumerate(encoder.layers)
    ]
    g = Builder()
    int8_table = forms.get(EMBEDDINGS, "fp32") != "fp32"
    if not blockwise:
        _dense(g, encoder, lambda: store(g, layers), int8_table, g("Shape", "input_ids"))
        return _model(g, encoder, [])
    dense, blocks = Builder(g), Builder(g)
    axes: list[str | int | None] = [None, None, encoder.shape.hidden]
    sizes = g("Shape", "input_ids")
    dense_output = _dense(dense, encoder, lambda: store(dense, layers), int8_table, sizes)
    block_output = _blockwise(blocks, encoder, layers, int8_table)
    g(
        "If",
        _is_blockwise(g, sizes, MAX_DENSE_TOKENS),
        then_branch=blocks.graph("blockwise", [], [value(block_output, FLOAT, axes)]),
        else_branch=dense.graph("dense", [], [value(dense_output, FLOAT, axes)]),
    )
    return _model(g, encoder, [])


def build_selectable(encoder: Encoder) -> onnx.ModelProto:
    """Build a graph that has every linear layer in every form, for export.quantization to try them out.

    :param encoder: sizes and weights; those that are not rounded to int8 yet are rounded to nearest.
    :return: the graph of :func:`build` without the branch for long texts, with one more input ``forms``: for each of
        linear_names its form as a place in FORMS, int64 [linear layers]. The embedding table has no form "wide".
    """
    g, names = Builder(), linear_names(encoder)
    weights: list[Weights] = []
    for i, arrays in enumerate(encoder.layers):
        int8 = quantized(arrays, dict.fromkeys(encoder.matrices, "int8"))
        prefix = f"encoder.layer.{i}."
        places = {name: names.index(prefix + name) for name in encoder.matrices}
        weights.append(Selectable(g, prefix, {**arrays, **int8}, "forms", places))
    _dense(g, encoder, lambda: weights, None, g("Shape", "input_ids"))
    return _model(g, encoder, [value("forms", INT64, [len(names)])])


def _model(g: Builder, encoder: Encoder, inputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    output = g.nodes[-1].output[0] = "last_hidden_state"
    axes: list[str | int | None] = ["batch", "sequence"]
    return g.model(
        "jinabert",
        [value("input_ids", INT64, axes), value("attention_mask", INT64, axes), *inputs],
        [value(output, FLOAT, [*axes, encoder.shape.hidden])],
    )


def _embed(g: Builder, encoder: Encoder, ids: str, int8: bool | None, tokens: Tokens) -> str:
    """table[ids], or LN(table[ids]).

    The table is int8 with a scale per row. The scale cancels in a normalisation that follows, so that it is not stored
    there, unless an epsilon that is not tiny beside a row's variance (JinaBert's 1e-12 is) makes it necessary.
    """
    if int8 is None:  # the input of build_selectable says
        branches = []
        for choice in (False, True):
            body = Builder(g)
            rows = body("Identity", _rows_of_table(body, encoder, ids, choice))
            branches.append(body.graph("table", [], [value(rows, FLOAT, None)]))
        fp32 = g("Equal", g("Gather", "forms", np.int64(0)), np.int64(FORMS.index("fp32")))
        rows = g("If", fp32, then_branch=branches[0], else_branch=branches[1])
    else:
        rows = _rows_of_table(g, encoder, ids, int8)
    if encoder.norm is None:
        return rows
    parts = zip(("weight", "bias"), encoder.norm, strict=True)
    weight, bias = (g.constant(array, "embeddings.LayerNorm." + part) for part, array in parts)
    return normalize(g, rows, weight, bias, encoder.shape.hidden, encoder.shape.eps, tokens)


def _final_norm(g: Builder, encoder: Encoder, x: str) -> str:
    if encoder.final_norm is None:
        return x
    return rms_normalize(g, x, g.constant(encoder.final_norm, "final_norm.weight"), encoder.shape.eps)


def _rows_of_table(g: Builder, encoder: Encoder, ids: str, int8: bool) -> str:
    if not int8:
        result: str = g("Gather", g.constant(encoder.table, EMBEDDINGS + ".fp32"), ids)
        return result
    table, scale = quantize_table(encoder.table)
    rows: str = g("Cast", g("Gather", g.constant(table, EMBEDDINGS + ".int8"), ids), to=FLOAT)
    variances = encoder.table.var(axis=1)
    if encoder.norm is None or encoder.shape.eps > 1e-7 * variances[variances > 0].min(initial=np.inf):
        rows = g("Mul", rows, g("Gather", g.constant(scale, EMBEDDINGS + ".scale"), ids))
    return rows


def _dense(
    g: Builder, encoder: Encoder, layers: Callable[[], Sequence[Weights]], int8_table: bool | None, shape: str
) -> str:
    batch, tokens_of_each = g("Split", shape, num_outputs=2, outputs=2)
    tokens = Tokens.counted(g, batch, tokens_of_each)
    x = _embed(g, encoder, "input_ids", int8_table, tokens)
    attention = DenseAttention.of_batch(g, encoder.shape, encoder.positions, g("Gather", shape, np.int64(1)))
    for weights in layers():
        x = dense_layer(g, x, weights, encoder.shape, attention, tokens)
    return _final_norm(g, encoder, x)


def _blockwise(g: Builder, encoder: Encoder, layers: Sequence[Arrays], int8_table: bool) -> str:
    ids = g("Squeeze", "input_ids", np.array([0]))
    length = g("Size", ids)
    positions = encoder.positions
    slopes = positions.slopes if isinstance(positions, Alibi) else None
    fp32 = any(part.endswith(".fp32") for layer in layers for part in layer)
    blocks = grid(g, length, slopes, EPSILON if fp32 else INT8_EPSILON)
    padding = g("Concat", np.array([0]), g("Unsqueeze", g("Sub", blocks.rows, length), np.array([0])), axis=0)
    tokens = Tokens.counted(g, None, g("Unsqueeze", blocks.rows, np.array([0])))
    x = _embed(g, encoder, g("Pad", ids, padding), int8_table, tokens)
    y = _final_norm(g, encoder, blockwise_layers(g, x, layers, encoder.shape, positions, blocks, tokens))
    kept = g.slice(y, np.array([0]), g("Unsqueeze", length, np.array([0])), [0])
    result: str = g("Unsqueeze", kept, np.array([0]))
    return result


def _is_blockwise(g: Builder, shape: str, limit: int) -> str:
    """Whether it is one text of more than ``limit`` tokens without padding; in few nodes, since short texts pay.

    :param g: where to write.
    :param shape: int64 [2], batch and length.
    :param limit: MAX_DENSE_TOKENS.
    :return: name of a bool scalar.
    """
    unpadded = g("ReduceMin", g("Reshape", "attention_mask", np.array([-1])), keepdims=1)
    facts = g("Concat", shape, unpadded, axis=0)  # batch, length, 1 or 0
    batch, padding = 1 << 40, 1 << 50  # penalties that no length makes up for
    result: str = g(
        "Greater",
        g("MatMul", facts, np.array([-batch, 1, padding])),
        np.int64(limit - batch + padding),
    )
    return result
