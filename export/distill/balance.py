"""Makes a trained student easier to quantise, all but without changing what it computes.

int8 gives each token one scale, which its largest channel decides, and each row of weights another. A student that starts
as BERT has a few channels that are many times larger than all others (arXiv 2105.06990), and the others round to little
beside them.

- *Spreading.* A large channel is written to k dimensions instead of one, times a vector c of length 1 that adds up to 1:
  mean and variance, which the LayerNorms see, stay as they are, and each of the k is smaller by about sqrt(k). The
  dimensions behind the constant one (start.py) are kept free for it. What reads the channel reads as few of the k as its
  row of weights has room for: weights of 0 add no rounding error. A LayerNorm takes the mean m of all dimensions from
  each of the k, not c times m, and m is only nearly the same for all tokens: this is the one step that changes vectors,
  a little. Training prints the dev score before and after.
- *Centring.* From each LayerNorm whose output goes into products, the mean of each channel is taken out of its bias;
  the products and the residual that read it get it back in their own biases. The MLP's first product has no bias: there
  the constant dimension carries it.
- *Smoothing.* Unit i of the MLP's inner layer is divided by a factor and row i of the next product multiplied by it
  (arXiv 2211.10438), which balances the largest activation of a unit against its largest weight. How far is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from export.graph.weights import quantize_matrix
from export.modeling import JinaBertModel

__all__ = ["balance"]

STRENGTHS = (0.0, 0.2, 0.35, 0.5)  # of smoothing; 0 leaves a layer as it is
ROWS = 8  # of each text that smoothing is measured on


@torch.no_grad()
def balance(model: JinaBertModel, run: Callable[[JinaBertModel], None], constant_channel: int) -> None:
    """
    :param model: changed in place.
    :param run: gives the model typical texts, without padding.
    :param constant_channel: of the hidden states; those behind it are 0 for every text, as start.py keeps them.
    """
    _spread(model, run, constant_channel)
    _centre(model, run, constant_channel)
    _smooth(model, run)


def _all_norms(model: JinaBertModel) -> list[nn.LayerNorm]:
    """In the order in which they run."""
    norms = [model.embeddings.LayerNorm]
    for layer in model.encoder.layer:
        norms += [layer.attention.output.LayerNorm, layer.mlp.layernorm]
    return norms


def _norms(model: JinaBertModel) -> list[nn.LayerNorm]:
    """Without the last, whose output is pooled."""
    return _all_norms(model)[:-1]


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


def _spread(model: JinaBertModel, run: Callable[[JinaBertModel], None], constant_channel: int) -> None:
    _, tops = _watch(list(_norms(model)), run, model, inputs=False)
    offsets = _offsets(model, run)
    used = torch.stack([top[:constant_channel] / top[:constant_channel].median() for top in tops])
    copies = _shares(used.amax(0), model.config.hidden_size - constant_channel - 1)
    free = constant_channel + 1
    for channel in torch.nonzero(copies > 1).flatten().tolist():
        count = int(copies[channel])
        places = torch.tensor([channel, *range(free, free + count - 1)])
        free += count - 1
        _spread_channel(model, channel, places, _direction(count, channel), offsets)


def _shares(size: Tensor, free: int) -> Tensor:
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


def _offsets(model: JinaBertModel, run: Callable[[JinaBertModel], None]) -> dict[nn.LayerNorm, float]:
    """What each LayerNorm takes from all dimensions: its mean over tokens, after division by the deviation."""
    offsets: dict[nn.LayerNorm, list[Tensor]] = {norm: [] for norm in _all_norms(model)}

    def see(norm: nn.LayerNorm, given: tuple[Tensor, ...]) -> None:
        deviation = (given[0].var(-1, unbiased=False) + norm.eps).sqrt()
        offsets[norm].append((given[0].mean(-1) / deviation).flatten())

    handles = [norm.register_forward_pre_hook(see) for norm in offsets]
    run(model)
    for handle in handles:
        handle.remove()
    return {norm: float(torch.cat(parts).mean()) for norm, parts in offsets.items()}


def _spread_channel(
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


def _few(direction: Tensor, count: int) -> Tensor:
    """The smallest vector with at most ``count`` entries that reads 1 from ``direction``, and adds up to 1, so that what
    a LayerNorm takes from all dimensions is read once."""
    order = direction.argsort(descending=True)
    chosen = torch.cat([order[: count - count // 2], order[-(count // 2) :]])
    sums = torch.stack([direction[chosen], torch.ones(len(chosen))])
    few = torch.zeros_like(direction)
    few[chosen] = torch.linalg.lstsq(sums, torch.ones(2)).solution
    return few


def _smooth(model: JinaBertModel, run: Callable[[JinaBertModel], None]) -> None:
    products = [layer.mlp.wo for layer in model.encoder.layer]
    _, tops = _watch(products, run, model, inputs=True)
    kept: list[list[Tensor]] = [[] for _ in products]
    handles = [
        product.register_forward_pre_hook(lambda _, given, rows=rows: rows.append(given[0][0, :ROWS].clone()))
        for product, rows in zip(products, kept, strict=True)
    ]
    run(model)
    for handle in handles:
        handle.remove()
    for layer, top, rows in zip(model.encoder.layer, tops, kept, strict=True):
        weight, seen = layer.mlp.wo.weight, torch.cat(rows)
        ratio = top.clamp(min=1e-4) / weight.abs().amax(0).clamp(min=1e-4)
        factors = [(ratio / ratio.median()).pow(strength).clamp(0.1, 10) for strength in STRENGTHS]
        best = min(factors, key=lambda factor: _rounding_error(seen / factor, weight * factor))
        layer.mlp.gated_layers.weight[layer.mlp.width :] /= best[:, None]
        layer.mlp.wo.weight *= best


def _rounding_error(rows: Tensor, weight: Tensor) -> float:
    """Of a product in int8: sum of squares beside the exact one."""
    int8, scale = quantize_matrix(weight.T.contiguous().numpy())
    steps = rows.abs().amax(1, keepdim=True) / 127
    rounded = (rows / steps).round() * steps
    return float((rounded @ torch.from_numpy(int8 * scale) - rows @ weight.T).square().sum())
