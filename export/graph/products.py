"""A product with a matrix of weights, in fp32 or in int8, whichever form the weights are in.

int8: weights symmetric, one scale per output channel (weights.py); activations one scale per row, that is per token,
computed in the graph from that row alone, so that no other row, text or padding has a say in it:

    s_i = bfloat16(max_j |x_ij|) * (1 + 2^-8) / 127        q_ij = round(x_ij / s_i) + 128   (uint8, 1 ... 255)
    y_ik = s_i * scale_k * sum_j (q_ij - 128) * w_jk

bfloat16 is off by 2^-8 at most, so the factor keeps all values in range. It costs up to 0.8 % of the resolution, and
the last bit of an activation, which differs between processors, all but never reaches a scale and through it all
values of the row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.graph.builder import BFLOAT16, FLOAT, Builder
from export.graph.tokens import ZERO_POINT
from export.graph.weights import Weights

__all__ = ["Rows", "product", "unscaled_product"]


@dataclass
class Rows:
    """An activation [..., width] on its way into products; quantised at most once, when first asked for."""

    name: str  # of the fp32 value
    width: int
    zero_points: str  # uint8 [..., 1], all ZERO_POINT
    quantized: tuple[str, str] | None = None  # uint8 [..., width] and scale, float32 [..., 1]

    def quantize(self, g: Builder) -> tuple[str, str]:
        """Quantise with one scale per row.

        :param g: where to write.
        :return: names of uint8 [..., width] and of the scales, float32 [..., 1].
        """
        if self.quantized is None:
            largest = g("ReduceMax", g("Abs", self.name), np.array([-1]), keepdims=1)
            coarse = g("Cast", g("Cast", largest, to=BFLOAT16), to=FLOAT)
            scale = g("Mul", coarse, np.float32((1 + 2**-8) / 127))
            quantized = g(
                "QuantizeLinear", self.name, scale, self.zero_points, axis=-1, block_size=self.width
            )
            self.quantized = quantized, scale
        return self.quantized


def unscaled_product(g: Builder, rows: Rows, weights: Weights, part: str) -> tuple[str, str | None]:
    """Multiply, without the scale of the rows and without the bias.

    :param g: where to write.
    :param rows: the activation [..., inputs].
    :param weights: of the layer.
    :param part: which matrix.
    :return: name of float32 [..., outputs], and of the scale [..., 1] still to be multiplied in, if there is one.
    """
    if part + ".int8" not in weights:
        return g("MatMul", rows.name, weights(part + ".fp32")), None
    quantized, scale = rows.quantize(g)
    matrix, channel_scale = weights(part + ".int8"), weights(part + ".scale")
    result = g("MatMulIntegerToFloat", quantized, matrix, np.float32(1), channel_scale, np.uint8(ZERO_POINT))
    return result, scale


def product(g: Builder, rows: Rows, weights: Weights, part: str) -> str:
    """Multiply, and add the bias if there is one.

    :param g: where to write.
    :param rows: the activation [..., inputs].
    :param weights: of the layer.
    :param part: which matrix.
    :return: name of float32 [..., outputs].
    """
    result, scale = unscaled_product(g, rows, weights, part)
    if scale is not None:
        result = g("Mul", result, scale)
    if part + ".bias" in weights:
        result = g("Add", result, weights(part + ".bias"))
    return result
