"""JinaBert: post-norm encoder with symmetric ALiBi and a GeGLU feed-forward (small-en, base-en, base-de, base-zh).

Written from the published description of jina-embeddings-v2 (arXiv 2310.19923) and ALiBi (arXiv 2108.12409). For
inference only: there is no dropout, no pooler and no masked-LM head.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutput

from export.config import DEFAULT_MAX_TOKENS, fraction, require, size
from export.errors import ExportError
from export.graph.encoder import Encoder, Float
from export.graph.positions import Alibi
from export.graph.weights import MATRICES, Shape
from export.models.interface import Architecture, EncoderConfig, EncoderModel
from runtime.modules import Module

__all__ = [
    "ARCHITECTURE",
    "UNUSED_KEYS",
    "JinaBertAttention",
    "JinaBertConfig",
    "JinaBertLayer",
    "JinaBertModel",
    "JinaBertSelfAttention",
    "alibi_slopes",
    "arrays",
    "attention",
    "layer_parts",
    "read_config",
]

# Keys of published checkpoints that do not take part in embedding: the tanh pooler on [CLS], the heads of
# pre-training, and buffers that follow from the sizes.
UNUSED_KEYS = re.compile(
    r"pooler\..+|cls\..+|(embeddings\.)?(position_ids|token_type_ids)|(encoder\.)?alibi|.*\.alibi_slopes"
)


class JinaBertConfig(EncoderConfig):
    """Shape of a JinaBert encoder: ALiBi positions, GeGLU feed-forward, post-norm."""

    model_type = "jina_bert"

    def __init__(self, type_vocab_size: int = 2, **kwargs: Any) -> None:
        self.type_vocab_size = type_vocab_size
        super().__init__(**kwargs)


def read_config(path: Path, fields: dict[str, Any]) -> JinaBertConfig:
    """Read the fields of a JinaBert's config.json.

    :param path: the file, for messages.
    :param fields: its content.
    :return: the configuration.
    :raises ExportError: a field names something that is not implemented.
    """
    # The values after `missing` are what the reference code assumes when the field is absent.
    require(path, fields, "position_embedding_type", ("alibi",), missing="absolute")
    require(path, fields, "feed_forward_type", ("geglu",), missing="original")
    require(path, fields, "hidden_act", ("gelu",), missing="gelu")
    require(path, fields, "emb_pooler", (None, "mean"), missing=None)
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    sizes = {name: size(path, fields, name) for name in names}
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise ExportError(
            f"{path}: hidden_size {sizes['hidden_size']} is not divisible by num_attention_heads "
            f"{sizes['num_attention_heads']}"
        )
    return JinaBertConfig(
        **sizes,
        type_vocab_size=size(path, fields, "type_vocab_size", missing=2),
        max_position_embeddings=size(path, fields, "max_position_embeddings", missing=DEFAULT_MAX_TOKENS),
        layer_norm_eps=fraction(path, fields, "layer_norm_eps", missing=1e-12),
    )


def alibi_slopes(heads: int) -> list[float]:
    """Slopes of ALiBi (arXiv 2108.12409, and its reference code where heads is not a power of two).

    :param heads: number of heads, at least 1.
    :return: one positive slope a head: 1/2, 1/4 ... 1/256 for 8 heads. For other numbers, the slopes of the power
        of two below, then every other slope of twice that power.
    """
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    between = [2.0 ** (-4.0 * (i + 1) / power) for i in range(0, 2 * power, 2)]
    return slopes + between[: heads - power]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    slopes: Tensor,
    block_rows: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """Attention with symmetric ALiBi: softmax(q·kᵀ / sqrt(d) - slope · |i - j|) · v over the real tokens.

    Each row is the softmax of its own scores, so computing in row blocks changes nothing but the order in which a
    matrix product may sum: the results agree within 1e-6 of the largest value.

    :param q: queries, float32 [batch, heads, length, d].
    :param k: keys, of the shape of q.
    :param v: values, of the shape of q.
    :param mask: 1 for a real token and 0 for padding, int64 or float [batch, length].
    :param slopes: positive slope of each head, float32 [heads].
    :param block_rows: compute this many query rows at a time, so that memory grows with block_rows · length instead
        of length²; None computes all at once (and is the form to trace).
    :param scale: 1 / sqrt(d) as a number, for a trace, in which the shape of q is none.
    :return: float32 [batch, heads, length, d].
    """
    length = q.shape[2]
    if scale is None:
        scale = 1.0 / math.sqrt(q.shape[3])
    positions = torch.arange(length, dtype=q.dtype, device=q.device)
    # The lowest finite number, not -inf: a row whose keys are all padding stays finite.
    padding = (1.0 - mask[:, None, None, :].to(q.dtype)) * torch.finfo(q.dtype).min
    if block_rows is None:
        return _attend(q, k, v, positions, positions, padding, slopes, scale)
    blocks = [
        _attend(q[:, :, rows], k, v, positions[rows], positions, padding, slopes, scale)
        for rows in (slice(start, start + block_rows) for start in range(0, length, block_rows))
    ]
    return torch.cat(blocks, dim=2)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    columns: Tensor,
    padding: Tensor,
    slopes: Tensor,
    scale: float,
) -> Tensor:
    scores = torch.matmul(q, k.transpose(2, 3)) * scale
    alibi = -slopes[:, None, None] * (rows[:, None] - columns[None, :]).abs()
    return torch.matmul(torch.softmax(scores + padding + alibi, dim=-1), v)


class JinaBertEmbeddings(nn.Module):
    """LN(word[id] + token_type[0]). There is no position embedding."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor) -> Tensor:
        embedded = self.word_embeddings(input_ids) + self.token_type_embeddings.weight[0]
        normalised: Tensor = self.LayerNorm(embedded)
        return normalised


class JinaBertSelfAttention(nn.Module):
    """The projections to queries, keys and values; their use is in :func:`attention`."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.query(hidden), self.key(hidden), self.value(hidden)


class JinaBertSelfOutput(nn.Module):
    """The output projection of attention and its norm."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class JinaBertAttention(nn.Module):
    """LN(attention(x) + x)."""

    def __init__(self, config: JinaBertConfig, projections: nn.Module) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.head_width = config.hidden_size // config.num_attention_heads
        self.self = projections
        self.output = JinaBertSelfOutput(config)
        # Not in the checkpoint: it follows from the number of heads.
        self.register_buffer("slopes", torch.empty(self.heads), persistent=False)
        self.reset_slopes()

    def reset_slopes(self) -> None:
        self.slopes = torch.tensor(alibi_slopes(self.heads), dtype=torch.float32)

    def forward(self, hidden: Tensor, mask: Tensor, block_rows: int | None) -> Tensor:
        batch, length, width = hidden.shape

        def split(x: Tensor) -> Tensor:
            return x.view(batch, length, self.heads, self.head_width).transpose(1, 2)

        q, k, v = (split(projected) for projected in self.self(hidden))
        context = attention(q, k, v, mask, self.slopes, block_rows, 1.0 / math.sqrt(self.head_width))
        merged = context.transpose(1, 2).reshape(batch, length, width)
        normalised: Tensor = self.output.LayerNorm(self.output.dense(merged) + hidden)
        return normalised


class JinaBertMLP(nn.Module):
    """LN(wo(GELU(gate) · up) + x): rows [:F] of gated_layers are the gate, rows [F:] the up projection."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.gated_layers = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.wo = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.width = config.intermediate_size

    def forward(self, hidden: Tensor) -> Tensor:
        both = self.gated_layers(hidden)
        gate, up = both[..., : self.width], both[..., self.width :]
        # The exact GELU by erf, not its tanh approximation.
        normalised: Tensor = self.layernorm(self.wo(functional.gelu(gate) * up) + hidden)
        return normalised


class JinaBertLayer(nn.Module):
    """One encoder layer."""

    projections: type[JinaBertSelfAttention] = JinaBertSelfAttention

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.attention = JinaBertAttention(config, self.projections(config))
        self.mlp = JinaBertMLP(config)

    def forward(self, hidden: Tensor, mask: Tensor, block_rows: int | None) -> Tensor:
        output: Tensor = self.mlp(self.attention(hidden, mask, block_rows))
        return output

    def export_parts(self) -> dict[str, NDArray[Any]]:
        """Give the parts of the layer that :mod:`export.graph.encoder` lists."""
        return layer_parts(arrays(self), self.attention.heads)


class JinaBertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: JinaBertConfig, layer: type[nn.Module]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layer(config) for _ in range(config.num_hidden_layers))


class JinaBertModel(EncoderModel):
    """The encoder of jina-embeddings-v2 small-en, base-en, base-de and base-zh."""

    config_class = JinaBertConfig
    base_model_prefix = "bert"
    layer_class: type[nn.Module] = JinaBertLayer

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__(config)
        self.embeddings = JinaBertEmbeddings(config)
        self.encoder = JinaBertEncoder(config, self.layer_class)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, return_dict: bool | None = None
    ) -> BaseModelOutput | tuple[Tensor]:
        """Compute the hidden states.

        :param input_ids: int64 [batch, length].
        :param attention_mask: 1 for a real token and 0 for padding, int64 [batch, length].
        :param return_dict: False for a plain tuple.
        :return: ``last_hidden_state`` float32 [batch, length, hidden]; rows of padding have no meaning.
        """
        hidden = self.embeddings(input_ids)
        for layer in self.encoder.layer:
            hidden = layer(hidden, attention_mask, self.block_rows)
        if return_dict is None:
            return_dict = self.config.use_return_dict
        return BaseModelOutput(last_hidden_state=hidden) if return_dict else (hidden,)

    def fill_buffers(self) -> None:
        for layer in self.encoder.layer:
            layer.attention.reset_slopes()

    def export_weights(self) -> Encoder:
        config, embeddings = self.config, self.embeddings
        heads = config.num_attention_heads
        with torch.no_grad():  # token type 0 is the only one in use
            table = embeddings.word_embeddings.weight + embeddings.token_type_embeddings.weight[0]
        return Encoder(
            table=table.numpy(),
            norm=(embeddings.LayerNorm.weight.detach().numpy(), embeddings.LayerNorm.bias.detach().numpy()),
            layers=[layer.export_parts() for layer in self.encoder.layer],
            positions=Alibi(np.array(alibi_slopes(heads), np.float32)),
            shape=Shape(
                config.hidden_size,
                config.intermediate_size,
                heads,
                config.hidden_size // heads,
                config.layer_norm_eps,
            ),
        )


def arrays(module: nn.Module) -> dict[str, Float]:
    """Give the parameters of a module by name, without copying them."""
    return {name: value.detach().numpy() for name, value in module.named_parameters()}


def layer_parts(given: Mapping[str, Float], heads: int) -> dict[str, NDArray[Any]]:
    """Give the parts of a layer for the graph, with what can be computed now computed now.

    1 / sqrt(width) goes into the query, or into its norm. The key's bias adds the same to all scores of a row, which
    softmax does not see, unless a norm follows. The weights of a row add up to 1, so the value's bias comes out as it
    is and goes into the output's.

    :param given: parameter name -> value, the names those of a plain JinaBert, and of LayerNorms beyond.
    :param heads: of the model.
    :return: the parts, as :mod:`export.graph.encoder` lists them.
    """
    weights = dict(given)
    query, value, output = "attention.self.query", "attention.self.value", "attention.output.dense"
    normed = "attention.self.layer_norm_q.weight" in weights
    scale = np.float32((len(weights[query + ".weight"]) // heads) ** -0.5)
    scaled = "attention.self.layer_norm_q" if normed else query
    for name in (scaled + ".weight", scaled + ".bias"):
        weights[name] = weights[name] * scale
    if not normed:
        del weights["attention.self.key.bias"]
    through = weights[output + ".weight"].astype(np.float64) @ weights.pop(value + ".bias")
    weights[output + ".bias"] = (weights[output + ".bias"] + through).astype(np.float32)
    gate, up = np.split(weights.pop("mlp.gated_layers.weight"), 2)
    weights |= {"mlp.gate.weight": gate, "mlp.up.weight": up}
    matrices = {name + ".fp32": np.ascontiguousarray(weights.pop(name + ".weight").T) for name in MATRICES}
    return {**matrices, **weights}


def rerank_head(folder: Path, state: dict[str, Tensor], hidden: int) -> tuple[Module, ...] | None:
    """Give the head of a cross-encoder (jina-reranker-v1-tiny-en and -turbo-en): BERT's pooler, and one score.

    :param folder: of the checkpoint, for messages.
    :param state: its parameters, name -> value.
    :param hidden: size of the hidden states.
    :return: Dense with tanh and Dense to one number; None where there is no classifier of one label.
    :raises ExportError: it is incomplete, of another size, or not finite.
    """
    classifier = state.get("classifier.weight")
    if classifier is None or len(classifier) != 1:
        return None
    shapes = {
        "pooler.dense.weight": (hidden, hidden),
        "pooler.dense.bias": (hidden,),
        "classifier.weight": (1, hidden),
        "classifier.bias": (1,),
    }
    for name, shape in shapes.items():
        value = state.get(name)
        if value is None or tuple(value.shape) != shape or not bool(torch.isfinite(value.float()).all()):
            seen = "missing" if value is None else f"{list(value.shape)}"
            raise ExportError(
                f"{folder} is not a reranker: {name} is {seen}, expected finite numbers of shape {list(shape)}; "
                "pass --without-head to export the encoder alone"
            )
    weights = [state[name].to(torch.float32).numpy() for name in shapes]
    return (
        Module(
            "dense", hidden, hidden, {"weight": weights[0], "bias": weights[1]}, bias=True, activation="tanh"
        ),
        Module("dense", hidden, 1, {"weight": weights[2], "bias": weights[3]}, bias=True),
    )


ARCHITECTURE = Architecture(
    name="jinabert",
    title="JinaBert",
    model_types=("bert", "jina_bert"),
    code=("jina-bert-implementation",),
    marks=frozenset({"mlp.gated_layers.weight", "mlp.wo.weight"}),
    unused_keys=UNUSED_KEYS,
    read_config=read_config,
    model=JinaBertModel,
    head=rerank_head,
)
