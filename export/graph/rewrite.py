"""The whole graph: embeddings, then all layers at once for short texts, or in blocks for a long one.

The layers are written out twice, in the two branches of one If:

* batches, and texts of up to ``max_dense_tokens`` tokens: ``layer.short_layer``;
* one text of more than that, without padding: ``blocks.long_layers``.

The branch depends on nothing but a text's own length as long as such texts run alone, as the runtime runs them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import onnx

from export.graph.blocks import long_layers
from export.graph.builder import FLOAT, INT32, INT64, Builder, value
from export.graph.encoder import Encoder
from export.graph.layer import short_layer
from export.graph.positions import Alibi
from export.graph.tokens import Tokens, normalize, rms_normalize
from export.graph.weights import Arrays, quantize_table, quantized, store
from export.graph.windows import grid

__all__ = ["EMBEDDINGS", "MAX_DENSE_TOKENS", "build", "max_dense_tokens", "product_names"]

MAX_DENSE_TOKENS = 1024  # about where blocks begin to be faster than one piece
ALONE_HEADS = 8  # that MAX_DENSE_TOKENS is right for
EMBEDDINGS = "embeddings.word_embeddings"  # the embedding table's name among the products


def max_dense_tokens(heads: int) -> int:
    """Up to how many tokens a text runs in one piece.

    :param heads: of the model.
    :return: MAX_DENSE_TOKENS with up to 8 heads; with more heads so many fewer that the scores, heads x tokens²,
        take the same memory.
    """
    most = math.isqrt(MAX_DENSE_TOKENS**2 * ALONE_HEADS // max(ALONE_HEADS, heads))
    return most - most % 64


def product_names(encoder: Encoder) -> list[str]:
    """What can be quantised.

    :param encoder: what the graph is built from.
    :return: the embedding table and every product with weights, in the order in which they run.
    """
    layers = range(len(encoder.layers))
    return [EMBEDDINGS, *(f"encoder.layer.{i}.{name}" for i in layers for name in encoder.matrices)]


def build(
    encoder: Encoder,
    *,
    precision: str = "int8",
    only: Collection[str] | None = None,
    blocked: bool = True,
) -> onnx.ModelProto:
    """Build the graph that ships.

    :param encoder: sizes and weights, from ``export_weights`` of the torch module.
    :param precision: "int8" or "fp32".
    :param only: with int8, names out of product_names to be quantised; None quantises all. Layers then differ from
        each other, which the blocked form does not allow for.
    :param blocked: False leaves the branch for long texts out.
    :return: inputs ``input_ids``, ``attention_mask`` int64 [batch, sequence]; output ``last_hidden_state`` float32
        [batch, sequence, hidden]; needs onnxruntime's com.microsoft operators.
    :raises ValueError: only and blocked together.
    """
    if only is not None and blocked:
        raise ValueError("only= needs blocked=False")
    names = product_names(encoder) if only is None else only
    int8 = frozenset(names) if precision == "int8" else frozenset[str]()
    layers = [
        quantized(arrays, [name for name in encoder.matrices if f"encoder.layer.{i}.{name}" in int8])
        for i, arrays in enumerate(encoder.layers)
    ]
    g = Builder()
    output = "last_hidden_state"
    if blocked:
        short, long = Builder(g), Builder(g)
        axes: list[str | int | None] = [None, None, encoder.shape.hidden]
        sizes = g("Shape", "input_ids")
        short_output = _short(short, encoder, layers, EMBEDDINGS in int8, sizes)
        long_output = _long(long, encoder, layers, EMBEDDINGS in int8)
        short_branch = short.graph("short", [], [value(short_output, FLOAT, axes)])
        long_branch = long.graph("long", [], [value(long_output, FLOAT, axes)])
        g(
            "If",
            _is_long(g, sizes, max_dense_tokens(encoder.shape.heads)),
            then_branch=long_branch,
            else_branch=short_branch,
        )
    else:
        _short(g, encoder, layers, EMBEDDINGS in int8, g("Shape", "input_ids"))
    g.nodes[-1].output[0] = output
    axes = ["batch", "sequence"]
    return g.model(
        "jinabert",
        [value("input_ids", INT64, axes), value("attention_mask", INT64, axes)],
        [value(output, FLOAT, [*axes, encoder.shape.hidden])],
    )


def _embed(g: Builder, encoder: Encoder, ids: str, int8: bool, tokens: Tokens) -> str:
    """table[ids], or LN(table[ids]).

    The table is int8 with a scale per row. The scale cancels in a normalisation that follows, so that it is not stored
    there, unless an epsilon that is not tiny beside a row's variance (JinaBert's 1e-12 is) makes it necessary.
    """
    if int8:
        table, scale = quantize_table(encoder.table)
        rows = g("Cast", g("Gather", g.constant(table, EMBEDDINGS + ".int8"), ids), to=FLOAT)
        variances = encoder.table.var(axis=1)
        if encoder.norm is None or encoder.shape.eps > 1e-7 * variances[variances > 0].min(initial=np.inf):
            rows = g("Mul", rows, g("Gather", g.constant(scale, EMBEDDINGS + ".scale"), ids))
    else:
        rows = g("Gather", g.constant(encoder.table, EMBEDDINGS + ".fp32"), ids)
    if encoder.norm is None:
        return rows
    parts = zip(("weight", "bias"), encoder.norm, strict=True)
    weight, bias = (g.constant(array, "embeddings.LayerNorm." + part) for part, array in parts)
    return normalize(g, rows, weight, bias, encoder.shape.hidden, encoder.shape.eps, tokens)


def _final_norm(g: Builder, encoder: Encoder, x: str) -> str:
    if encoder.final_norm is None:
        return x
    return rms_normalize(g, x, g.constant(encoder.final_norm, "final_norm.weight"), encoder.shape.eps)


def _short(g: Builder, encoder: Encoder, layers: Sequence[Arrays], int8_table: bool, shape: str) -> str:
    batch, tokens_of_each = g("Split", shape, num_outputs=2, outputs=2)
    tokens = Tokens.counted(g, batch, tokens_of_each)
    x = _embed(g, encoder, "input_ids", int8_table, tokens)
    mask = g("Cast", "attention_mask", to=INT32)
    bias = encoder.positions.dense(g, g("Gather", shape, np.int64(1)))
    for weights in store(g, layers):
        x = short_layer(g, x, weights, encoder.shape, mask, bias, tokens)
    return _final_norm(g, encoder, x)


def _long(g: Builder, encoder: Encoder, layers: Sequence[Arrays], int8_table: bool) -> str:
    ids = g("Squeeze", "input_ids", np.array([0]))
    length = g("Size", ids)
    positions = encoder.positions
    blocks = grid(g, length, positions.slopes if isinstance(positions, Alibi) else None)
    padding = g("Concat", np.array([0]), g("Unsqueeze", g("Sub", blocks.rows, length), np.array([0])), axis=0)
    tokens = Tokens.counted(g, None, g("Unsqueeze", blocks.rows, np.array([0])))
    x = _embed(g, encoder, g("Pad", ids, padding), int8_table, tokens)
    y = _final_norm(g, encoder, long_layers(g, x, layers, encoder.shape, positions, blocks, tokens))
    kept = g.slice(y, np.array([0]), g("Unsqueeze", length, np.array([0])), [0])
    result: str = g("Unsqueeze", kept, np.array([0]))
    return result


def _is_long(g: Builder, shape: str, limit: int) -> str:
    """Whether it is a long text in a batch of one, without padding; in few nodes, since short texts pay for them.

    :param g: where to write.
    :param shape: int64 [2], batch and length.
    :param limit: ``max_dense_tokens``.
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
