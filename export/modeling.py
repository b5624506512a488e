"""JinaBert in torch: post-norm encoder with symmetric ALiBi and a GeGLU feed-forward.

Written from the published description of jina-embeddings-v2 (arXiv 2310.19923) and ALiBi (arXiv 2108.12409). For
inference only: there is no dropout, no pooler and no masked-LM head. The qk-post-norm variant of base-code is not
implemented.

The forward pass never branches on the length, so that a trace at one length holds for all.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from export.config import JinaBertConfig

__all__ = ["LAYER_WEIGHTS", "JinaBertLayer", "JinaBertModel", "alibi_slopes", "attention", "fold_token_types"]

# Weights of a layer in the order of the inputs of a `jinabert::Layer` node, after hidden and attention_mask.
LAYER_WEIGHTS = (
    "attention.self.query.weight",
    "attention.self.query.bias",
    "attention.self.key.weight",
    "attention.self.key.bias",
    "attention.self.value.weight",
    "attention.self.value.bias",
    "attention.output.dense.weight",
    "attention.output.dense.bias",
    "attention.output.LayerNorm.weight",
    "attention.output.LayerNorm.bias",
    "mlp.gated_layers.weight",
    "mlp.wo.weight",
    "mlp.wo.bias",
    "mlp.layernorm.weight",
    "mlp.layernorm.bias",
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
        self.token_types_folded = False

    def forward(self, input_ids: Tensor) -> Tensor:
        embedded = self.word_embeddings(input_ids)
        if not self.token_types_folded:
            embedded = embedded + self.token_type_embeddings.weight[0]
        normalised: Tensor = self.LayerNorm(embedded)
        return normalised


class JinaBertSelfAttention(nn.Module):
    """The projections to queries, keys and values; their use is in :func:`attention`."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)


class JinaBertSelfOutput(nn.Module):
    """The output projection of attention and its norm."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class JinaBertAttention(nn.Module):
    """LN(attention(x) + x)."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.head_width = config.hidden_size // config.num_attention_heads
        self.self = JinaBertSelfAttention(config)
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

        q, k, v = (split(linear(hidden)) for linear in (self.self.query, self.self.key, self.self.value))
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

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.eps = config.layer_norm_eps
        self.attention = JinaBertAttention(config)
        self.mlp = JinaBertMLP(config)

    def forward(self, hidden: Tensor, mask: Tensor, block_rows: int | None) -> Tensor:
        output: Tensor = self.mlp(self.attention(hidden, mask, block_rows))
        return output


class CoarseLayer(torch.autograd.Function):
    """Stands for a whole layer while tracing: it becomes one node `jinabert::Layer` for a graph rewrite to expand."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, mask: Tensor, heads: int, eps: float, *weights: Tensor) -> Tensor:
        return hidden.clone()  # a trace records the node and never looks at the values

    @staticmethod
    def symbolic(g: Any, hidden: Any, mask: Any, heads: int, eps: float, *weights: Any) -> Any:
        node = g.op("jinabert::Layer", hidden, mask, *weights, heads_i=heads, eps_f=eps)
        node.setType(hidden.type())  # without it the exporter warns that the shape of the output is unknown
        return node


class JinaBertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(JinaBertLayer(config) for _ in range(config.num_hidden_layers))


class JinaBertModel(PreTrainedModel):
    """The encoder of jina-embeddings-v2 small-en and base-en (and of base-de, -es and -zh, tokenizer aside).

    Attributes that change how, and not what, it computes:
    ``coarse``: trace each layer as one node ``jinabert::Layer``;
    ``block_rows``: compute attention this many rows at a time, for long texts.
    """

    config_class = JinaBertConfig
    base_model_prefix = "bert"

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__(config)
        self.coarse = False
        self.block_rows: int | None = None
        self.embeddings = JinaBertEmbeddings(config)
        self.encoder = JinaBertEncoder(config)
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
            if self.coarse and torch.jit.is_tracing():
                weights = [layer.get_parameter(name) for name in LAYER_WEIGHTS]
                hidden = CoarseLayer.apply(hidden, attention_mask, layer.heads, layer.eps, *weights)
            else:
                hidden = layer(hidden, attention_mask, self.block_rows)
        if return_dict is None:
            return_dict = self.config.use_return_dict
        return BaseModelOutput(last_hidden_state=hidden) if return_dict else (hidden,)


def fold_token_types(model: JinaBertModel) -> None:
    """Add token type 0, the only one in use, to every row of the word embeddings, in place.

    The sum is the one that the forward pass would make, so the output stays the same to the last bit. Folding twice
    changes nothing.

    :param model: the model to change.
    """
    embeddings = model.embeddings
    if embeddings.token_types_folded:
        return
    with torch.no_grad():
        embeddings.word_embeddings.weight += embeddings.token_type_embeddings.weight[0]
    embeddings.token_types_folded = True
