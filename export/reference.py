"""What follows the encoder, in torch and float64: the vectors that a model folder must give.

Written from sentence-transformers' definitions and apart from the runtime's, which is compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from export.declared import Declared
    from export.models import EncoderModel
    from runtime.modules import Module

__all__ = ["reference_vector", "torch_states"]

# Of attention that torch computes at a time: 8192 x 8192 scores a head would take gigabytes.
ATTENTION_ROWS = 256

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "logsigmoid": nn.LogSigmoid,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "mish": nn.Mish,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "leaky_relu": nn.LeakyReLU,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
}


def torch_states(model: EncoderModel, ids: Sequence[int]) -> Tensor:
    """Compute the token vectors of one text.

    :param model: the torch model.
    :param ids: T tokens.
    :return: [T, hidden] float32.
    """
    before, model.block_rows = model.block_rows, ATTENTION_ROWS
    try:
        with torch.inference_mode():
            tokens = torch.tensor([list(ids)], dtype=torch.int64)
            output = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), return_dict=True)
    finally:
        model.block_rows = before
    states: Tensor = output.last_hidden_state[0]
    return states


def reference_vector(hidden: Tensor, stated: Declared, skip: int = 0) -> Tensor:
    """Pool and project the token vectors of one text.

    :param hidden: [T, hidden] of any floating type.
    :param stated: what the folder declares.
    :param skip: tokens at the start that pooling leaves out.
    :return: [D] float64, normalised where the folder says so.
    """
    vector = torch.cat([_pool(hidden.to(torch.float64), mode, skip) for mode in stated.pooling])
    for module in stated.modules:
        vector = _apply(module, vector)
    return nn.functional.normalize(vector, dim=0) if stated.normalize else vector


def _pool(hidden: Tensor, mode: str, skip: int) -> Tensor:
    mask = torch.ones(len(hidden), 1, dtype=torch.float64)
    mask[:skip] = 0
    if mode == "cls":
        return hidden[skip]
    if mode == "lasttoken":
        return hidden[-1]
    if mode == "max":
        return hidden.masked_fill(mask == 0, -torch.inf).max(dim=0).values
    if mode == "weightedmean":
        mask = mask * torch.arange(1, len(hidden) + 1, dtype=torch.float64)[:, None]
    total = (hidden * mask).sum(dim=0)
    return total / mask.sum().sqrt() if mode == "mean_sqrt_len_tokens" else total / mask.sum()


def _apply(module: Module, vector: Tensor) -> Tensor:
    arrays = {name: torch.tensor(array, dtype=torch.float64) for name, array in module.arrays.items()}
    if module.type == "normalize":
        return nn.functional.normalize(vector, dim=0)
    if module.type == "layer_norm":
        return nn.functional.layer_norm(vector, vector.shape, arrays["weight"], arrays["bias"], module.eps)
    output: Tensor = _ACTIVATIONS[module.activation]()(
        nn.functional.linear(vector, arrays["weight"], arrays.get("bias"))
    )
    if module.use_residual:
        output = output + (arrays["residual"] @ vector if "residual" in arrays else vector)
    return output
