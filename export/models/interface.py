"""What each architecture of this package gives the export: one file an architecture, one ``Architecture`` a file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from export.graph.encoder import Encoder
from runtime.modules import Module

__all__ = ["Architecture", "EncoderConfig", "EncoderModel"]


class EncoderConfig(PretrainedConfig):
    """Sizes of an encoder, under the same names for all architectures."""

    model_type = "encoder"

    def __init__(
        self,
        vocab_size: int = 30528,
        hidden_size: int = 512,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 8,
        intermediate_size: int = 2048,
        max_position_embeddings: int = 8192,
        layer_norm_eps: float = 1e-12,
        initializer_range: float = 0.02,
        pad_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        super().__init__(pad_token_id=pad_token_id, **kwargs)


@dataclass(frozen=True)
class Architecture:
    """How a checkpoint of one architecture is told from others, read and computed."""

    name: str  # in manifest.json
    title: str  # in reports and messages
    model_types: tuple[str, ...]  # ``model_type`` of its config.json
    code: tuple[str, ...]  # repositories with its code, as ``auto_map`` of its config.json names them
    marks: frozenset[str]  # parameter names in a layer, without its number, that tell it from the others
    unused_keys: re.Pattern[str]  # parameter names that may be there and take no part in embedding
    read_config: Callable[[Path, dict[str, Any]], EncoderConfig]  # of config.json: the file, its fields
    model: Callable[[Any], EncoderModel]  # of a configuration
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict  # to the names of the model's parameters
    # Of a reranker, from the folder, the state and the hidden size; None where the state has none.
    head: Callable[[Path, dict[str, Tensor], int], tuple[Module, ...] | None] = lambda *_: None

    def used(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out what takes no part in embedding.

        :param state: parameter name -> value, of the checkpoint.
        :return: those that the model takes, under its names.
        """
        return self.rename(
            {key: value for key, value in state.items() if not self.unused_keys.fullmatch(key)}
        )


class EncoderModel(PreTrainedModel):
    """An encoder in torch.

    Its forward pass takes int64 ``input_ids`` and ``attention_mask`` [batch, length] and gives ``last_hidden_state``,
    float32 [batch, length, hidden]; it never branches on the length, so that a trace at one length holds for all.

    ``block_rows``: compute attention this many rows at a time, for long texts; None: all at once.
    """

    config_class: type[EncoderConfig] = EncoderConfig
    architecture: Architecture  # set where a checkpoint is loaded
    head: tuple[Module, ...] = ()  # the same: what makes a score of the first token, of a reranker
    block_rows: int | None = None

    def fill_buffers(self) -> None:
        """Compute what follows from the sizes and is not in the checkpoint."""

    def export_weights(self) -> Encoder:
        """Give the graph builder what it needs.

        :return: sizes and weights, for :mod:`export.graph`.
        """
        raise NotImplementedError
