"""Noise as int8 will make it, only larger: a student that was fine-tuned under it is changed less by rounding.

int8 rounds each channel of a linear layer's input to within 1/254 of the token's largest channel. Noise in proportion
to that largest one teaches the student to need no channels that are much larger than the others, and not to amplify
in later layers what was rounded in early ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from export.models.jinabert import JinaBertModel

__all__ = ["noise"]


@contextmanager
def noise(student: JinaBertModel, size: float, seed: int) -> Iterator[None]:
    """Add noise to the inputs of all linear layers while the context lasts.

    :param student: whose linear layers.
    :param size: half the width of the noise, which is uniform, relative to the token's largest channel.
    :param seed: of the noise.
    """
    generator = torch.Generator(student.device).manual_seed(seed)

    def disturb(linear: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = given
        uniform = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return (x + (2 * uniform - 1) * size * x.abs().amax(-1, keepdim=True),)

    linears = [module for module in student.encoder.modules() if isinstance(module, nn.Linear)]
    handles = [linear.register_forward_pre_hook(disturb) for linear in linears]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
