"""One encoder layer in blocks of rows: what a text of more than ALONE_TOKENS tokens runs through, alone.

Keys and values are made for all rows; then one Loop takes BLOCK rows at a time through everything else: queries, their
window of keys, attention head by head, output, feed-forward. Nothing of [length, length] or [length, intermediate]
exists, and what a block needs stays in the processor's cache.
"""

from __future__ import annotations

import numpy as np

from export.graph.builder import BOOL, FLOAT, INT64, Builder, value
from export.graph.layer import LayerWeights, feed_forward, norm
from export.graph.products import ZERO_POINT, Products, Rows
from export.graph.windows import BLOCK, Grid, key_norms, window

__all__ = ["long_layer"]


def long_layer(
    g: Builder, products: Products, x: str, layer: LayerWeights, grid: Grid, zero_points: str
) -> str:
    """The whole layer for one text.

    :param g: where to write.
    :param products: how to multiply.
    :param x: float32 [rows, hidden], rows a multiple of BLOCK, padding at the end.
    :param layer: the weights.
    :param grid: the block grid.
    :param zero_points: uint8 [rows, 1], as in Products.quantize.
    :return: name of float32 [rows, hidden]; rows of padding have no meaning.
    """
    rows = Rows(x, layer.hidden)
    k = products(g, rows, layer.key, zero_points)
    v = products(g, rows, layer.value, zero_points)
    k, v = (_by_head(g, projected, layer.heads) for projected in (k, v))
    norms = key_norms(g, k)

    body = Builder(g)
    block, running = body.fresh("block"), body.fresh("running")
    first = body("Mul", block, np.int64(BLOCK))
    start, end = (
        body("Unsqueeze", edge, np.array([0])) for edge in (first, body("Add", first, np.int64(BLOCK)))
    )

    def of_block(name: str) -> str:
        return body.slice(name, start, end, [0])

    own = Rows(of_block(x), layer.hidden)
    if rows.quantized is not None:
        own.quantized = (of_block(rows.quantized[0]), of_block(rows.quantized[1]))
    own_zero_points = np.full((BLOCK, 1), ZERO_POINT, np.uint8)
    zeros = body.constant(own_zero_points)
    q = _by_head(body, products(body, own, layer.query, zeros), layer.heads)
    keys = window(body, grid, block, q, body.slice(k, start, end, [1]), norms)
    attended = _attention(body, layer, grid, first, q, k, v, keys)
    merged = body("Reshape", body("Transpose", attended, perm=[1, 0, 2]), np.array([BLOCK, layer.hidden]))
    out = products(body, Rows(merged, layer.hidden), layer.output, zeros)
    prefix = layer.prefix + "attention.output.LayerNorm"
    h = norm(body, body("Add", out, own.name), layer.attention_norm, layer.eps, prefix)
    y = feed_forward(body, products, h, layer, zeros)
    result = _loop(g, body, grid.blocks, block, running, y, [BLOCK, layer.hidden])
    flat: str = g("Reshape", result, np.array([-1, layer.hidden]))
    return flat


def _by_head(g: Builder, x: str, heads: int) -> str:
    """[rows, hidden] to [heads, rows, d]."""
    result: str = g("Transpose", g("Reshape", x, np.array([0, heads, -1])), perm=[1, 0, 2])
    return result


def _attention(
    g: Builder, layer: LayerWeights, grid: Grid, first: str, q: str, k: str, v: str, keys: tuple[str, str]
) -> str:
    """Attention of one block of queries, a head at a time, each with its own window of keys.

    :param g: where to write.
    :param layer: the weights.
    :param grid: the block grid.
    :param first: int64 scalar, position of the block's first row.
    :param q: scaled queries, float32 [heads, BLOCK, d].
    :param k: all keys, float32 [heads, rows, d].
    :param v: all values, float32 [heads, rows, d].
    :param keys: start and end of the window, int64 [heads, 1].
    :return: name of float32 [heads, BLOCK, d].
    """
    width = layer.hidden // layer.heads
    heads = np.arange(layer.heads, dtype=np.int64)[:, None]
    corner = g("Concat", heads, keys[0], axis=1)  # [heads, 2]: where in [heads, rows, d] the window is
    opposite = g("Concat", heads + 1, keys[1], axis=1)
    slopes = grid.slopes[:, None]
    first_position = g("Cast", first, to=FLOAT)
    row = slopes[:, :, None] * np.arange(BLOCK, dtype=np.float32)[:, None]  # [heads, BLOCK, 1]
    column = g("Mul", slopes, g("Sub", grid.positions, first_position))  # [heads, rows]

    body = Builder(g)
    head, running = body.fresh("head"), body.fresh("running")

    def of_head(name: str) -> str:
        result: str = body("Gather", name, head)
        return result

    begin, stop = of_head(corner), of_head(opposite)
    k_window = body("Squeeze", body.slice(k, begin, stop, [0, 1]), np.array([0]))
    v_window = body("Squeeze", body.slice(v, begin, stop, [0, 1]), np.array([0]))
    penalty = body("Abs", body("Sub", of_head(g.constant(row)), body.slice(column, begin, stop, [0, 1])))
    scores = body("Gemm", of_head(q), k_window, penalty, transB=1, beta=-1.0)
    attended = body("MatMul", body("Softmax", scores, axis=-1), v_window)
    return _loop(g, body, g.constant(np.int64(layer.heads)), head, running, attended, [BLOCK, width])


def _loop(
    g: Builder,
    body: Builder,
    trips: str,
    index: str,
    running: str,
    output: str,
    shape: list[str | int | None],
) -> str:
    """Close a Loop that runs `trips` times and stacks its one output."""
    condition = body("Identity", running)
    graph = body.graph(
        "body_" + index,
        [value(index, INT64, []), value(running, BOOL, [])],
        [value(condition, BOOL, []), value(output, FLOAT, shape)],
    )
    result: str = g("Loop", trips, "", body=graph)
    return result
