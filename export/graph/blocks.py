"""The encoder in blocks of rows: what a text of more than MAX_DENSE_TOKENS tokens runs through, alone.

A Loop over the layers. In a layer, keys and values are made for all rows; then a Scan takes BLOCK rows at a time
through everything else: queries, their window of keys, attention head by head in another Loop, output, feed-forward.
Nothing of [length, length] or [length, intermediate] exists, and what a block needs stays in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from export.graph.builder import FLOAT, INT64, Builder, Loop, value
from export.graph.layer import attention_end, attention_input, feed_forward, key, query
from export.graph.linear import Rows, linear
from export.graph.positions import Alibi, HeadBias, RelativeBias
from export.graph.tokens import Tokens
from export.graph.weights import Arrays, Shape, Stacked
from export.graph.windows import BLOCK, FLOOR, Grid, key_norms, window

__all__ = ["blockwise_layers"]


def blockwise_layers(
    g: Builder,
    x: str,
    layers: Sequence[Arrays],
    shape: Shape,
    positions: Alibi | RelativeBias,
    grid: Grid,
    tokens: Tokens,
) -> str:
    """Emit all layers for one text.

    :param g: where to write.
    :param x: float32 [rows, hidden], rows a multiple of BLOCK, padding at the end.
    :param layers: the parts of each layer, the same for all.
    :param shape: of the model.
    :param positions: what they do to scores.
    :param grid: the block grid.
    :param tokens: of all rows.
    :return: name of float32 [rows, hidden]; rows of padding have no meaning.
    """
    loop = Loop(g, "layer")
    carried = loop.body.fresh("hidden")
    weights = Stacked(loop.body, loop.index, layers)
    y = _layer(loop.body, carried, weights, shape, positions, grid, tokens)
    return loop.close(g.constant(np.int64(len(layers))), y, ["rows", shape.hidden], carried=(x, carried))


def _layer(
    g: Builder,
    x: str,
    weights: Stacked,
    shape: Shape,
    positions: Alibi | RelativeBias,
    grid: Grid,
    tokens: Tokens,
) -> str:
    """Emit one layer; parameters as in blockwise_layers."""
    rows = attention_input(x, g, weights, shape, tokens)
    k = _by_head(g, key(g, rows, weights, shape, tokens), shape)
    v = _by_head(g, linear(g, rows, weights, "attention.self.value"), shape)
    norms = ""
    if isinstance(positions, Alibi):
        # What all keys share changes no weight of a softmax, and without it their norms bound its weights closer.
        k = g("Sub", k, g("ReduceMean", k, np.array([1]), keepdims=1))
        norms = key_norms(g, k)

    # A Scan, not a Loop: it writes each turn's rows where they belong, and a Loop keeps them all and copies them then.
    body = Builder(g)
    index, own_x = body.fresh("block"), body.fresh("hidden")
    first = body("Mul", index, np.int64(BLOCK))
    start, end = (
        body("Unsqueeze", edge, np.array([0])) for edge in (first, body("Add", first, np.int64(BLOCK)))
    )
    block = Tokens.block(body, BLOCK)

    def of_block(name: str, axis: int = 0) -> str:
        return body.slice(name, start, end, [axis])

    own_rows = own_x if rows.name == x else of_block(rows.name)
    own = Rows(own_rows, shape.hidden, block.zero_points, rows.factor, rows.step)
    if rows.quantized is not None:  # for keys and values
        quantized, scale = rows.quantized
        own.quantized = of_block(quantized), rows.step or of_block(scale)
    q = _by_head(body, query(body, own, weights, shape, block), shape)
    if isinstance(positions, Alibi):
        keys = window(body, grid, index, q, of_block(k, axis=1), norms)
    else:
        all_heads = np.array([shape.heads, 1])
        keys = body.constant(np.zeros(all_heads, np.int64)), body("Expand", grid.length, all_heads)
    bias = positions.block_bias(body, grid, first)
    context = body("Transpose", _attention(body, shape, bias, q, k, v, keys), perm=[1, 0, 2])
    merged = body("Reshape", context, np.array([BLOCK, shape.heads * shape.width]))
    h = attention_end(body, merged, own_x, weights, shape, block)
    y = feed_forward(body, h, weights, shape, block)
    block_shape: list[str | int | None] = [BLOCK, shape.hidden]
    graph = body.graph(
        "blocks", [value(index, INT64, []), value(own_x, FLOAT, block_shape)], [value(y, FLOAT, block_shape)]
    )
    indices = g("Range", np.int64(0), grid.blocks, np.int64(1))
    by_block = g("Reshape", x, np.array([-1, *block_shape]))
    blocks = g("Scan", indices, by_block, body=graph, num_scan_inputs=2)
    result: str = g("Reshape", blocks, np.array([-1, shape.hidden]))
    return result


def _by_head(g: Builder, x: str, shape: Shape) -> str:
    """[rows, hidden] to [heads, rows, width]."""
    result: str = g("Transpose", g("Reshape", x, np.array([0, shape.heads, shape.width])), perm=[1, 0, 2])
    return result


def _attention(
    g: Builder, shape: Shape, bias: HeadBias, q: str, k: str, v: str, keys: tuple[str, str]
) -> str:
    """Emit attention of one block of queries, a head at a time, each with its own window of keys.

    :param g: where to write.
    :param shape: of the model.
    :param bias: of positions, how to emit it.
    :param q: scaled queries, float32 [heads, BLOCK, width].
    :param k: all keys, float32 [heads, rows, width].
    :param v: all values, float32 [heads, rows, width].
    :param keys: start and end of the window, int64 [heads, 1].
    :return: name of float32 [heads, BLOCK, width].
    """
    heads = np.arange(shape.heads, dtype=np.int64)[:, None]
    corner = g("Concat", heads, keys[0], axis=1)  # [heads, 2]: where in [heads, rows, width] the window is
    opposite = g("Concat", heads + 1, keys[1], axis=1)

    loop = Loop(g, "head")
    body = loop.body
    q = g("Unsqueeze", q, np.array([1]))

    def of_head(name: str) -> str:
        result: str = body("Gather", name, loop.index)
        return result

    begin, stop = of_head(corner), of_head(opposite)
    k_window, v_window = (body.slice(name, begin, stop, [0, 1]) for name in (k, v))  # [1, keys, width]
    scores = bias(body, body("FusedMatMul", of_head(q), k_window, transB=1), of_head, begin, stop)
    attended = _weighted(body, scores, v_window)
    stacked = loop.close(g.constant(np.int64(shape.heads)), attended, [1, BLOCK, shape.width])
    result: str = g("Squeeze", stacked, np.array([1]))
    return result


def _weighted(g: Builder, scores: str, v: str) -> str:
    """Emit softmax(scores)·v.

    Not Softmax, whose kernels add a row up in an order that depends on the processor; ReduceSum's does not. And
    dividing afterwards is by width, not by keys.

    :param g: where to write.
    :param scores: float32 [1, rows, keys].
    :param v: float32 [1, keys, width].
    :return: name of float32 [1, rows, width].
    """
    keys = np.array([2])
    relative = g("Sub", scores, g("ReduceMax", scores, keys, keepdims=1))
    shares = g("Exp", g("Clip", relative, FLOOR))
    result: str = g("Div", g("MatMul", shares, v), g("ReduceSum", shares, keys, keepdims=1))
    return result
