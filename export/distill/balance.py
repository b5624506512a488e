"""Makes a trained student easier to quantise, all but without changing what it computes.

int8 gives each token one scale, decided by its largest channel, and each row of weights another. A student that starts
as BERT has a few channels that are many times larger than all others (arXiv 2105.06990); others round to little beside.

- *Outlier redistribution.* A large channel is written to k dimensions instead of one, times a vector c of length 1 that
  adds up to 1: mean and variance, which the LayerNorms see, stay as they are, and each of the k is smaller by about
  sqrt(k). The dimensions behind the constant one (initialize.py) are kept free for it. What reads the channel reads as
  few of the k as its row of weights has room for: weights of 0 add no rounding error. A LayerNorm takes the mean m of
  all dimensions from each of the k, not c times m, and m is only nearly the same for all tokens, so vectors change a
  little. Training prints the dev score before and after.
- *Neuron splitting.* A unit of the MLP with weights far larger than all others (MiniLM has one that fires for [CLS]
  alone) would set the scale of the rows that it writes to. It becomes k units with weights k times smaller, in the
  places of the k - 1 units that add least; what those added is lost.
- *SmoothQuant* (Xiao et al., arXiv 2211.10438). Unit i of the MLP's inner layer is divided by a factor and row i of
  the next linear layer multiplied by it, which balances the largest activation of a unit against its largest weight.
  The strength, alpha in the paper, is chosen for each layer by the rounding error measured, and limited.

Centring (taking each channel's mean into biases) was tried and is not here: it gained little on sentences and lost
more on texts of one token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from export.distill.initialize import layer_norms
from export.graph.weights import quantize_matrix
from export.models.jinabert import JinaBertModel
from export.quantization.smoothing import candidates

__all__ = ["balance"]

Measured = TypeVar("Measured")

LARGE = 1.5  # times the 99th percentile of units' largest weights: such a unit is split
ROOM = 3.0  # times the same: SmoothQuant makes no weight larger
STRENGTHS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # of SmoothQuant; 0 leaves a layer as it is
ROWS = 8  # of each text that SmoothQuant is measured on


@torch.no_grad()
def balance(model: JinaBertModel, run: Callable[[JinaBertModel], None], constant_channel: int) -> None:
    """Balance the channels of a model for int8.

    :param model: changed in place.
    :param run: gives the model typical texts, without padding.
    :param constant_channel: of the hidden states; those behind it are 0 for every text, as initialize.py keeps them.
    """
    _redistribute_outliers(model, run, constant_channel)
    _split_neurons(model, run)
    _smoothquant(model, run)


def _gather(
    modules: Sequence[nn.Module],
    run: Callable[[JinaBertModel], None],
    model: JinaBertModel,
    measure: Callable[[nn.Module, Tensor, Tensor], Measured],
) -> list[list[Measured]]:
    """What is measured of each module's input and output, once for each time that run gives the model texts."""
    found: list[list[Measured]] = [[] for _ in modules]

    def hook(parts: list[Measured]) -> Callable[..., None]:
        return lambda module, given, result: parts.append(measure(module, given[0], result))

    handles = [
        module.register_forward_hook(hook(parts)) for module, parts in zip(modules, found, strict=True)
    ]
    run(model)
    for handle in handles:
        handle.remove()
    return found


def _largest(states: Tensor) -> Tensor:
    """Magnitude of each channel."""
    return states.flatten(0, -2).abs().amax(0)


def _redistribute_outliers(
    model: JinaBertModel, run: Callable[[JinaBertModel], None], constant_channel: int
) -> None:
    def measure(norm: nn.Module, given: Tensor, result: Tensor) -> tuple[Tensor, Tensor]:
        deviation = (given.var(-1, unbiased=False) + norm.eps).sqrt()
        return _largest(result)[:constant_channel], (given.mean(-1) / deviation).flatten()

    norms = layer_norms(model)
    found = _gather(norms, run, model, measure)
    # What each takes from all dimensions: the mean, after division by the deviation.
    offsets = {
        norm: float(torch.cat([offset for _, offset in parts]).mean())
        for norm, parts in zip(norms, found, strict=True)
    }
    # The output of the last is pooled: no linear layer reads it.
    tops = [torch.stack([top for top, _ in parts]).amax(0) for parts in found[:-1]]
    used = torch.stack([top / top.median() for top in tops])
    copies = _copies(used.amax(0), model.config.hidden_size - constant_channel - 1)
    free = constant_channel + 1
    for channel in torch.nonzero(copies > 1).flatten().tolist():
        count = int(copies[channel])
        places = torch.tensor([channel, *range(free, free + count - 1)])
        free += count - 1
        _redistribute_channel(model, channel, places, _direction(count, channel), offsets)


def _copies(size: Tensor, free: int) -> Tensor:
    """How many dimensions each channel gets, so that the largest becomes as small as it can."""
    copies = torch.ones_like(size)
    while True:
        largest = int((size / copies.sqrt()).argmax())
        # Two or three copies cannot have both sums that _direction promises and all be smaller.
        more = 3 if copies[largest] == 1 else 1
        if more > free:
            return copies
        copies[largest] += more
        free -= more


def _direction(count: int, seed: int) -> Tensor:
    """A vector of length 1 that adds up to 1, of about equal magnitudes.

    Not quite equal ones, or the rounding errors of weights in proportion to it would add up.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.ones(count)
    signs[torch.randperm(count, generator=generator)[: count // 2]] = -1
    level = signs * (0.75 + 0.5 * torch.rand(count, generator=generator))
    level -= level.mean()
    return 1 / count + math.sqrt(1 - 1 / count) * level / level.norm()


def _redistribute_channel(
    model: JinaBertModel,
    channel: int,
    places: Tensor,
    direction: Tensor,
    offsets: dict[nn.LayerNorm, float],
) -> None:
    def write(rows: Tensor) -> None:
        value = rows[channel].clone()
        rows[places] = torch.outer(direction, value) if rows.dim() == 2 else direction * value

    def norm(old: nn.LayerNorm) -> None:
        old.weight[places] = old.weight[channel].clone()
        write(old.bias)
        # The mean should have been taken times the direction.
        old.bias[places] += offsets[old] * old.weight[places] * (1 - direction)

    table = model.embeddings.word_embeddings.weight
    table[:, places] = torch.outer(table[:, channel], direction)
    norm(model.embeddings.LayerNorm)
    for layer in model.encoder.layer:
        attention, mlp = layer.attention, layer.mlp
        readers = [attention.self.query, attention.self.key, attention.self.value, mlp.gated_layers]
        for reader in readers:
            reader.weight[:, places] = _reading(reader.weight, channel, direction)
        for writer in (attention.output.dense, mlp.wo):
            write(writer.weight)
            write(writer.bias)
        norm(attention.output.LayerNorm)
        norm(mlp.layernorm)


def _reading(weight: Tensor, channel: int, direction: Tensor) -> Tensor:
    """Weights [outputs, len(direction)] that read from its copies what ``weight[:, channel]`` read from the channel."""
    column, room = weight[:, channel], weight.abs().amax(1)
    reading = torch.outer(column, direction)
    count = len(direction) // 2
    while count >= 2:
        few = _few(direction, count)
        fits = column.abs() * few.abs().amax() <= room
        reading[fits] = torch.outer(column[fits], few)
        count //= 2
    return reading


def _few(direction: Tensor, count: int) -> Tensor:
    """Find the smallest vector with at most ``count`` entries that reads 1 from ``direction`` and adds up to 1.

    What a LayerNorm takes from all dimensions is so read once.
    """
    order = direction.argsort(descending=True)
    chosen = torch.cat([order[: count - count // 2], order[-(count // 2) :]])
    # Of the vectors that read so, the smallest is a mixture of the direction and of ones.
    square, total, ones = direction[chosen].square().sum(), direction[chosen].sum(), len(chosen)
    share = torch.stack([ones - total, square - total]) / (square * ones - total * total)
    few = torch.zeros_like(direction)
    few[chosen] = share[0] * direction[chosen] + share[1]
    return few


def _split_neurons(model: JinaBertModel, run: Callable[[JinaBertModel], None]) -> None:
    products = [layer.mlp.wo for layer in model.encoder.layer]
    found = _gather(products, run, model, lambda _, given, result: given.flatten(0, -2).square().sum(0))
    for layer, parts in zip(model.encoder.layer, found, strict=True):
        gate_up, wo = layer.mlp.gated_layers.weight, layer.mlp.wo.weight
        idle = (torch.stack(parts).sum(0) * wo.square().sum(0)).argsort().tolist()
        largest = wo.abs().amax(0)
        room = LARGE * largest.quantile(0.99)
        for unit in torch.nonzero(largest > room).flatten().tolist():
            count = math.ceil(float(largest[unit] / room))
            places = torch.tensor([unit, *idle[: count - 1]])
            idle = idle[count - 1 :]
            gate_up[places] = gate_up[unit].clone()
            gate_up[places + layer.mlp.width] = gate_up[unit + layer.mlp.width].clone()
            wo[:, places] = (wo[:, unit] / count)[:, None]


def _smoothquant(model: JinaBertModel, run: Callable[[JinaBertModel], None]) -> None:
    def measure(_: nn.Module, given: Tensor, result: Tensor) -> tuple[Tensor, Tensor]:
        return _largest(given), given[:, :ROWS].flatten(0, 1)

    products = [layer.mlp.wo for layer in model.encoder.layer]
    found = _gather(products, run, model, measure)
    for layer, parts in zip(model.encoder.layer, found, strict=True):
        weight, seen = layer.mlp.wo.weight, torch.cat([rows for _, rows in parts])
        top = torch.stack([top for top, _ in parts]).amax(0)
        largest = weight.abs().amax(0).clamp(min=1e-4)
        room = (ROOM * largest.quantile(0.99) / largest).clamp(min=1)
        factors = [torch.minimum(factor, room) for factor in candidates(top, largest, STRENGTHS)]
        best = min(factors, key=lambda factor: _rounding_error(seen / factor, weight * factor))
        layer.mlp.gated_layers.weight[layer.mlp.width :] /= best[:, None]
        layer.mlp.wo.weight *= best


def _rounding_error(rows: Tensor, weight: Tensor) -> float:
    """Of a product in int8, relative to the exact one of each row: mean of squares."""
    int8, scale = quantize_matrix(weight.T.contiguous().numpy())
    steps = rows.abs().amax(1, keepdim=True) / 127
    rounded = (rows / steps).round() * steps
    exact = rows @ weight.T
    error = rounded @ torch.from_numpy(int8 * scale) - exact
    return float((error.square().sum(1) / exact.square().sum(1)).mean())
