"""SmoothQuant (arXiv 2211.10438): a large channel of an input is divided by a factor, its weights multiplied by it.

int8 gives each token one scale, decided by its largest channel, and each output of a matrix another. The factor moves
a part of a channel's size from the one to the other. Where what makes the channel is linear in it, its weights take the
division, at no cost: the up projection for ``mlp.wo``, values for ``attention.output.dense``. What goes into attention
and feed-forward is the residual as well, and stays: there the graph multiplies channels before it quantises them.

Factors are powers of two, so that fp32 vectors keep their bits. Inputs with one scale for all tokens (static.py) are
balanced already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.graph.encoder import Encoder
from export.graph.weights import INPUTS, quantize_matrix
from export.quantization.observed import Observed
from export.quantization.rounding import errors

__all__ = ["MAKERS", "STRENGTHS", "Layers", "Seen", "candidates", "smooth"]

STRENGTHS = (0.0, 0.3, 0.5, 0.7)  # of smoothing; 0 leaves a layer as it is
COMPENSATED = 0.1  # of the error of weights that compensated rounding leaves, about
GAIN = 0.9  # channels are multiplied in the graph only if no more than this part of the error is left

# Input -> what its channels are made by.
MAKERS = {"attention.output.dense": "attention.self.value", "mlp.wo": "mlp.up"}
Layers = list[dict[str, NDArray[Any]]]
Seen = dict[tuple[int, str], Observed]


def candidates(top: Tensor, largest: Tensor, strengths: Sequence[float] = STRENGTHS) -> list[Tensor]:
    """Balance channels against weights, more or less.

    :param top: largest magnitude of each channel, float32 [inputs].
    :param largest: largest weight that takes it, float32 [inputs].
    :param strengths: 0 changes nothing, 1 gives all weights the same size.
    :return: the factors of each strength, float32 [inputs].
    """
    ratio = top.clamp(min=1e-4) / largest.clamp(min=1e-4)
    return [(ratio / ratio.median()).pow(strength).clamp(0.1, 10) for strength in strengths]


def smooth(encoder: Encoder, seen: Seen) -> tuple[Layers, Seen]:
    """Smooth all layers.

    :param encoder: sizes and weights.
    :param seen: inputs of the linear layers.
    :return: the layers' parts, and what would be seen of their inputs then.
    """
    layers: Layers = [dict(arrays) for arrays in encoder.layers]
    found = dict(seen)
    for (number, group), observed in seen.items():
        if group not in MAKERS or group + ".step" in layers[number]:
            continue
        arrays, maker = layers[number], MAKERS[group]
        factors, _ = _best(arrays, group, observed)
        for part in (maker + ".fp32", maker + ".bias"):
            if part in arrays:
                arrays[part] = arrays[part] / factors.numpy()
        arrays[group + ".fp32"] = arrays[group + ".fp32"] * factors.numpy()[:, None]
        found[number, group] = observed.divided(factors)
    for group in INPUTS:
        if group in MAKERS or group + ".step" in layers[0]:
            continue
        best = [_best(arrays, group, seen[number, group]) for number, arrays in enumerate(layers)]
        if min(left for _, left in best) > GAIN:
            continue
        for number, (factors, left) in enumerate(best):
            used = factors if left <= GAIN else torch.ones_like(factors)
            layers[number][group + ".factor"] = (1 / used).numpy()
            found[number, group] = seen[number, group].divided(used)
    return layers, found


def _best(arrays: dict[str, NDArray[Any]], group: str, observed: Observed) -> tuple[Tensor, float]:
    """The factors that leave least error, and how much of it without them."""
    matrices = [arrays[name + ".fp32"] for name in INPUTS[group] if name + ".fp32" in arrays]
    weight = torch.from_numpy(matrices[0] if len(matrices) == 1 else np.concatenate(matrices, axis=1))
    choices = [
        torch.exp2(torch.log2(factors).round())
        for factors in candidates(observed.rows.abs().amax(0), weight.abs().amax(1))
    ]
    left = [_error(weight * factors[:, None], observed.rows / factors) for factors in choices]
    least = min(range(len(left)), key=left.__getitem__)
    return choices[least], left[least] / (left[0] or 1.0)


def _error(weight: Tensor, rows: Tensor) -> float:
    matrix = weight.numpy()
    by_rows, by_weights = errors(matrix, *quantize_matrix(matrix), rows)
    return by_rows + COMPENSATED * by_weights
