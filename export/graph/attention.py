"""Dense attention: every token of a text with every other, in a batch.

Shares of a row far below its largest are raised to exp(FLOOR). ALiBi's steep heads would give subnormal numbers
instead, and some processors (Intel's, not AMD's) take a hundred times as long to multiply one. What is so small changes
no bit of a sum.

MultiHeadAttention has no such floor. It does for short texts, where hardly a bias reaches it. For longer ones the same
is written out, one head after another: a head's scores stay in the processor's cache, and those of one head are all
that is in memory. Both have the same bits, so a vector does not depend on how long the batch is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.graph.builder import FLOAT, INT32, Builder, Loop, value
from export.graph.positions import Alibi, RelativeBias
from export.graph.weights import Shape
from export.graph.windows import FLOOR

__all__ = ["DenseAttention"]

SHORT_BIAS = 92  # ALiBi's largest in a short text; exp(-87.3) is the smallest normal number
SHORT_TOKENS = 160  # of a short text, where the bias does not grow with the distance
PADDING = np.float32(1e30)  # far above any score, and finite


@dataclass(frozen=True)
class DenseAttention:
    """What all layers share."""

    shape: Shape
    positions: Alibi | RelativeBias
    mask: str  # int32 [batch, length], 1 for a real token
    short: str  # bool scalar
    bias: str  # if short, float32 [1, heads, length, length]; else what positions.of_head needs
    real: str  # if not short, float32 [batch, length, 1]: the mask

    @classmethod
    def of_batch(
        cls, g: Builder, shape: Shape, positions: Alibi | RelativeBias, length: str
    ) -> DenseAttention:
        """Emit what does not depend on the layer.

        :param g: where to write.
        :param shape: of the model.
        :param positions: what they do to scores.
        :param length: int64 scalar, of the batch.
        :return: the attention.
        """
        mask = g("Cast", "attention_mask", to=INT32)
        short = g("LessOrEqual", length, np.int64(_short_tokens(positions)))
        whole, by_head = Builder(g), Builder(g)
        of_whole = positions.dense(whole, length), whole("Identity", np.zeros((1, 1, 1), np.float32))
        real = by_head("Cast", "attention_mask", to=FLOAT)
        away = by_head("Mul", by_head("Sub", np.float32(1), real), PADDING)
        of_heads = positions.masked(by_head, length, away), by_head("Unsqueeze", real, np.array([2]))
        bias, real = g(
            "If",
            short,
            outputs=2,
            then_branch=whole.graph("short", [], [value(name, FLOAT, None) for name in of_whole]),
            else_branch=by_head.graph("long", [], [value(name, FLOAT, None) for name in of_heads]),
        )
        return cls(shape, positions, mask, short, bias, real)

    def __call__(self, g: Builder, q: str, k: str, v: str) -> str:
        """Emit softmax(q·kᵀ + bias + mask)·v.

        :param g: where to write.
        :param q: queries, scaled, float32 [batch, length, heads * width].
        :param k: keys, the same shape.
        :param v: values, the same shape.
        :return: name of float32 [batch, length, heads * width].
        """
        whole, by_head = Builder(g), Builder(g)
        short = whole.graph("whole", [], [value(self._whole(whole, q, k, v), FLOAT, None)])
        long = by_head.graph("by_head", [], [value(self._by_head(by_head, q, k, v), FLOAT, None)])
        result: str = g("If", self.short, then_branch=short, else_branch=long)
        return result

    def _whole(self, g: Builder, q: str, k: str, v: str) -> str:
        result: str = g(
            "MultiHeadAttention",
            q,
            k,
            v,
            "",
            self.mask,
            self.bias,
            num_heads=self.shape.heads,
            scale=1.0,  # 1 / sqrt(width) is in the query's weights
            mask_filter_value=-PADDING,  # so that padding weighs exactly 0
        )
        return result

    def _by_head(self, g: Builder, q: str, k: str, v: str) -> str:
        heads, width = self.shape.heads, self.shape.width
        v = g("Mul", v, self.real)  # padding is raised as well, and still adds exactly 0
        by_head = np.array([0, 0, heads, width])
        apart = [g("Transpose", g("Reshape", x, by_head), perm=[2, 0, 1, 3]) for x in (q, k, v)]
        loop = Loop(g, "head")
        body = loop.body
        q, k, v = (body("Gather", x, loop.index) for x in apart)  # [batch, length, width]
        bias = self.positions.of_head(body, self.bias, loop.index)
        scores = body("Add", body("FusedMatMul", q, k, transB=1), bias)
        least = body("Add", body("ReduceMax", scores, np.array([2]), keepdims=1), FLOOR)
        context = body("MatMul", body("Softmax", body("Max", scores, least), axis=-1), v)
        stacked = loop.close(g.constant(np.int64(heads)), context, ["batch", "length", width])
        together = g("Transpose", stacked, perm=[1, 2, 0, 3])
        result: str = g("Reshape", together, np.array([0, 0, heads * width]))
        return result


def _short_tokens(positions: Alibi | RelativeBias) -> int:
    """Up to how many tokens MultiHeadAttention gives no subnormal numbers, or hardly any."""
    return int(SHORT_BIAS / positions.slopes.max()) if isinstance(positions, Alibi) else SHORT_TOKENS
