"""One encoder layer with all rows at once: what batches, and texts up to ``max_dense_tokens`` tokens, run through.

MultiHeadAttention computes softmax(q·kᵀ + alibi + mask)·v in one node, and its result for a text does not depend on
its batch mates or on padding at its right. Products apart for q, k, v and for gate, up, because Split copies.
"""

from __future__ import annotations

from export.graph.builder import Builder
from export.graph.products import Rows, product, unscaled_product
from export.graph.tokens import Tokens, normalize
from export.graph.weights import Shape, Weights

__all__ = ["attention_end", "feed_forward", "key", "query", "short_layer"]


def short_layer(
    g: Builder, x: str, weights: Weights, shape: Shape, mask: str, alibi: str, tokens: Tokens
) -> str:
    """Emit the layer.

    :param g: where to write.
    :param x: float32 [batch, length, hidden].
    :param weights: of the layer.
    :param shape: of the model.
    :param mask: int32 [batch, length], 1 for a real token.
    :param alibi: float32 [1, heads, length, length].
    :param tokens: of the batch.
    :return: name of float32 [batch, length, hidden].
    """
    rows = Rows(x, shape.hidden, tokens.zero_points)
    context = g(
        "MultiHeadAttention",
        query(g, rows, weights, shape, tokens),
        key(g, rows, weights, shape, tokens),
        product(g, rows, weights, "attention.self.value"),
        "",
        mask,
        alibi,
        num_heads=shape.heads,
        scale=1.0,  # 1 / sqrt(width) is in the query's weights
        # Far below any score with its ALiBi, so that padding weighs exactly 0; and finite.
        mask_filter_value=-1e30,
    )
    h = attention_end(g, context, x, weights, shape, tokens)
    return feed_forward(g, h, weights, shape, tokens)


def query(g: Builder, rows: Rows, weights: Weights, shape: Shape, tokens: Tokens) -> str:
    """Emit the queries, with their norm if they have one.

    :param g: where to write.
    :param rows: input of the layer, [..., hidden].
    :param weights: of the layer.
    :param shape: of the model.
    :param tokens: those of the rows.
    :return: name of float32 [..., hidden].
    """
    q = product(g, rows, weights, "attention.self.query")
    return _norm_if_there(g, q, weights, "attention.self.layer_norm_q", shape, tokens)


def key(g: Builder, rows: Rows, weights: Weights, shape: Shape, tokens: Tokens) -> str:
    """Emit the keys, with their norm if they have one; parameters and result as those of :func:`query`."""
    k = product(g, rows, weights, "attention.self.key")
    return _norm_if_there(g, k, weights, "attention.self.layer_norm_k", shape, tokens)


def attention_end(g: Builder, context: str, x: str, weights: Weights, shape: Shape, tokens: Tokens) -> str:
    """Emit LN(dense(context) + x), or LN_1(that + x) where there is such a norm.

    :param g: where to write.
    :param context: float32 [..., hidden].
    :param x: input of the layer, float32 [..., hidden].
    :param weights: of the layer.
    :param shape: of the model.
    :param tokens: those of x.
    :return: name of float32 [..., hidden].
    """
    rows = Rows(context, shape.hidden, tokens.zero_points)
    out = product(g, rows, weights, "attention.output.dense")
    h = _norm(g, g("Add", out, x), weights, "attention.output.LayerNorm", shape, tokens)
    if "layer_norm_1.weight" in weights:
        h = _norm(g, g("Add", h, x), weights, "layer_norm_1", shape, tokens)
    return h


def feed_forward(g: Builder, h: str, weights: Weights, shape: Shape, tokens: Tokens) -> str:
    """Emit LN(wo(GELU(gate(h)) * up(h)) + h).

    The scale of up's rows passes untouched through the product with GELU(gate) and through its quantisation, so that
    it is multiplied in once, in ``hidden`` columns instead of ``intermediate``.

    :param g: where to write.
    :param h: float32 [..., hidden].
    :param weights: of the layer.
    :param shape: of the model.
    :param tokens: those of h.
    :return: name of float32 [..., hidden].
    """
    rows = Rows(h, shape.hidden, tokens.zero_points)
    gate = product(g, rows, weights, "mlp.gate")
    up, up_scale = unscaled_product(g, rows, weights, "mlp.up")
    activated = Rows(g("Mul", g("Gelu", gate), up), shape.intermediate, tokens.zero_points)
    y, y_scale = unscaled_product(g, activated, weights, "mlp.wo")
    scales = [name for name in (up_scale, y_scale) if name is not None]
    if scales:
        y = g("Mul", y, scales[0] if len(scales) == 1 else g("Mul", *scales))
    y = g("Add", g("Add", y, weights("mlp.wo.bias")), h)
    return _norm(g, y, weights, "mlp.layernorm", shape, tokens)


def _norm(g: Builder, x: str, weights: Weights, part: str, shape: Shape, tokens: Tokens) -> str:
    weight, bias = weights(part + ".weight"), weights(part + ".bias")
    return normalize(g, x, weight, bias, shape.hidden, shape.eps, tokens)


def _norm_if_there(g: Builder, x: str, weights: Weights, part: str, shape: Shape, tokens: Tokens) -> str:
    return _norm(g, x, weights, part, shape, tokens) if part + ".weight" in weights else x
