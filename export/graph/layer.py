"""One encoder layer with all rows at once: what texts up to ALONE_TOKENS tokens run through.

MultiHeadAttention computes softmax(q·kᵀ + alibi + mask)·v in one node, and its result for a text does not depend on
its batch mates or on padding at its right. Add + LayerNormalization, because SkipLayerNormalization is several times
slower on a processor; products apart for q, k, v and for gate, up, because Split copies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.graph.builder import Builder
from export.graph.products import Products, Rows, Weight

__all__ = ["LayerWeights", "feed_forward", "norm", "short_layer"]

Float = NDArray[np.float32]


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one layer, matrices [inputs, outputs]; ``query`` has the factor 1 / sqrt(head width) in it."""

    prefix: str
    heads: int
    eps: float
    query: Weight
    key: Weight
    value: Weight
    output: Weight
    attention_norm: tuple[Float, Float]  # weight, bias
    gate: Weight
    up: Weight
    down: Weight
    mlp_norm: tuple[Float, Float]

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        return int(self.query.matrix.shape[0])

    @property
    def products(self) -> tuple[Weight, ...]:
        """The products in the order in which they run."""
        return (self.query, self.key, self.value, self.output, self.gate, self.up, self.down)


def norm(g: Builder, x: str, weights: tuple[Float, Float], eps: float, prefix: str) -> str:
    """Layer normalisation over the last axis.

    :param g: where to write.
    :param x: float32 [..., hidden].
    :param weights: weight and bias, float32 [hidden].
    :param eps: epsilon.
    :param prefix: of the names of the weights.
    :return: name of float32 [..., hidden].
    """
    names = []
    for part, array in zip(("weight", "bias"), weights, strict=True):
        name = f"{prefix}.{part}"
        names.append(name if name in g.initializers else g.constant(array, name))
    result: str = g("LayerNormalization", x, *names, axis=-1, epsilon=eps)
    return result


def feed_forward(g: Builder, products: Products, h: str, layer: LayerWeights, zero_points: str) -> str:
    """LN(down(GELU(gate(h)) * up(h)) + h).

    The scale of up's rows passes through the product with GELU(gate) and through the quantisation of the result
    untouched, so that it is multiplied in once, in ``hidden`` columns instead of ``intermediate``.

    :param g: where to write.
    :param products: how to multiply.
    :param h: float32 [..., hidden].
    :param layer: the weights.
    :param zero_points: as in Products.quantize.
    :return: name of float32 [..., hidden].
    """
    rows = Rows(h, layer.hidden)
    gate = products(g, rows, layer.gate, zero_points)
    up, up_scale = products.unscaled(g, rows, layer.up, zero_points)
    activated = Rows(g("Mul", g("Gelu", gate), up), layer.down.matrix.shape[0])
    down, scale = products.unscaled(g, activated, layer.down, zero_points)
    scales = [name for name in (up_scale, scale) if name is not None]
    if scales:
        down = g("Mul", down, scales[0] if len(scales) == 1 else g("Mul", *scales))
    assert layer.down.bias is not None
    down = g("Add", down, g.constant(layer.down.bias, layer.down.name + ".bias"))
    return norm(g, g("Add", down, h), layer.mlp_norm, layer.eps, layer.prefix + "mlp.layernorm")


def short_layer(
    g: Builder, products: Products, x: str, layer: LayerWeights, mask: str, alibi: str, zero_points: str
) -> str:
    """The whole layer.

    :param g: where to write.
    :param products: how to multiply.
    :param x: float32 [batch, length, hidden].
    :param layer: the weights.
    :param mask: int32 [batch, length], 1 for a real token.
    :param alibi: float32 [1, heads, length, length].
    :param zero_points: uint8 [batch, length, 1], as in Products.quantize.
    :return: name of float32 [batch, length, hidden].
    """
    rows = Rows(x, layer.hidden)
    projections = (layer.query, layer.key, layer.value)
    q, k, v = (products(g, rows, weight, zero_points, bias=False) for weight in projections)
    biases = np.concatenate([weight.bias for weight in projections if weight.bias is not None])
    context = g(
        "MultiHeadAttention",
        *(q, k, v),
        g.constant(biases, layer.prefix + "attention.self.biases"),
        mask,
        alibi,
        num_heads=layer.heads,
        scale=1.0,  # it is in the query's weights
        # Far below any score, ALiBi's included, so that padding weighs exactly 0; and finite.
        mask_filter_value=-1e30,
    )
    out = products(g, Rows(context, layer.hidden), layer.output, zero_points)
    h = norm(
        g, g("Add", out, x), layer.attention_norm, layer.eps, layer.prefix + "attention.output.LayerNorm"
    )
    return feed_forward(g, products, h, layer, zero_points)
