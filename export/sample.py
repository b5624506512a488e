"""Small sets of the verification texts, spread over their lengths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["CALIBRATION_TEXTS", "SAMPLE_TEXTS", "SENSITIVITY_TEXTS", "sample", "spread"]

Texts = Sequence[Sequence[int]]

SAMPLE_TEXTS, SAMPLE_TOKENS = 48, 128  # what int8 is judged by before all texts are
SENSITIVITY_TEXTS, SENSITIVITY_TOKENS = 12, 48  # what each linear layer is judged by, one run each
CALIBRATION_TEXTS, CALIBRATION_TOKENS = 192, 256  # what the inputs of linear layers are observed on


def sample(texts: Texts, count: int, longest: int) -> list[Sequence[int]]:
    """Pick texts of all lengths up to a limit.

    :param texts: token ids.
    :param count: how many, at most.
    :param longest: tokens of the longest.
    :return: the texts, the shortest first.
    """
    short = [index for index, text in enumerate(texts) if len(text) <= longest]
    return [texts[index] for index in spread(short, texts, count)]


def spread(indices: Sequence[int], texts: Texts, count: int) -> list[int]:
    """Pick indices of texts in even steps from the shortest text to the longest.

    :param indices: to pick from.
    :param texts: token ids.
    :param count: how many, at most.
    :return: the picked ones.
    """
    ordered = sorted(indices, key=lambda index: (len(texts[index]), index))
    picked = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[position] for position in picked.tolist()]
