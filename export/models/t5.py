"""T5's encoder (jina-embedding-s, -b and -l-en-v1): pre-norm by RMSNorm, ReLU, a bias by relative position, no scaling.

Written from the description of T5 (arXiv 1910.10683) and of its relative positions. For inference only: there is no
dropout and no decoder. Gated feed-forwards (T5 1.1 and later) are other models, and refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from export.config import fraction, require, size
from export.errors import ExportError
from export.graph.encoder import Encoder, Float
from export.graph.positions import RelativeBias
from export.graph.weights import Shape
from export.models.interface import Architecture, EncoderConfig, EncoderModel

__all__ = ["ARCHITECTURE", "T5Config", "T5Model", "bucket"]


class T5Config(EncoderConfig):
    """Shape of a T5 encoder; sizes under the names of :class:`EncoderConfig`."""

    model_type = "t5"

    def __init__(
        self, head_width: int = 64, buckets: int = 32, max_distance: int = 128, **kwargs: Any
    ) -> None:
        self.head_width = head_width
        self.buckets = buckets
        self.max_distance = max_distance
        super().__init__(**kwargs)


def read_config(path: Path, fields: dict[str, Any]) -> T5Config:
    """Read the fields of a T5's config.json.

    :param path: the file, for messages.
    :param fields: its content.
    :return: the configuration.
    :raises ExportError: a field names something that is not implemented.
    """
    require(path, fields, "feed_forward_proj", ("relu",), missing="relu")
    require(path, fields, "is_gated_act", (None, False), missing=None)
    buckets = size(path, fields, "relative_attention_num_buckets", missing=32)
    max_distance = size(path, fields, "relative_attention_max_distance", missing=128)
    if buckets % 4 or not buckets // 4 < max_distance <= 1 << 14:
        raise ExportError(
            f"{path}: {buckets} relative_attention_num_buckets and a relative_attention_max_distance of {max_distance} "
            "do not fit each other: the first is a multiple of 4, the second greater than a quarter of it"
        )
    return T5Config(
        vocab_size=size(path, fields, "vocab_size"),
        hidden_size=size(path, fields, "d_model"),
        num_hidden_layers=size(path, fields, "num_layers"),
        num_attention_heads=size(path, fields, "num_heads"),
        intermediate_size=size(path, fields, "d_ff"),
        head_width=size(path, fields, "d_kv", missing=64),
        max_position_embeddings=size(path, fields, "n_positions", missing=512),
        layer_norm_eps=fraction(path, fields, "layer_norm_epsilon", missing=1e-6),
        buckets=buckets,
        max_distance=max_distance,
    )


def bucket(distance: int, buckets: int = 32, max_distance: int = 128) -> int:
    """Tell the bucket of a distance j - i.

    Half of the buckets are for each direction, half of those for one distance each, the rest growing by a constant
    factor up to ``max_distance``, from where on the last holds all.
    In integers, where a logarithm would have to be rounded.

    :param distance: position of the key less that of the query.
    :param buckets: how many, a multiple of 4.
    :param max_distance: greater than a quarter of ``buckets``.
    :return: 0 to buckets - 1.
    """
    single = (
        buckets // 4
    )  # and as many that grow: the k-th begins at single * (max_distance / single) ** (k / single)
    n = abs(distance)
    index = n
    if n >= single:
        ratio = (n**single, single**single)
        grown = range(1, single)
        index = single + sum(ratio[0] * single**k >= ratio[1] * max_distance**k for k in grown)
    return index + (buckets // 2 if distance > 0 else 0)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) * weight: no mean is subtracted, and there is no bias."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.eps = config.layer_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight
        return normalised


class T5SelfAttention(nn.Module):
    """softmax(q·kᵀ + bias + mask)·v with its projections; the first layer holds the bias of all."""

    def __init__(self, config: T5Config, first: bool) -> None:
        super().__init__()
        self.heads, self.head_width = config.num_attention_heads, config.head_width
        inner = self.heads * self.head_width
        self.q, self.k, self.v = (nn.Linear(config.hidden_size, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, config.hidden_size, bias=False)
        if first:
            self.relative_attention_bias = nn.Embedding(config.buckets, self.heads)

    def forward(self, x: Tensor, padding: Tensor, by_distance: Tensor, block_rows: int | None) -> Tensor:
        batch, length, _ = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(batch, length, self.heads, self.head_width).transpose(1, 2)

        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        positions = torch.arange(length, device=x.device)
        if block_rows is None:
            context = _attend(q, k, v, positions, positions, padding, by_distance)
        else:
            blocks = [
                _attend(q[:, :, rows], k, v, positions[rows], positions, padding, by_distance)
                for rows in (slice(start, start + block_rows) for start in range(0, length, block_rows))
            ]
            context = torch.cat(blocks, dim=2)
        output: Tensor = self.o(context.transpose(1, 2).reshape(batch, length, self.heads * self.head_width))
        return output


def _attend(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, padding: Tensor, by_distance: Tensor
) -> Tensor:
    reach = by_distance.shape[0] // 2
    distance = (columns[None, :] - rows[:, None]).clamp(-reach, reach) + reach
    bias = by_distance[distance].permute(2, 0, 1)  # [heads, rows, columns]
    return torch.matmul(torch.softmax(torch.matmul(q, k.transpose(2, 3)) + bias + padding, dim=-1), v)


class T5Attention(nn.Module):
    """x + attention(RMSNorm(x))."""

    def __init__(self, config: T5Config, first: bool) -> None:
        super().__init__()
        self.SelfAttention = T5SelfAttention(config, first)
        self.layer_norm = RMSNorm(config)

    def forward(self, x: Tensor, padding: Tensor, by_distance: Tensor, block_rows: int | None) -> Tensor:
        output: Tensor = x + self.SelfAttention(self.layer_norm(x), padding, by_distance, block_rows)
        return output


class T5DenseReluDense(nn.Module):
    """wo(ReLU(wi(x)))."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.wo = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.wo(torch.relu(self.wi(x)))
        return output


class T5FeedForward(nn.Module):
    """x + feed-forward(RMSNorm(x))."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = T5DenseReluDense(config)
        self.layer_norm = RMSNorm(config)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x + self.DenseReluDense(self.layer_norm(x))
        return output


class T5Block(nn.Module):
    """One layer; the names are those of the checkpoints."""

    def __init__(self, config: T5Config, first: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([T5Attention(config, first), T5FeedForward(config)])


class T5Stack(nn.Module):
    """All layers, and the norm of the output."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.block = nn.ModuleList(T5Block(config, i == 0) for i in range(config.num_hidden_layers))
        self.final_layer_norm = RMSNorm(config)


class T5Model(EncoderModel):
    """The encoder of jina-embedding-s, -b and -l-en-v1."""

    config_class = T5Config

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder = T5Stack(config)
        # Not in the checkpoint: the bucket of each distance.
        self.register_buffer(
            "buckets", torch.empty(2 * config.max_distance + 1, dtype=torch.int64), persistent=False
        )
        self.fill_buffers()

    def fill_buffers(self) -> None:
        config = self.config
        distances = range(-config.max_distance, config.max_distance + 1)
        self.buckets = torch.tensor([bucket(n, config.buckets, config.max_distance) for n in distances])

    def get_input_embeddings(self) -> nn.Embedding:
        return self.shared

    def by_distance(self) -> Tensor:
        """The bias of each distance from -max_distance to max_distance, float32 [distances, heads]."""
        bias: Tensor = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias(self.buckets)
        return bias

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, return_dict: bool | None = None
    ) -> BaseModelOutput | tuple[Tensor]:
        """Compute the hidden states; parameters and result as those of :class:`EncoderModel`."""
        x = self.shared(input_ids)
        # The lowest finite number, not -inf: a row whose keys are all padding stays finite.
        padding = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        by_distance = self.by_distance()
        for block in self.encoder.block:
            attention, feed_forward = block.layer
            x = feed_forward(attention(x, padding, by_distance, self.block_rows))
        hidden = self.encoder.final_layer_norm(x)
        if return_dict is None:
            return_dict = self.config.use_return_dict
        return BaseModelOutput(last_hidden_state=hidden) if return_dict else (hidden,)

    def export_weights(self) -> Encoder:
        config = self.config

        def array(tensor: Tensor) -> Float:
            return tensor.detach().numpy()

        def parts(block: T5Block) -> dict[str, Float]:
            attention, feed_forward = block.layer
            own, dense = attention.SelfAttention, feed_forward.DenseReluDense
            matrices = {
                "attention.self.query": own.q,
                "attention.self.key": own.k,
                "attention.self.value": own.v,
                "attention.output.dense": own.o,
                "mlp.up": dense.wi,
                "mlp.wo": dense.wo,
            }
            return {
                **{
                    f"{name}.fp32": np.ascontiguousarray(array(linear.weight).T)
                    for name, linear in matrices.items()
                },
                "attention.pre_norm.weight": array(attention.layer_norm.weight),
                "mlp.pre_norm.weight": array(feed_forward.layer_norm.weight),
            }

        return Encoder(
            table=array(self.shared.weight),
            norm=None,
            layers=[parts(block) for block in self.encoder.block],
            positions=RelativeBias(np.ascontiguousarray(array(self.by_distance()).T)),
            shape=Shape(
                config.hidden_size,
                config.intermediate_size,
                config.num_attention_heads,
                config.head_width,
                config.layer_norm_eps,
            ),
            final_norm=array(self.encoder.final_layer_norm.weight),
        )


def _one_table(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The embedding table under its one name: checkpoints hold it as ``shared``, in the encoder, or both."""
    inner = state.pop("encoder.embed_tokens.weight", None)
    if inner is not None and not torch.equal(state.setdefault("shared.weight", inner), inner):
        raise ExportError(
            "shared.weight and encoder.embed_tokens.weight differ: an encoder has one embedding table, and which of "
            "the two it is cannot be told"
        )
    return state


ARCHITECTURE = Architecture(
    name="t5",
    title="a T5 encoder",
    model_types=("t5",),
    code=(),
    marks=frozenset({"SelfAttention.q.weight", "DenseReluDense.wi.weight", "DenseReluDense.wo.weight"}),
    unused_keys=re.compile(r"(?!)"),  # none: a decoder would make it another model
    read_config=read_config,
    model=T5Model,
    rename=_one_table,
)
