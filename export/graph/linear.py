"""A linear layer, in fp32 or in int8, whichever form its weights are in.

int8: weights symmetric, one scale per output channel (weights.py); activations one scale per row, that is per token,
computed in the graph from that row alone, so that no other row, text or padding has a say in it:

    s_i = bfloat16(max_j |x_ij|) * (1 + 2^-8) / 127        q_ij = round(x_ij / s_i) + 128   (uint8, 1 ... 255)
    y_ik = s_i * scale_k * sum_j (q_ij - 128) * w_jk

bfloat16 is off by 2^-8 at most, so the factor keeps all values in range. It costs up to 0.8 % of the resolution, and
the last bit of an activation, which differs between processors, all but never reaches a scale and through it all
values of the row.

Where tokens are alike, one scale found at export (export.quantization.static) serves all rows: it has no say of other
rows either, and neither the largest value of a row has to be found nor its scale to be multiplied in:

    q_ij = round(x_ij / step) + 128, cut to 0 ... 255        y_ik = step * scale_k * sum_j (q_ij - 128) * w_jk + bias_k

wide: what q_ij leaves of x_ij is quantised once more, with the scale s_i / 254, and goes through the same int8 matmul:
activations of 16 bits for two matmuls instead of one. It pays where few channels of a token are far larger than the
others, which 8 bits then round to little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from export.graph.builder import BFLOAT16, FLOAT, Builder, value
from export.graph.tokens import ZERO_POINT
from export.graph.weights import FORMS, Weights

__all__ = ["Product", "Rows", "linear", "product"]

REST = 254  # half a step is the most that rounding leaves: 127 steps of this part


@dataclass
class Rows:
    """An activation [..., width] on its way into linear layers; quantised at most once, when first asked for."""

    name: str  # of the fp32 value
    width: int
    zero_points: str  # uint8 [..., 1], all ZERO_POINT
    factor: str | None = None  # float32 [width]: what each channel is multiplied by before it is quantised
    step: str | None = None  # float32 scalar: the scale of all rows; None: each has its own
    quantized: tuple[str, str] | None = None  # uint8 [..., width] and scale, float32 [..., 1] or the step

    def quantize(self, g: Builder) -> tuple[str, str]:
        """Quantise with one scale per row, or with the step.

        :param g: where to write.
        :return: names of uint8 [..., width] and of the scales, float32 [..., 1], or of the step.
        """
        if self.quantized is None:
            x = self._scaled(g)
            scale = self.step
            if scale is None:
                largest = g("ReduceMax", g("Abs", x), np.array([-1]), keepdims=1)
                coarse = g("Cast", g("Cast", largest, to=BFLOAT16), to=FLOAT)
                scale = g("Mul", coarse, np.float32((1 + 2**-8) / 127))
            self.quantized = self._round(g, x, scale), scale
        return self.quantized

    def quantize_rest(self, g: Builder) -> str:
        """Quantise what :meth:`quantize` rounded away, with 1 / REST of its scales.

        :param g: where to write.
        :return: name of uint8 [..., width].
        """
        quantized, scale = self.quantize(g)
        steps = g("Sub", g("Cast", quantized, to=FLOAT), np.float32(ZERO_POINT))
        rest = g("Sub", self._scaled(g), g("Mul", steps, scale))
        return self._round(g, rest, g("Mul", scale, np.float32(1 / REST)))

    def _scaled(self, g: Builder) -> str:
        return self.name if self.factor is None else g("Mul", self.name, self.factor)

    def _round(self, g: Builder, x: str, scale: str) -> str:
        result: str
        if self.step is None:
            result = g("QuantizeLinear", x, scale, self.zero_points, axis=-1, block_size=self.width)
        else:
            result = g("QuantizeLinear", x, scale, np.uint8(ZERO_POINT))
        return result


@dataclass(frozen=True)
class Product:
    """A matmul's result, and what is still to be done to it."""

    name: str  # float32 [..., outputs]
    scale: str | None = None  # of the rows, [..., 1]: to be multiplied in
    bias: str | None = None  # float32 [outputs]: to be added after that

    def finish(self, g: Builder, *scales: str | None) -> str:
        """Multiply the scales in and add the bias.

        :param g: where to write.
        :param scales: more scales [..., 1], those that are not None.
        :return: name of float32 [..., outputs].
        """
        result, given = self.name, [scale for scale in (*scales, self.scale) if scale is not None]
        if given:
            result = g("Mul", result, given[0] if len(given) == 1 else g("Mul", *given))
        return result if self.bias is None else g("Add", result, self.bias)


def product(g: Builder, rows: Rows, weights: Weights, part: str, *, scaled_later: bool = False) -> Product:
    """Multiply; where rows have scales of their own, neither these nor the bias are in the result.

    :param g: where to write.
    :param rows: the activation [..., inputs].
    :param weights: of the layer.
    :param part: which matrix.
    :param scaled_later: the result is to be multiplied by more scales, so that the bias is not in it in any case.
    :return: the result.
    """
    forms = [f"{part}.{form}" for form in FORMS if f"{part}.{form}" in weights]
    bias = weights(part + ".bias") if part + ".bias" in weights else None
    if len(forms) == 1:
        return _in_form(g, rows, weights, part, forms[0], bias, scaled_later)
    rows.quantize(g)  # once, and not in each branch
    return Product(_selected(g, rows, weights, part, forms), None, bias)


def _selected(g: Builder, rows: Rows, weights: Weights, part: str, forms: list[str]) -> str:
    """Emit nested Ifs over the forms that the layer can have."""

    def branch(chosen: list[str]) -> onnx.GraphProto:
        body = Builder(g)
        if len(chosen) > 1:
            result = _selected(body, rows, weights, part, chosen)
        else:
            result = _in_form(body, rows, weights, part, chosen[0], None, True).finish(body)
        return body.graph("form", [], [value(body("Identity", result), FLOAT, None)])

    result: str = g(
        "If", weights.chosen(forms[0]), then_branch=branch(forms[:1]), else_branch=branch(forms[1:])
    )
    return result


def _in_form(
    g: Builder, rows: Rows, weights: Weights, part: str, form: str, bias: str | None, scaled_later: bool
) -> Product:
    if form == part + ".fp32":
        return Product(g("MatMul", rows.name, weights(form)), None, bias)
    quantized, scale = rows.quantize(g)
    wide = form == part + ".wide"
    if wide:  # one matmul of twice the rows: two would keep the matrix in memory twice
        quantized = g("Concat", quantized, rows.quantize_rest(g), axis=0)
    within = bias if bias and rows.step and not wide and not scaled_later else None
    inputs = [
        quantized,
        weights(form),
        rows.step or np.float32(1),
        weights(part + ".scale"),
        np.uint8(ZERO_POINT),
    ]
    result = g("MatMulIntegerToFloat", *inputs, *(["", within] if within else []))
    if wide:
        whole, rest = g("Split", result, outputs=2, num_outputs=2)
        result = g("Add", whole, g("Mul", rest, np.float32(1 / REST)))
    return Product(result, None if rows.step else scale, None if within else bias)


def linear(g: Builder, rows: Rows, weights: Weights, part: str) -> str:
    """Multiply, and add the bias if there is one.

    :param g: where to write.
    :param rows: the activation [..., inputs].
    :param weights: of the layer.
    :param part: which matrix.
    :return: name of float32 [..., outputs].
    """
    return product(g, rows, weights, part).finish(g)
