"""config.json: what is not implemented is refused by name and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from export.errors import ExportError
from export.models import load_config

FIELDS: dict[str, Any] = {
    "model_type": "bert",
    "position_embedding_type": "alibi",
    "feed_forward_type": "geglu",
    "hidden_act": "gelu",
    "vocab_size": 30528,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}


def write(folder: Path, fields: object) -> Path:
    (folder / "config.json").write_text(
        fields if isinstance(fields, str) else json.dumps(fields), encoding="utf-8"
    )
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(ExportError) as caught:
        load_config(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert "config.json" in message
    return message


def test_fields_are_read(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, FIELDS | {"layer_norm_eps": 1e-6, "emb_pooler": None}))
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 12)
    assert (config.intermediate_size, config.vocab_size, config.layer_norm_eps) == (3072, 30528, 1e-6)
    # Absent fields, as the reference code has them.
    assert (config.type_vocab_size, config.max_position_embeddings) == (2, 8192)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "roberta"),
        ("position_embedding_type", "absolute"),
        ("feed_forward_type", "reglu"),
        ("hidden_act", "gelu_new"),
        ("emb_pooler", "cls"),
        ("hidden_size", "768"),
        ("num_hidden_layers", 0),
        ("num_attention_heads", True),
        ("intermediate_size", 3072.0),
        ("vocab_size", None),
        ("layer_norm_eps", 0),
    ],
)
def test_refused_by_field_and_value(tmp_path: Path, field: str, value: object) -> None:
    message = refusal(write(tmp_path, FIELDS | {field: value}))
    assert f"{field} is {value!r}" in message


@pytest.mark.parametrize(
    "field", ["model_type", "position_embedding_type", "feed_forward_type", "hidden_size"]
)
def test_plain_bert_is_refused(tmp_path: Path, field: str) -> None:
    # A config of google's BERT has none of the fields that make a JinaBert.
    assert f"{field} is not set" in refusal(write(tmp_path, {k: v for k, v in FIELDS.items() if k != field}))


def test_hidden_size_must_divide_by_heads(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, FIELDS | {"num_attention_heads": 7}))
    assert "768" in message
    assert "7" in message


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '"bert"', "[" * 100_000, '{"a": 1} tail'])
def test_broken_json_is_one_line(tmp_path: Path, text: str) -> None:
    refusal(write(tmp_path, text))


def test_not_utf8_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"model_type": "\xff"}')
    refusal(tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    assert "missing" in refusal(tmp_path)
