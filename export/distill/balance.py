"""Makes a trained student easier to quantise, without changing what it computes.

int8 gives each token one scale, which its largest channel decides. A student that starts as BERT has channels that are
large for every token, far from 0 by nearly the same amount: what stays the same is taken out of the activations and
put into biases, where it costs nothing.

- *Hardening.* Training lets the constant dimension (start.py) vary a little; it is made constant again. Of the three
  this is the one that changes vectors, a little: training prints the dev score before and after.
- *Centring.* From each LayerNorm whose output goes into products, the mean of each channel is taken out of its bias;
  the products and the residual that read it get it back in their own biases. The MLP's first product has no bias: there
  the constant dimension carries it.
- *Smoothing.* Unit i of the MLP's inner layer is divided by a factor and row i of the next product multiplied by it
  (arXiv 2211.10438), which balances the largest activation of a unit against its largest weight.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from export.modeling import JinaBertModel

__all__ = ["balance"]


@torch.no_grad()
def balance(model: JinaBertModel, run: Callable[[JinaBertModel], None], constant_channel: int) -> None:
    """
    :param model: changed in place.
    :param run: gives the model typical texts, without padding.
    :param constant_channel: of the hidden states.
    """
    _harden(model, constant_channel)
    _centre(model, run, constant_channel)
    _smooth(model, run)


def _norms(model: JinaBertModel) -> list[nn.LayerNorm]:
    """In the order in which they run, without the last, whose output is pooled."""
    norms = [model.embeddings.LayerNorm]
    for layer in model.encoder.layer:
        norms += [layer.attention.output.LayerNorm, layer.mlp.layernorm]
    return norms[:-1]


def _harden(model: JinaBertModel, channel: int) -> None:
    for norm in _norms(model):
        norm.weight[channel] = 0


def _watch(
    modules: list[nn.Module], run: Callable[[JinaBertModel], None], model: JinaBertModel, *, inputs: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Mean and largest magnitude of each channel, over all tokens that run gives the model."""
    sums: list[Tensor | float] = [0.0] * len(modules)
    tops: list[Tensor | None] = [None] * len(modules)
    counts = [0] * len(modules)

    def hook(number: int) -> Callable[..., None]:
        def see(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
            rows = (given[0] if inputs else result).flatten(0, -2)
            sums[number] = sums[number] + rows.sum(0)
            top, before = rows.abs().amax(0), tops[number]
            tops[number] = top if before is None else torch.maximum(before, top)
            counts[number] += len(rows)

        return see

    handles = [module.register_forward_hook(hook(number)) for number, module in enumerate(modules)]
    run(model)
    for handle in handles:
        handle.remove()
    means = [torch.as_tensor(total) / count for total, count in zip(sums, counts, strict=True)]
    return means, [top for top in tops if top is not None]


def _centre(model: JinaBertModel, run: Callable[[JinaBertModel], None], channel: int) -> None:
    norms = _norms(model)
    means, tops = _watch(list(norms), run, model, inputs=False)
    for number, (norm, mean, top) in enumerate(zip(norms, means, tops, strict=True)):
        mean[channel] = 0
        norm.bias -= mean
        layer = model.encoder.layer[number // 2]
        if number % 2 == 0:
            for name in ("query", "key", "value"):
                product = getattr(layer.attention.self, name)
                product.bias += product.weight @ mean
            layer.attention.output.dense.bias += mean
        else:
            weight = layer.mlp.gated_layers.weight
            constant = norm.bias[channel].clone()
            weight[:, channel] += weight @ mean / constant
            layer.mlp.wo.bias += mean
            # As large as the others get, so that its weights need be no larger than theirs.
            factor = float((top - mean.abs()).clamp(min=1).quantile(0.99)) / float(constant.abs())
            _rescale_constant(layer, norm, channel, max(1.0, factor))


def _rescale_constant(layer: nn.Module, norm: nn.LayerNorm, channel: int, factor: float) -> None:
    """The constant of an attention's LayerNorm times a factor; nothing that reads it notices."""
    before = norm.bias[channel].clone()
    norm.bias[channel] *= factor
    layer.mlp.gated_layers.weight[:, channel] /= factor
    # The residual reads it too.
    layer.mlp.wo.bias[channel] -= before * (factor - 1)


def _smooth(model: JinaBertModel, run: Callable[[JinaBertModel], None]) -> None:
    layers = list(model.encoder.layer)
    _, tops = _watch([layer.mlp.wo for layer in layers], run, model, inputs=True)
    for layer, top in zip(layers, tops, strict=True):
        weights = layer.mlp.wo.weight.abs().amax(0)
        factor = (top.clamp(min=1e-4) / weights.clamp(min=1e-4)).sqrt()
        factor = (factor / factor.median()).clamp(0.1, 10)
        layer.mlp.gated_layers.weight[layer.mlp.width :] /= factor[:, None]
        layer.mlp.wo.weight *= factor
