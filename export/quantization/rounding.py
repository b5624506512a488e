"""Weights rounded to int8 so that the errors of a matrix make up for each other.

GPTQ (arXiv 2210.17323): input channels are rounded one after the other, and what rounding one of them changes in the
output is taken back, as well as can be, by the channels that are not rounded yet. How well depends on how inputs go
together, which a sample of texts shows. Nothing of it is left at run time: the int8 matrix has the form that
``graph.weights.quantize_matrix`` gives, its limit on the sum of a pair included.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.graph.weights import PAIR_SUM_LIMIT, WEIGHT_LIMIT, channel_scales
from export.quantization.observed import Observed

__all__ = ["compensated", "errors"]

DAMPING = 0.01  # of the mean of the diagonal, as published
BLOCK = 128  # channels after which the corrections of all later ones are made at once
ROOM = np.float32(1.02)  # of the scale: corrections make weights a little larger


def compensated(matrix: NDArray[np.float32], seen: Observed) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a matrix.

    :param matrix: float32 [inputs, outputs].
    :param seen: its input.
    :return: int8 [inputs, outputs] and scale, float32 [outputs].
    """
    scale = channel_scales(matrix) * ROOM
    steps = torch.from_numpy(matrix / scale)  # in units of the scale, changed as corrections are made
    rounded = torch.zeros_like(steps)
    factor = _inverse_root(seen.gram)
    inputs = len(steps)
    for start in range(0, inputs, BLOCK):
        end = min(start + BLOCK, inputs)
        errors = torch.zeros(end - start, steps.shape[1])
        for i in range(start, end):
            low, high = -float(WEIGHT_LIMIT), float(WEIGHT_LIMIT)
            whole = steps[i].round().clamp(low, high)
            if i % 2:  # the pair whose products some processors add in 16 bits, see graph/weights.py
                whole = whole.clamp(-PAIR_SUM_LIMIT - rounded[i - 1], PAIR_SUM_LIMIT - rounded[i - 1])
                whole = whole.clamp(low, high)
            rounded[i] = whole
            errors[i - start] = (steps[i] - whole) / factor[i, i]
            steps[i + 1 : end] -= torch.outer(factor[i, i + 1 : end], errors[i - start])
        steps[end:] -= factor[start:end, end:].T @ errors
    return rounded.to(torch.int8).numpy(), scale


def errors(
    matrix: NDArray[np.float32],
    int8: NDArray[np.int8],
    scale: NDArray[np.float32],
    rows: Tensor,
    step: float | None = None,
) -> tuple[float, float]:
    """What rounding changes in the output, relative to it: means of squares.

    :param matrix: float32 [inputs, outputs].
    :param int8: the matrix in int8.
    :param scale: its scale by output.
    :param rows: inputs, float32 [rows, inputs].
    :param step: the scale of all rows; None: each has its own.
    :return: by rounding the inputs, and by rounding the matrix.
    """
    weight = torch.from_numpy(matrix)
    size = float((rows @ weight).square().sum()) or 1.0
    steps = rows.abs().amax(1, keepdim=True).clamp(min=1e-30) / WEIGHT_LIMIT if step is None else step
    by_rows = ((rows / steps).round().clamp(-WEIGHT_LIMIT - 1, WEIGHT_LIMIT) * steps - rows) @ weight
    by_weights = rows @ (torch.from_numpy(int8 * scale) - weight)
    return float(by_rows.square().sum()) / size, float(by_weights.square().sum()) / size


def _inverse_root(gram: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped second moments, float32 [inputs, inputs]."""
    damped = gram.double()
    diagonal = damped.diagonal()
    diagonal += DAMPING * float(diagonal.mean()) + 1e-30
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float()
