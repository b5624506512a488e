"""What nodes need one of for each token, and the normalisation of each token's channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import numpy_helper

from export.graph.builder import Builder

__all__ = ["ZERO_POINT", "Tokens", "normalize", "rms_normalize"]

ZERO_POINT = 128
LANES = 16  # of a vector register, in float32, at most


@dataclass(frozen=True)
class Tokens:
    """Constants of the length of a text, or of a block of it."""

    zero_points: str  # uint8 [batch, length, 1] or [length, 1], all ZERO_POINT
    ones: str  # float32 [length]
    zeros: str  # float32 [length]
    batched: bool  # whether activations are [batch, length, channels], not [length, channels]

    @classmethod
    def counted(cls, g: Builder, batch: str | None, length: str) -> Tokens:
        """Make the constants of a length.

        :param g: where to write.
        :param batch: int64 [1], or None without a batch axis.
        :param length: int64 [1].
        :return: constants of a length that is known when the graph runs.
        """

        def fill(shape: str, value: float | int, dtype: type) -> str:
            name: str = g("ConstantOfShape", shape, value=numpy_helper.from_array(np.array([value], dtype)))
            return name

        sizes = [length] if batch is None else [batch, length]
        shape = g("Concat", *sizes, np.array([1]), axis=0)
        return cls(
            fill(shape, ZERO_POINT, np.uint8),
            fill(length, 1, np.float32),
            fill(length, 0, np.float32),
            batch is not None,
        )

    @classmethod
    def block(cls, g: Builder, length: int) -> Tokens:
        """Make the constants of a block.

        :param g: where to write.
        :param length: of the block.
        :return: constants of a length that is known now, without a batch axis.
        """
        return cls(
            g.constant(np.full((length, 1), ZERO_POINT, np.uint8)),
            g.constant(np.ones(length, np.float32)),
            g.constant(np.zeros(length, np.float32)),
            False,
        )


def normalize(g: Builder, x: str, weight: str, bias: str, channels: int, eps: float, tokens: Tokens) -> str:
    """Emit LayerNormalization over the last axis.

    As InstanceNormalization with tokens for channels: about as fast on one thread, and the same to the bit with
    onnxruntime 1.23.2 and 1.32.0, whose LayerNormalization differ in the last bit, which tips roundings to int8. It
    sums by registers from the next aligned address, so a token's channels must fill them: or sums would depend on where
    in memory the token is. It uses one thread however many there are.

    :param g: where to write.
    :param x: float32 [..., length, channels].
    :param weight: float32 [channels].
    :param bias: float32 [channels].
    :param channels: how many.
    :param eps: added to the variance.
    :param tokens: of the same length.
    :return: name of float32 [..., length, channels].
    """
    if channels % LANES:
        plain: str = g("LayerNormalization", x, weight, bias, axis=-1, epsilon=eps)
        return plain
    first = np.array([0])
    batch = x if tokens.batched else g("Unsqueeze", x, first)
    y = g("InstanceNormalization", batch, tokens.ones, tokens.zeros, epsilon=eps)
    if not tokens.batched:
        y = g("Squeeze", y, first)
    result: str = g("Add", g("Mul", y, weight), bias)
    return result


def rms_normalize(g: Builder, x: str, weight: str, eps: float) -> str:
    """Emit RMSNorm over the last axis: x / sqrt(mean(x²) + eps) * weight.

    :param g: where to write.
    :param x: float32 [..., channels].
    :param weight: float32 [channels].
    :param eps: added to the mean of squares.
    :return: name of float32 [..., channels].
    """
    mean = g("ReduceMean", g("Mul", x, x), np.array([-1]), keepdims=1)
    inverse = g("Reciprocal", g("Sqrt", g("Add", mean, np.float32(eps))))
    result: str = g("Mul", g("Mul", x, inverse), weight)
    return result
