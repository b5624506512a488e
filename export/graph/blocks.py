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
    norms = key_norms(g, k, layer.heads)

    body = Builder(g)
    block, running = body._fresh("block"), body._fresh("running")
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
    q = body("Reshape", products(body, own, layer.query, zeros), np.array([BLOCK, layer.heads, -1]))
    q = body("Transpose", q, perm=[1, 0, 2])
    keys = window(body, grid, block, q, of_block(k), norms)
    attended = _attention(body, layer, grid, first, q, k, v, keys)
    merged = body("Reshape", body("Transpose", attended, perm=[1, 0, 2]), np.array([BLOCK, layer.hidden]))
    out = products(body, Rows(merged, layer.hidden), layer.output, zeros)
    prefix = layer.prefix + "attention.output.LayerNorm"
    h = norm(body, body("Add", out, own.name), layer.attention_norm, layer.eps, prefix)
    y = feed_forward(body, products, h, layer, zeros)
    result = _loop(g, body, grid.blocks, block, running, y, [BLOCK, layer.hidden])
    flat: str = g("Reshape", result, np.array([-1, layer.hidden]))
    return flat


def _attention(
    g: Builder, layer: LayerWeights, grid: Grid, first: str, q: str, k: str, v: str, keys: tuple[str, str]
) -> str:
    """Attention of one block of queries, a head at a time, each with its own window of keys.

    :param g: where to write.
    :param layer: the weights.
    :param grid: the block grid.
    :param first: int64 scalar, position of the block's first row.
    :param q: scaled queries, float32 [heads, BLOCK, d].
    :param k: all keys, float32 [rows, hidden].
    :param v: all values, float32 [rows, hidden].
    :param keys: start and end of the window, int64 [heads, 1].
    :return: name of float32 [heads, BLOCK, d].
    """
    width = layer.hidden // layer.heads
    columns = np.arange(layer.heads, dtype=np.int64)[:, None] * width
    corner = g("Concat", keys[0], columns, axis=1)  # [heads, 2]: where in [rows, hidden] the window is
    opposite = g("Concat", keys[1], columns + width, axis=1)
    shift = g("Sub", grid.rows, first)  # from a key's position to its column in grid.distances
    left, right = (g("Add", edge, shift) for edge in keys)

    body = Builder(g)
    head, running = body._fresh("head"), body._fresh("running")

    def of_head(name: str) -> str:
        result: str = body("Gather", name, head)
        return result

    k_window = body.slice(k, of_head(corner), of_head(opposite), [0, 1])
    v_window = body.slice(v, of_head(corner), of_head(opposite), [0, 1])
    distances = body.slice(grid.distances, of_head(left), of_head(right), [1])
    alibi = body("Mul", distances, of_head(g.constant(grid.slopes)))
    scores = body("Gemm", of_head(q), k_window, alibi, transB=1)
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
