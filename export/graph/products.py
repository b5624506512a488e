"""A matrix product with the weights, in fp32 or in int8.

int8: weights symmetric, one scale per output channel; activations one scale per row (token), computed in the graph
from that row alone, so that no other row, text or padding has a say in it:

    s_i = max_j |x_ij| / 127        q_ij = round(x_ij / s_i) + 128   (uint8, 1 ... 255)
    y_ik = s_i * w_scale_k * sum_j (q_ij - 128) * w_jk

Processors without VNNI (x86 before Cascade Lake and Zen 4) multiply u8 by s8 with vpmaddubsw, which adds neighbouring
products j = 2p and 2p + 1 in saturating 16 bits (microsoft/onnxruntime#6004). With |q| <= 255 a pair cannot saturate as
long as 255 * |w_2p + w_2p+1| <= 32767, so the weights' scale keeps every pair sum within 128. Weights within +-64, the
usual remedy, are a special case of it that gives away most of a bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from export.graph.builder import Builder

__all__ = ["PAIR_SUM_LIMIT", "Products", "Rows", "Weight", "quantize_table", "quantize_weight"]

Float = NDArray[np.float32]

WEIGHT_LIMIT = 127
PAIR_SUM_LIMIT = 128  # 255 * 128 = 32640 <= 32767
ZERO_POINT = 128


def quantize_weight(weight: Float) -> tuple[NDArray[np.int8], Float]:
    """Quantise a weight matrix, symmetric per output channel, safe from 16-bit saturation.

    :param weight: float32 [inputs, outputs]; inputs even.
    :return: int8 [inputs, outputs] and the scale, float32 [outputs]; weight is about int8 * scale.
    """
    inputs, outputs = weight.shape
    pairs = weight.reshape(inputs // 2, 2, outputs).astype(np.float64)
    largest = np.abs(weight).max(axis=0) / WEIGHT_LIMIT
    # Rounding moves a pair's sum by at most 1: half a unit for each of the two.
    largest_pair = np.abs(pairs.sum(axis=1)).max(axis=0) / (PAIR_SUM_LIMIT - 1)
    scale = np.maximum(np.maximum(largest, largest_pair), np.finfo(np.float32).tiny).astype(np.float32)
    quantized = np.clip(np.rint(weight / scale), -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8)
    sums = np.abs(quantized.reshape(inputs // 2, 2, outputs).astype(np.int32).sum(axis=1))
    assert sums.max(initial=0) <= PAIR_SUM_LIMIT
    return quantized, scale


def quantize_table(table: Float) -> tuple[NDArray[np.int8], Float]:
    """Quantise the embedding table, symmetric per row.

    :param table: float32 [vocabulary, hidden].
    :return: int8 [vocabulary, hidden] and the scale, float32 [vocabulary, 1].
    """
    largest = np.abs(table).max(axis=1, keepdims=True)
    scale = np.maximum(largest / WEIGHT_LIMIT, np.finfo(np.float32).tiny).astype(np.float32)
    return np.rint(table / scale).astype(np.int8), scale


@dataclass(frozen=True)
class Weight:
    """The weights of one product."""

    name: str  # of the product, as in the checkpoint without ".weight"
    matrix: Float  # [inputs, outputs]
    bias: Float | None = None  # [outputs]


@dataclass
class Rows:
    """An activation [..., width] on its way into products, quantised at most once."""

    name: str  # of the fp32 value
    width: int
    quantized: tuple[str, str] | None = None  # (uint8 [..., width], scale [..., 1])


@dataclass
class Products:
    """Emits products; ``int8`` names those computed in int8, None means all of them, an empty set none.

    ``loose``: where to write an Identity through which each weight then reaches its product, so that onnxruntime does
    not keep one more packed copy of the weights (17 MB for small-en) for a path that is seldom taken, but packs them
    as it goes.
    """

    int8: frozenset[str] | None
    loose: Builder | None = None
    _loosened: dict[str, str] = field(default_factory=dict)

    def takes_int8(self, weight: Weight) -> bool:
        """Whether this product is computed in int8."""
        return self.int8 is None or weight.name in self.int8

    def quantize(self, g: Builder, rows: Rows, zero_points: str) -> tuple[str, str]:
        """Quantise an activation, one scale per row.

        :param g: where to write.
        :param rows: the activation.
        :param zero_points: uint8 [..., 1], all 128, of the activation's leading shape.
        :return: names of uint8 [..., width] and of the scales, float32 [..., 1].
        """
        if rows.quantized is None:
            largest = g("ReduceMax", g("Abs", rows.name), np.array([-1]), keepdims=1)
            scale = g("Mul", largest, np.float32(1 / 127))
            quantized = g("QuantizeLinear", rows.name, scale, zero_points, axis=-1, block_size=rows.width)
            rows.quantized = quantized, scale
        return rows.quantized

    def unscaled(self, g: Builder, rows: Rows, weight: Weight, zero_points: str) -> tuple[str, str | None]:
        """Multiply, without the rows' scale and without the bias.

        :param g: where to write.
        :param rows: the activation [..., inputs].
        :param weight: the weights.
        :param zero_points: as in quantize.
        :return: name of float32 [..., outputs], and that of the scale [..., 1] still to be multiplied in, if any.
        """
        if not self.takes_int8(weight):
            return g("MatMul", rows.name, self._weight(g, weight.matrix, weight.name + ".fp32")), None
        quantized, scale = self.quantize(g, rows, zero_points)
        matrix, channel_scale = quantize_weight(weight.matrix)
        product = g(
            "MatMulIntegerToFloat",
            quantized,
            self._weight(g, matrix, weight.name + ".int8"),
            np.float32(1),
            g.constant(channel_scale, weight.name + ".scale"),
            np.uint8(ZERO_POINT),
        )
        return product, scale

    def __call__(self, g: Builder, rows: Rows, weight: Weight, zero_points: str, *, bias: bool = True) -> str:
        """Multiply and add the bias.

        :param g: where to write.
        :param rows: the activation [..., inputs].
        :param weight: the weights.
        :param zero_points: as in quantize.
        :param bias: False leaves the bias to the caller.
        :return: name of float32 [..., outputs].
        """
        product, scale = self.unscaled(g, rows, weight, zero_points)
        if scale is not None:
            product = g("Mul", product, scale)
        if bias and weight.bias is not None:
            product = g("Add", product, g.constant(weight.bias, weight.name + ".bias"))
        return product

    def _weight(self, g: Builder, matrix: NDArray[np.float32] | NDArray[np.int8], name: str) -> str:
        if name not in g.initializers:
            g.constant(matrix, name)
        if self.loose is None:
            return name
        if name not in self._loosened:
            self._loosened[name] = self.loose("Identity", name)
        return self._loosened[name]
