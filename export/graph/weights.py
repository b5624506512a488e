"""Where the nodes of a layer find its weights.

The branch for short texts names each layer's initializers, which onnxruntime packs once for its kernels. The branch
for long texts loops over the layers and takes layer i of stacked initializers. A stack holds the very bytes of the
matrices it stacks, one after the other, so that on disk it is the same place in model.onnx.data (see
``export.folder.save_model``), and in memory nothing until a long text comes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from export.graph.builder import Builder

__all__ = [
    "FORMS",
    "INPUTS",
    "MATRICES",
    "PAIR_SUM_LIMIT",
    "WEIGHT_LIMIT",
    "Arrays",
    "Direct",
    "Selectable",
    "Shape",
    "Stacked",
    "Weights",
    "channel_scales",
    "quantize_matrix",
    "quantize_table",
    "quantized",
    "store",
]

Arrays = Mapping[str, NDArray[Any]]  # part of a layer, e.g. "mlp.wo.bias" -> its value

# The linear layers of a layer in the order in which they run.
MATRICES = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "mlp.gate",
    "mlp.up",
    "mlp.wo",
)
# What goes into them: name of the input -> the matrices that take it.
INPUTS = {
    "attention.self": MATRICES[:3],
    "attention.output.dense": MATRICES[3:4],
    "mlp": MATRICES[4:6],
    "mlp.wo": MATRICES[6:],
}
# Forms of a linear layer: its matrix "NAME.int8" or "NAME.wide" (int8 with 8 or 16 bits for each activation, see
# linear.py), with "NAME.scale", or "NAME.fp32".
FORMS = ("int8", "wide", "fp32")
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

    def chosen(self, part: str) -> str:
        """Name the bool scalar that says whether the layer has a matrix in this form, e.g. "mlp.wo.int8".

        It is asked only where there can be several forms.
        """
        ...


class Direct:
    """Weights as initializers of their own, named as in the checkpoint."""

    def __init__(self, g: Builder, prefix: str, arrays: Arrays) -> None:
        self._g, self._prefix, self._arrays = g, prefix, arrays

    def __contains__(self, part: object) -> bool:
        return part in self._arrays

    def __call__(self, part: str) -> str:
        return self._g.constant(self._arrays[part], self._prefix + part)

    def chosen(self, part: str) -> str:
        raise AssertionError(f"{part}: a layer of its own has one form")


class Selectable(Direct):
    """Weights in all forms; an input of the graph says which form of which matrix is used."""

    def __init__(
        self, g: Builder, prefix: str, arrays: Arrays, forms: str, places: Mapping[str, int]
    ) -> None:
        """Hold the weights of a layer.

        :param g: the graph.
        :param prefix: of the layer's names.
        :param arrays: its parts, each matrix in fp32 and in int8.
        :param forms: int64 [linear layers], for each its place in FORMS.
        :param places: where in it each matrix of the layer is.
        """
        super().__init__(g, prefix, arrays)
        self._forms, self._places = forms, places

    def __contains__(self, part: object) -> bool:
        return super().__contains__(_shared(str(part)))

    def __call__(self, part: str) -> str:
        return super().__call__(_shared(part))

    def chosen(self, part: str) -> str:
        matrix, _, form = part.rpartition(".")
        wanted = self._g("Gather", self._forms, np.int64(self._places[matrix]))
        result: str = self._g("Equal", wanted, np.int64(FORMS.index(form)))
        return result


def _shared(part: str) -> str:
    """Both forms in int8 have the same matrix."""
    return part.removesuffix("wide") + "int8" if part.endswith(".wide") else part


class Stacked:
    """Weights taken from the stacks of all layers, in the body of a loop over the layers.

    A part that only some layers have is stacked for those alone; the others get the first of the stack, unused.
    """

    def __init__(self, body: Builder, index: str, layers: Sequence[Arrays]) -> None:
        self._body, self._index, self._layers = body, index, layers
        self._taken: dict[str, str] = {}

    def __contains__(self, part: object) -> bool:
        return any(part in layer for layer in self._layers)

    def __call__(self, part: str) -> str:
        if part not in self._taken:
            having = [layer[part] for layer in self._layers if part in layer]
            stack = self._body.constant(np.stack(having), "encoder.layers." + part)
            self._taken[part] = self._body("Gather", stack, self._place(part, len(having)))
        return self._taken[part]

    def chosen(self, part: str) -> str:
        key = part + " chosen"
        if key not in self._taken:
            having = np.array([part in layer for layer in self._layers])
            self._taken[key] = self._body("Gather", having, self._index)
        return self._taken[key]

    def _place(self, part: str, count: int) -> str:
        """Where in the stack of a part the layer's is."""
        if count == len(self._layers):
            return self._index
        before = np.cumsum([part in layer for layer in self._layers]) - 1
        result: str = self._body("Gather", before.clip(0).astype(np.int64), self._index)
        return result


def store(g: Builder, layers: Sequence[Arrays]) -> list[Direct]:
    """Store the matrices of all layers, those of a kind one after the other, as their stack will have them.

    :param g: the graph.
    :param layers: the parts of each layer.
    :return: the weights of each layer.
    """
    weights = [Direct(g, f"encoder.layer.{i}.", arrays) for i, arrays in enumerate(layers)]
    for matrix in MATRICES:
        for form in FORMS:
            for layer in weights:
                if f"{matrix}.{form}" in layer:
                    layer(f"{matrix}.{form}")
    return weights


def quantized(arrays: Arrays, forms: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Bring the matrices of a layer into their forms.

    :param arrays: the parts of the layer: matrices as "NAME.fp32", and where they were rounded to int8 already
        (export.quantization.rounding) as "NAME.int8" and "NAME.scale" too.
    :param forms: name out of MATRICES -> form out of FORMS; fp32 for those left out.
    :return: the parts, each matrix in its form alone.
    """
    parts = dict(arrays)
    factors = {name: parts.get(group + ".factor") for group, names in INPUTS.items() for name in names}
    for name in MATRICES:
        form = forms.get(name, "fp32")
        if name + ".int8" in parts:
            int8, scale = parts.pop(name + ".int8"), parts.pop(name + ".scale")
        elif form != "fp32":
            matrix, factor = parts[name + ".fp32"], factors[name]
            if factor is not None:
                matrix = (matrix / factor[:, None]).astype(np.float32)
            int8, scale = quantize_matrix(matrix)
        if form != "fp32":
            del parts[name + ".fp32"]
            parts |= {f"{name}.{form}": int8, name + ".scale": scale}
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
    scale = channel_scales(matrix)
    int8 = np.clip(np.rint(matrix / scale), -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8)
    return int8, scale


def channel_scales(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales that keep every weight within WEIGHT_LIMIT and every pair sum within PAIR_SUM_LIMIT.

    :param matrix: float32 [inputs, outputs], inputs even.
    :return: float32 [outputs].
    """
    inputs, outputs = matrix.shape
    largest = np.abs(matrix).max(axis=0) / WEIGHT_LIMIT
    # Rounding moves the sum of a pair by 1 at most, half a unit for each of the two.
    pairs = np.abs(matrix.reshape(inputs // 2, 2, outputs).astype(np.float64).sum(axis=1))
    scale = np.maximum(largest, pairs.max(axis=0) / (PAIR_SUM_LIMIT - 1))
    result: NDArray[np.float32] = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)
    return result


def quantize_table(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise the embedding table, symmetric per row.

    :param table: float32 [vocabulary, hidden].
    :return: int8 [vocabulary, hidden] and scale, float32 [vocabulary, 1].
    """
    largest = np.abs(table).max(axis=1, keepdims=True)
    scale = np.maximum(largest / WEIGHT_LIMIT, np.finfo(np.float32).tiny).astype(np.float32)
    return np.rint(table / scale).astype(np.int8), scale
