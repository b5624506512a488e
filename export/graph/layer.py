"""One encoder layer with dense attention: what batches, and texts up to MAX_DENSE_TOKENS tokens, run through.

Products apart for q, k, v and for gate, up, because Split copies.
"""

from __future__ import annotations

from export.graph.attention import DenseAttention
from export.graph.builder import Builder
from export.graph.linear import Rows, linear, product
from export.graph.tokens import Tokens, normalize, rms_normalize
from export.graph.weights import FORMS, Shape, Weights

__all__ = ["attention_end", "attention_input", "dense_layer", "feed_forward", "key", "query"]


def dense_layer(
    g: Builder, x: str, weights: Weights, shape: Shape, attention: DenseAttention, tokens: Tokens
) -> str:
    """Emit the layer.

    :param g: where to write.
    :param x: float32 [batch, length, hidden].
    :param weights: of the layer.
    :param shape: of the model.
    :param attention: of the batch.
    :param tokens: of the batch.
    :return: name of float32 [batch, length, hidden].
    """
    rows = attention_input(x, g, weights, shape, tokens)
    context = attention(
        g,
        query(g, rows, weights, shape, tokens),
        key(g, rows, weights, shape, tokens),
        linear(g, rows, weights, "attention.self.value"),
    )
    h = attention_end(g, context, x, weights, shape, tokens)
    return feed_forward(g, h, weights, shape, tokens)


def attention_input(x: str, g: Builder, weights: Weights, shape: Shape, tokens: Tokens) -> Rows:
    """Emit what queries, keys and values are made of.

    :param x: input of the layer, float32 [..., hidden].
    :param g: where to write.
    :param weights: of the layer.
    :param shape: of the model.
    :param tokens: those of x.
    :return: x, or RMSNorm of it.
    """
    normalized = _pre_norm(g, x, weights, "attention", shape)
    return _rows(normalized, shape.hidden, tokens, weights, "attention.self")


def query(g: Builder, rows: Rows, weights: Weights, shape: Shape, tokens: Tokens) -> str:
    """Emit the queries, with their norm if they have one.

    :param g: where to write.
    :param rows: of :func:`attention_input`.
    :param weights: of the layer.
    :param shape: of the model.
    :param tokens: those of the rows.
    :return: name of float32 [..., hidden].
    """
    q = linear(g, rows, weights, "attention.self.query")
    return _norm_if_there(g, q, weights, "attention.self.layer_norm_q", shape, tokens)


def key(g: Builder, rows: Rows, weights: Weights, shape: Shape, tokens: Tokens) -> str:
    """Emit the keys, with their norm if they have one; parameters and result as those of :func:`query`."""
    k = linear(g, rows, weights, "attention.self.key")
    return _norm_if_there(g, k, weights, "attention.self.layer_norm_k", shape, tokens)


def attention_end(g: Builder, context: str, x: str, weights: Weights, shape: Shape, tokens: Tokens) -> str:
    """Emit dense(context) + x, LN of that, or LN_1 of that and x again, by the norms that there are.

    :param g: where to write.
    :param context: float32 [..., heads * width].
    :param x: input of the layer, float32 [..., hidden].
    :param weights: of the layer.
    :param shape: of the model.
    :param tokens: those of x.
    :return: name of float32 [..., hidden].
    """
    rows = _rows(context, shape.heads * shape.width, tokens, weights, "attention.output.dense")
    out = linear(g, rows, weights, "attention.output.dense")
    h = _norm_if_there(g, g("Add", out, x), weights, "attention.output.LayerNorm", shape, tokens)
    if "layer_norm_1.weight" in weights:
        h = _norm_if_there(g, g("Add", h, x), weights, "layer_norm_1", shape, tokens)
    return h


def feed_forward(g: Builder, h: str, weights: Weights, shape: Shape, tokens: Tokens) -> str:
    """Emit LN(wo(GELU(gate(h)) * up(h)) + h), or wo(ReLU(up(RMSNorm(h)))) + h, by the parts that there are.

    The scale of up's rows passes untouched through GELU(gate) * up, or ReLU, and through its quantisation, so that it
    is multiplied in once, in ``hidden`` columns instead of ``intermediate``.

    :param g: where to write.
    :param h: float32 [..., hidden].
    :param weights: of the layer.
    :param shape: of the model.
    :param tokens: those of h.
    :return: name of float32 [..., hidden].
    """
    normalized = _pre_norm(g, h, weights, "mlp", shape)
    rows = _rows(normalized, shape.hidden, tokens, weights, "mlp")
    gated = any(f"mlp.gate.{form}" in weights for form in FORMS)
    gate = linear(g, rows, weights, "mlp.gate") if gated else None
    up = product(g, rows, weights, "mlp.up")
    up_scale = None if "mlp.wo.step" in weights else up.scale
    values = up.name if up_scale else up.finish(g)
    activation = g("Relu", values) if gate is None else g("Mul", g("Gelu", gate), values)
    activated = _rows(activation, shape.intermediate, tokens, weights, "mlp.wo")
    y = product(g, activated, weights, "mlp.wo", scaled_later=up_scale is not None).finish(g, up_scale)
    return _norm_if_there(g, g("Add", y, h), weights, "mlp.layernorm", shape, tokens)


def _norm_if_there(g: Builder, x: str, weights: Weights, part: str, shape: Shape, tokens: Tokens) -> str:
    if part + ".weight" not in weights:
        return x
    weight, bias = weights(part + ".weight"), weights(part + ".bias")
    return normalize(g, x, weight, bias, shape.hidden, shape.eps, tokens)


def _pre_norm(g: Builder, x: str, weights: Weights, part: str, shape: Shape) -> str:
    name = part + ".pre_norm.weight"
    return rms_normalize(g, x, weights(name), shape.eps) if name in weights else x


def _rows(x: str, width: int, tokens: Tokens, weights: Weights, part: str) -> Rows:
    """What goes into linear layers, with what is known of its channels.

    :param x: float32 [..., width].
    :param width: its channels.
    :param tokens: those of x.
    :param weights: of the layer.
    :param part: name of the input, a key of weights.INPUTS.
    :return: it.
    """
    factor, step = (weights(name) if name in weights else None for name in (part + ".factor", part + ".step"))
    return Rows(x, width, tokens.zero_points, factor, step)
