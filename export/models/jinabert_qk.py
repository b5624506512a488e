"""JinaBert with LayerNorm on queries and keys: base-es (qk-devlin-norm) and base-code (qk-post-norm).

Both norms go over the whole hidden width, before the split into heads, and not to the values. base-es is plain JinaBert
beyond that. base-code adds the residual a second time, behind a norm of its own, and gates with the second half:

    a = LN_att(Wo c + bo + x)    h = LN_1(a + x)    x = LN_2(Wd (up(h) * GELU(gate(h))) + bd + h)

Written from the published code of text-embeddings-inference (backends/candle/src/models/jina_code.rs) and of llama.cpp
(src/models/bert.cpp), which agree, and for base-es from llama.cpp's converter of May 2024.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from export.models.interface import Architecture
from export.models.jinabert import (
    UNUSED_KEYS,
    JinaBertAttention,
    JinaBertConfig,
    JinaBertLayer,
    JinaBertModel,
    JinaBertSelfAttention,
    arrays,
    layer_parts,
    read_config,
)

__all__ = ["QK_DEVLIN_NORM", "QK_POST_NORM", "QkDevlinNormModel", "QkPostNormModel"]


class QkSelfAttention(JinaBertSelfAttention):
    """The projections, queries and keys normalised."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__(config)
        self.layer_norm_q = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layer_norm_k = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().forward(hidden)
        return self.layer_norm_q(q), self.layer_norm_k(k), v


class QkDevlinNormLayer(JinaBertLayer):
    """A layer of base-es."""

    projections = QkSelfAttention


class QkPostNormMLP(nn.Module):
    """Wd (up * GELU(gate)) + bd: rows [:F] of up_gated_layer are the up projection, rows [F:] the gate."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.up_gated_layer = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_layer = nn.Linear(config.intermediate_size, config.hidden_size)
        self.width = config.intermediate_size

    def forward(self, hidden: Tensor) -> Tensor:
        both = self.up_gated_layer(hidden)
        up, gate = both[..., : self.width], both[..., self.width :]
        output: Tensor = self.down_layer(up * functional.gelu(gate))
        return output


class QkPostNormLayer(nn.Module):
    """A layer of base-code."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.attention = JinaBertAttention(config, QkSelfAttention(config))
        self.layer_norm_1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layer_norm_2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = QkPostNormMLP(config)

    def forward(self, hidden: Tensor, mask: Tensor, block_rows: int | None) -> Tensor:
        attended = self.layer_norm_1(self.attention(hidden, mask, block_rows) + hidden)
        output: Tensor = self.layer_norm_2(self.mlp(attended) + attended)
        return output

    def export_parts(self) -> dict[str, NDArray[Any]]:
        """Give the parts of the layer that :mod:`export.graph.encoder` lists."""
        weights = arrays(self)
        up, gate = np.split(weights.pop("mlp.up_gated_layer.weight"), 2)
        weights["mlp.gated_layers.weight"] = np.concatenate([gate, up])
        names = {"mlp.down_layer": "mlp.wo", "layer_norm_2": "mlp.layernorm"}
        for old, new in names.items():
            weights |= {f"{new}.{part}": weights.pop(f"{old}.{part}") for part in ("weight", "bias")}
        return layer_parts(weights, self.attention.heads)


class QkDevlinNormModel(JinaBertModel):
    """The encoder of jina-embeddings-v2-base-es."""

    layer_class = QkDevlinNormLayer


class QkPostNormModel(JinaBertModel):
    """The encoder of jina-embeddings-v2-base-code."""

    layer_class = QkPostNormLayer


_NORMS = frozenset({"attention.self.layer_norm_q.weight", "attention.self.layer_norm_k.weight"})

QK_DEVLIN_NORM = Architecture(
    name="jinabert-qk-devlin-norm",
    title="JinaBert with qk-devlin-norm",
    model_types=("bert", "jina_bert"),
    code=("qk-devlin-norm",),
    marks=_NORMS | {"mlp.gated_layers.weight", "mlp.wo.weight"},
    unused_keys=UNUSED_KEYS,
    read_config=read_config,
    model=QkDevlinNormModel,
)
QK_POST_NORM = Architecture(
    name="jinabert-qk-post-norm",
    title="JinaBert with qk-post-norm",
    model_types=("bert", "jina_bert"),
    code=("qk-post-norm",),
    marks=_NORMS
    | {"layer_norm_1.weight", "layer_norm_2.weight", "mlp.up_gated_layer.weight", "mlp.down_layer.weight"},
    unused_keys=UNUSED_KEYS,
    read_config=read_config,
    model=QkPostNormModel,
)
