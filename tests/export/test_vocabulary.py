"""The vocabulary and the settings of the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.checkpoint import load_vocabulary
from export.errors import ExportError
from export.models import EncoderConfig
from export.tokenization import convert_tokenizer
from export.vocabulary import load_tokenizer_files
from tests import tokenizer_kinds
from tests.export.conftest import tiny_tokens

SIZE = 64


@pytest.fixture
def folder(checkpoint_with: Callable[..., Path]) -> Path:
    return checkpoint_with()


def refusal(folder: Path) -> str:
    with pytest.raises(ExportError) as caught:
        load_vocabulary(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def settings(folder: Path, **fields: Any) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    return folder


def fast(folder: Path, **changes: Any) -> Path:
    """Replace vocab.txt by a tokenizer.json; ``model__type="BPE"`` changes a field inside model."""
    tokens = tiny_tokens(SIZE)
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        # Two tokens are added ones, and the order of the file is not that of the ids.
        "vocab": {token: i for i, token in reversed(list(enumerate(tokens[:-2])))},
    }
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
    normalizer |= {"strip_accents": None, "lowercase": True}
    fields: dict[str, Any] = {
        "model": model,
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "added_tokens": [{"id": i, "content": tokens[i]} for i in (0, 1, 2, 3, 4, SIZE - 2, SIZE - 1)],
    }
    for name, value in changes.items():
        part, _, field = name.partition("__")
        if field:
            fields[part][field] = value
        else:
            fields[part] = value
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    (folder / "vocab.txt").unlink(missing_ok=True)
    (folder / "tokenizer_config.json").unlink(missing_ok=True)
    return folder


def test_vocab_txt(folder: Path) -> None:
    vocabulary = load_vocabulary(folder)
    assert vocabulary.tokens == tuple(tiny_tokens(SIZE))
    assert (vocabulary.lower_case, vocabulary.max_tokens) == (True, 8192)


def test_odd_line_ends(folder: Path) -> None:
    tokens = [*tiny_tokens(SIZE - 2), "\u0085", "\u2028"]
    (folder / "vocab.txt").write_bytes("\r\n".join(tokens).encode())
    assert load_vocabulary(folder).tokens == tuple(tokens)


def test_tokenizer_json(folder: Path) -> None:
    assert load_vocabulary(fast(folder)).tokens == tuple(tiny_tokens(SIZE))


def test_tokenizer_json_lower_case(folder: Path) -> None:
    assert not load_vocabulary(fast(folder, normalizer__lowercase=False)).lower_case


def test_tokenizer_config_wins(folder: Path) -> None:
    assert not load_vocabulary(settings(fast(folder), do_lower_case=False)).lower_case


def test_without_tokenizer_config(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    assert load_vocabulary(folder).lower_case


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (512, 512),
        (8192, 8192),
        (2147483648, 8192),
        (int(1e30), 8192),
        (1e30, 8192),
        (1_000_001, 8192),
        (None, 8192),
    ],
)
def test_model_max_length(folder: Path, limit: object, expected: int) -> None:
    assert load_vocabulary(settings(folder, model_max_length=limit)).max_tokens == expected


def test_max_position_embeddings_where_unset(checkpoint_with: Callable[..., Path]) -> None:
    folder = settings(checkpoint_with(max_position_embeddings=1024), model_max_length=2147483648)
    assert load_vocabulary(folder).max_tokens == 1024


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_max_length": "8192"}, "'8192'"),
        ({"model_max_length": 0}, "model_max_length is 0"),
        ({"model_max_length": float("nan")}, "nan"),
        ({"do_lower_case": "yes"}, "'yes'"),
        ({"strip_accents": False}, "strip_accents is False"),
        ({"do_lower_case": False, "strip_accents": True}, "strip_accents is True"),
        ({"tokenize_chinese_chars": False}, "tokenize_chinese_chars"),
        ({"cls_token": "<s>"}, "cls_token is '<s>'"),
        ({"sep_token": {"content": "</s>"}}, "sep_token is '</s>'"),
    ],
)
def test_settings_refused(folder: Path, fields: dict[str, Any], named: str) -> None:
    assert named in refusal(settings(folder, **fields))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model__type": "BPE"}, "'BPE'"),
        ({"model__type": "Unigram"}, "'Unigram'"),
        ({"model__max_input_chars_per_word": 200}, "max_input_chars_per_word is 200"),
        ({"model__continuing_subword_prefix": "@@"}, "'@@'"),
        ({"normalizer__type": "NFC"}, "NFC"),
        ({"normalizer": None}, "normalizer is None"),
        ({"pre_tokenizer__type": "Whitespace"}, "'Whitespace'"),
        ({"model__vocab": ["[PAD]"]}, "broken"),
        ({"model__vocab": {"[PAD]": "x"}}, "broken"),
        ({"added_tokens": [{"id": 3, "content": "extra"}]}, "id 3"),
        ({"added_tokens": [{"id": 70, "content": "far"}]}, "no token has id 62"),
    ],
)
def test_tokenizer_json_refused(folder: Path, changes: dict[str, Any], named: str) -> None:
    assert named in refusal(fast(folder, **changes))


def test_bpe_beside_a_vocab_txt_is_refused(folder: Path) -> None:
    vocab = (folder / "vocab.txt").read_bytes()
    fast(folder, model__type="BPE")
    (folder / "vocab.txt").write_bytes(vocab)
    assert "'BPE'" in refusal(folder)


def test_a_tokenizer_of_another_kind(folder: Path) -> None:
    (folder / "vocab.txt").unlink()
    tokenizer_kinds.write_checkpoint(folder, "byte-level-bpe")
    size = convert_tokenizer(folder).size
    tokenizer = load_tokenizer_files(folder, EncoderConfig(vocab_size=size + 2))
    assert tokenizer.describe()["type"] == "byte-level-bpe"
    assert set(tokenizer.files()) == {"tokenizer.bin"}
    assert (tokenizer.lower_case, tokenizer.max_tokens) == (False, 8192)
    with pytest.raises(ExportError, match=f"has {size} tokens"):
        load_tokenizer_files(folder, EncoderConfig(vocab_size=size - 1))


def test_nothing_there(folder: Path) -> None:
    (folder / "vocab.txt").unlink()
    assert "neither vocab.txt nor tokenizer.json" in refusal(folder)


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
def test_size_must_be_the_embedding_tables(folder: Path, size: int) -> None:
    (folder / "vocab.txt").write_text("\n".join(tiny_tokens(size)))
    message = refusal(folder)
    assert str(size) in message
    assert str(SIZE) in message


@pytest.mark.parametrize(
    ("position", "token", "named"), [(3, "sep", "[SEP]"), (9, "the", "'the'"), (9, "", "id 9")]
)
def test_broken_vocab_txt(folder: Path, position: int, token: str, named: str) -> None:
    tokens = tiny_tokens(SIZE)
    tokens[position] = token
    (folder / "vocab.txt").write_text("\n".join(tokens))
    assert named in refusal(folder)


def test_vocab_txt_that_is_not_utf8(folder: Path) -> None:
    (folder / "vocab.txt").write_bytes(b"[PAD]\n\xff\xfe\n")
    assert "byte 6" in refusal(folder)
