"""Where the nodes of a layer find its weights.

The branch for short texts names each layer's initializers, which onnxruntime packs once for its kernels. The branch
for long texts loops over the layers and takes layer i of stacked initializers. A stack holds the very bytes of the
matrices it stacks, one after the other, so that on disk it is the same place in model.onnx.data (see
``export.folder.save_model``), and in memory nothing until a long text comes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from export.graph.builder import Builder

__all__ = [
    "MATRICES",
    "PAIR_SUM_LIMIT",
    "Direct",
    "Shape",
    "Stacked",
    "Weights",
    "quantize_matrix",
    "quantize_table",
    "quantized",
    "store",
]

Arrays = Mapping[str, NDArray[Any]]  # part of a layer, e.g. "mlp.wo.bias" -> its value

# The products of a layer in the order in which they run.
MATRICES = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "mlp.gate",
    "mlp.up",
    "mlp.wo",
)
WEIGHT_LIMIT = 127
PAIR_SUM_LIMIT = 128  # 255 * 128 = 32640 <= 32767


@dataclass(frozen=True)
class Shape:
    """Sizes of the model."""

    hidden: int
    intermediate: int
    heads: int
    width: int  # of a head
    eps: float  # of the norms


class Weights(Protocol):
    """The weights of one layer."""

    def __contains__(self, part: object) -> bool: ...

    def __call__(self, part: str) -> str:
        """Name the value of a part, e.g. "mlp.wo.bias"."""
        ...


class Direct:
    """Weights as initializers of their own, named as in the checkpoint."""

    def __init__(self, g: Builder, prefix: str, arrays: Arrays) -> None:
        self._g, self._prefix, self._arrays = g, prefix, arrays

    def __contains__(self, part: object) -> bool:
        return part in self._arrays

    def __call__(self, part: str) -> str:
        return self._g.constant(self._arrays[part], self._prefix + part)


class Stacked:
    """Weights taken from the stacks of all layers, in the body of a loop over the layers."""

    def __init__(self, body: Builder, index: str, layers: Sequence[Arrays]) -> None:
        self._body, self._index, self._layers = body, index, layers
        self._taken: dict[str, str] = {}

    def __contains__(self, part: object) -> bool:
        return part in self._layers[0]

    def __call__(self, part: str) -> str:
        if part not in self._taken:
            stack = self._body.constant(
                np.stack([layer[part] for layer in self._layers]), "encoder.layers." + part
            )
            self._taken[part] = self._body("Gather", stack, self._index)
        return self._taken[part]


def store(g: Builder, layers: Sequence[Arrays]) -> list[Direct]:
    """Store the matrices of all layers, those of a kind one after the other, as their stack will have them.

    :param g: the graph.
    :param layers: the parts of each layer.
    :return: the weights of each layer.
    """
    weights = [Direct(g, f"encoder.layer.{i}.", arrays) for i, arrays in enumerate(layers)]
    for matrix in MATRICES:
        for kind in (".int8", ".fp32"):
            for layer in weights:
                if matrix + kind in layer:
                    layer(matrix + kind)
    return weights


def quantized(arrays: Arrays, int8: Collection[str]) -> dict[str, NDArray[Any]]:
    """Quantise some matrices of a layer.

    :param arrays: the parts of the layer, matrices as "NAME.fp32".
    :param int8: names out of MATRICES.
    :return: the parts, "NAME.int8" and "NAME.scale" instead of "NAME.fp32" for those named.
    """
    parts = dict(arrays)
    for name in int8:
        parts[name + ".int8"], parts[name + ".scale"] = quantize_matrix(parts.pop(name + ".fp32"))
    return parts


def quantize_matrix(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise a matrix, symmetric per output channel, safe from saturation.

    Processors without VNNI (x86 before Cascade Lake and Zen 4) multiply u8 by s8 with vpmaddubsw, which adds the
    neighbouring products 2p and 2p + 1 in saturating 16 bits (microsoft/onnxruntime#6004). An activation being at most
    255, a pair cannot saturate as long as 255 * |w[2p] + w[2p + 1]| <= 32767, so the scale keeps every pair sum within
    PAIR_SUM_LIMIT. Weights within +-64, the usual remedy, are a special case of it that gives away most of a bit.

    :param matrix: float32 [inputs, outputs], inputs even.
    :return: int8 [inputs, outputs] and scale, float32 [outputs]; the matrix is about int8 * scale.
    """
    inputs, outputs = matrix.shape
    largest = np.abs(matrix).max(axis=0) / WEIGHT_LIMIT
    # Rounding moves the sum of a pair by 1 at most, half a unit for each of the two.
    pairs = np.abs(matrix.reshape(inputs // 2, 2, outputs).astype(np.float64).sum(axis=1))
    scale = np.maximum(largest, pairs.max(axis=0) / (PAIR_SUM_LIMIT - 1))
    scale = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)
    int8 = np.clip(np.rint(matrix / scale), -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8)
    return int8, scale


def quantize_table(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise the embedding table, symmetric per row.

    :param table: float32 [vocabulary, hidden].
    :return: int8 [vocabulary, hidden] and scale, float32 [vocabulary, 1].
    """
    largest = np.abs(table).max(axis=1, keepdims=True)
    scale = np.maximum(largest / WEIGHT_LIMIT, np.finfo(np.float32).tiny).astype(np.float32)
    return np.rint(table / scale).astype(np.int8), scale
