"""One scale for all tokens, found at export, where tokens are alike; the others keep a scale a token.

After a LayerNorm the largest values of tokens are within a factor of two or three of each other. What a scale a token
would gain there is less than what balancing channels gains (smoothing.py), and it costs passes over the activations:
to find the largest value of each row, and to multiply every product by the scale. A channel is divided by a factor, a
power of two, and the weights that take it are multiplied by it; what makes the channel takes the division where it is
linear in it (values, the up projection, the weight of an RMSNorm), else the graph multiplies by its inverse.

The step covers the largest value of all calibration texts and a margin; what is larger still is cut. Whether an input
gets a step is decided by the errors that both kinds leave, and in all layers alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.graph.weights import INPUTS, WEIGHT_LIMIT, Arrays, quantize_matrix
from export.quantization.observed import Observed
from export.quantization.rounding import errors
from export.quantization.smoothing import MAKERS, Layers, Seen, candidates

__all__ = ["settle"]

STRENGTHS = (0.0, 0.3, 0.5, 0.7, 0.85, 1.0)  # of balancing, see smoothing.candidates
MARGIN = 1.1  # of the largest value seen
WORSE = 4.0  # times the error of a scale a token may be left at most, over all layers: cosines fall much less


def settle(layers: Sequence[Arrays], seen: Seen) -> tuple[Layers, Seen]:
    """Give inputs of linear layers a step, where that is about as exact as a scale a token.

    :param layers: the parts of each layer.
    :param seen: inputs of the linear layers.
    :return: the parts with ``INPUT.step`` and ``INPUT.factor``; what would be seen of the inputs then.
    """
    changed: Layers = [dict(arrays) for arrays in layers]
    found = dict(seen)
    for group in INPUTS:
        chosen = [_best(arrays, group, seen[number, group]) for number, arrays in enumerate(layers)]
        if sum(error for _, _, error, _ in chosen) > WORSE * sum(error for *_, error in chosen):
            continue
        even = all(bool((factors == 1).all()) for factors, *_ in chosen)
        for number, (factors, step, _, _) in enumerate(chosen):
            if not even:
                _divide(changed[number], group, factors)
            changed[number][group + ".step"] = np.array(step, np.float32)
            found[number, group] = seen[number, group].divided(factors)
    return changed, found


def _best(arrays: Arrays, group: str, seen: Observed) -> tuple[Tensor, float, float, float]:
    """Factors and step that leave the least error, that error, and the error of a scale a token without factors."""
    matrices = [arrays[name + ".fp32"] for name in INPUTS[group] if name + ".fp32" in arrays]
    weight = torch.from_numpy(matrices[0] if len(matrices) == 1 else np.concatenate(matrices, axis=1))
    choices = []
    for factors in candidates(seen.largest, weight.abs().amax(1), STRENGTHS):
        power = torch.exp2(torch.log2(factors).round())
        step = float((seen.largest / power).max()) * MARGIN / WEIGHT_LIMIT or 1.0
        choices.append((power, step, _error(weight * power[:, None], seen.rows / power, step)))
    power, step, error = min(choices, key=lambda choice: choice[2])
    return power, step, error, _error(weight, seen.rows, None)


def _error(weight: Tensor, rows: Tensor, step: float | None) -> float:
    matrix = weight.numpy()
    return sum(errors(matrix, *quantize_matrix(matrix), rows, step))


def _divide(arrays: dict[str, NDArray[Any]], group: str, factors: Tensor) -> None:
    """Divide the channels of an input by factors, and multiply the weights that take them."""
    by = factors.numpy()
    norm = group.partition(".")[0] + ".pre_norm.weight"
    if group in MAKERS:
        parts = [MAKERS[group] + end for end in (".fp32", ".bias")]
    elif norm in arrays:
        parts = [norm]
    else:
        arrays[group + ".factor"] = 1 / by
        return
    arrays |= {part: arrays[part] / by for part in parts if part in arrays}
    taking = [name + ".fp32" for name in INPUTS[group] if name + ".fp32" in arrays]
    arrays |= {name: arrays[name] * by[:, None] for name in taking}
