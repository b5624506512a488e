"""Reads config.json and refuses, by name and field, every model that modeling.py does not implement.

It never guesses: a plain BERT and a JinaBert both say ``model_type: "bert"``, and only the other fields tell them
apart.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from export.errors import ExportError

__all__ = ["DEFAULT_MAX_TOKENS", "JinaBertConfig", "load_config", "read_json"]

DEFAULT_MAX_TOKENS = 8192

# Far beyond any model; a size above is damage, and would end in an overflow or in hours of making layers.
_LARGEST = {"num_hidden_layers": 1 << 10}
_LARGEST_OTHER = 1 << 24

# What other code calls the variant of jina-embeddings-v2-base-code.
_QK_POST_NORM_HINTS = ("qk-post-norm", "qk_post_norm")


class JinaBertConfig(PretrainedConfig):
    """Shape of a JinaBert encoder: ALiBi positions, GeGLU feed-forward, post-norm, mean pooling."""

    model_type = "jina_bert"

    def __init__(
        self,
        vocab_size: int = 30528,
        hidden_size: int = 512,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 8,
        intermediate_size: int = 2048,
        type_vocab_size: int = 2,
        max_position_embeddings: int = DEFAULT_MAX_TOKENS,
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
        self.type_vocab_size = type_vocab_size
        self.max_position_embeddings = max_position_embeddings
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        super().__init__(pad_token_id=pad_token_id, **kwargs)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    :param path: the file.
    :return: the object.
    :raises ExportError: the file is missing, unreadable, not JSON or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExportError(f"{path} is missing: give a folder in Hugging Face layout") from None
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is not valid JSON ({error}): fetch it again") from None
    if not isinstance(value, dict):
        raise ExportError(f"{path} holds a {type(value).__name__}, not a JSON object: fetch it again")
    return value


def load_config(folder: Path) -> JinaBertConfig:
    """Read ``config.json`` of a checkpoint folder.

    :param folder: the checkpoint folder.
    :return: the configuration, every field checked.
    :raises ExportError: the file is missing or broken, or a field names something that is not implemented.
    """
    path = folder / "config.json"
    fields = read_json(path)
    _refuse_qk_post_norm(path, fields)
    # The values after `missing` are what the reference code assumes when the field is absent.
    _require(path, fields, "model_type", ("bert", "jina_bert"), missing=None)
    _require(path, fields, "position_embedding_type", ("alibi",), missing="absolute")
    _require(path, fields, "feed_forward_type", ("geglu",), missing="original")
    _require(path, fields, "hidden_act", ("gelu",), missing="gelu")
    _require(path, fields, "emb_pooler", (None, "mean"), missing=None)
    sizes = {
        name: _size(path, fields, name)
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
        )
    }
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise ExportError(
            f"{path}: hidden_size {sizes['hidden_size']} is not divisible by num_attention_heads "
            f"{sizes['num_attention_heads']}"
        )
    epsilon = fields.get("layer_norm_eps", 1e-12)
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 < epsilon < 1:
        raise ExportError(f"{path}: layer_norm_eps is {epsilon!r}, expected a number between 0 and 1")
    return JinaBertConfig(
        **sizes,
        type_vocab_size=_size(path, fields, "type_vocab_size", missing=2),
        max_position_embeddings=_size(path, fields, "max_position_embeddings", missing=DEFAULT_MAX_TOKENS),
        layer_norm_eps=float(epsilon),
    )


def _refuse_qk_post_norm(path: Path, fields: dict[str, Any]) -> None:
    """The base-code variant shares most field values with the others; its code's name gives it away."""
    for field in ("_name_or_path", "architectures", "auto_map", "model_type"):
        text = json.dumps(fields.get(field))
        if any(hint in text.lower() for hint in _QK_POST_NORM_HINTS):
            raise ExportError(
                f"{path}: {field} is {text}: the qk-post-norm variant (jina-embeddings-v2-base-code) is not implemented"
            )


def _require(
    path: Path, fields: dict[str, Any], name: str, allowed: tuple[str | None, ...], missing: str | None
) -> None:
    value = fields.get(name, missing)
    if value in allowed:
        return
    seen = (
        f"{name} is {value!r}"
        if name in fields
        else f"{name} is not set" + (f" (= {missing})" if missing else "")
    )
    expected = " or ".join(repr(choice) for choice in allowed if choice is not None)
    raise ExportError(f"{path}: {seen}, and only {expected} is implemented: export a JinaBert checkpoint")


def _size(path: Path, fields: dict[str, Any], name: str, missing: int | None = None) -> int:
    value = fields.get(name, missing)
    largest = _LARGEST.get(name, _LARGEST_OTHER)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        seen = f"is {value!r}" if name in fields else "is not set"
        raise ExportError(f"{path}: {name} {seen}, expected a whole number from 1 to {largest:,}")
    return value
