"""Reads the vocabulary of a checkpoint, and refuses tokenizers other than BERT's WordPiece by name."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from export.config import DEFAULT_MAX_TOKENS, read_json
from export.errors import ExportError, listing
from export.models import EncoderConfig, load_config

__all__ = ["SPECIAL_TOKENS", "Vocabulary", "load_vocabulary"]

# Field of tokenizer_config.json -> the token that the runtime's tokenizer knows by name.
SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# One published tokenizer_config.json carries 2147483648, and transformers writes 1e30 for "unknown".
_UNSET_ABOVE = 1_000_000
# Where a byte-level BPE tokenizer keeps its parts.
_BPE_FILES = ("vocab.json", "merges.txt")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A WordPiece vocabulary and how text is prepared for it."""

    tokens: tuple[str, ...]  # the position is the id
    lower_case: bool  # lower-case and strip accents first
    max_tokens: int  # the longest text, [CLS] and [SEP] included


def load_vocabulary(folder: Path, config: EncoderConfig | None = None) -> Vocabulary:
    """Read ``vocab.txt``, or ``tokenizer.json`` where there is none, and ``tokenizer_config.json``.

    :param folder: the checkpoint folder.
    :param config: its configuration, where it is read already.
    :return: the vocabulary.
    :raises ExportError: the tokenizer is not BERT's WordPiece, its size is not that of the embedding table, a special
        token is missing, or a file is missing or broken.
    """
    if config is None:
        config = load_config(folder)
    # tokenizer.json first, even beside a vocab.txt: it says which kind of tokenizer the vocabulary belongs to.
    fast = folder / "tokenizer.json"
    settings, listed = _read_fast(fast) if fast.is_file() else ({}, None)
    slow = folder / "vocab.txt"
    if slow.is_file():
        listed, file = _read_lines(slow), slow
    elif listed is not None:
        file = fast
    elif any((folder / name).is_file() for name in _BPE_FILES):
        raise ExportError(
            f"{folder} has a BPE tokenizer ({' and '.join(_BPE_FILES)}); only WordPiece is implemented"
        )
    else:
        raise ExportError(f"{folder} has neither vocab.txt nor tokenizer.json: fetch the checkpoint again")
    _check_tokens(file, listed, config.vocab_size)
    settings |= _read_settings(folder / "tokenizer_config.json")
    lower_case = settings.get("do_lower_case", True)
    if not isinstance(lower_case, bool):
        raise ExportError(f"{folder}: do_lower_case is {lower_case!r}, expected true or false")
    if settings.get("strip_accents") not in (None, lower_case):
        raise ExportError(
            f"{folder}: strip_accents is {settings['strip_accents']!r} where lower-casing is {lower_case}; only the "
            "two together are implemented"
        )
    if settings.get("tokenize_chinese_chars", True) is not True:
        raise ExportError(f"{folder}: tokenize_chinese_chars is false; only true is implemented")
    return Vocabulary(tuple(listed), lower_case, _max_tokens(folder, settings, config))


def _read_lines(file: Path) -> list[str]:
    try:
        # Split at \n alone: a token may be U+0085 or U+2028, which str.splitlines() takes for an end of line.
        lines = file.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ExportError(f"{file} is not UTF-8 (byte {error.start}): fetch it again") from None
    except OSError as error:
        raise ExportError(f"{file} cannot be read: {error.strerror}") from None
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _read_fast(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Read tokenizer.json: its settings under the names of tokenizer_config.json, and its tokens by id."""
    fields = read_json(file)
    model = _part(file, fields, "model")
    kind = model.get("type")
    if kind != "WordPiece":
        raise ExportError(
            f"{file}: the tokenizer is {kind!r}; only 'WordPiece' (small-en, base-en) is implemented"
        )
    for name, expected in (
        ("continuing_subword_prefix", "##"),
        ("max_input_chars_per_word", 100),
        ("unk_token", "[UNK]"),
    ):
        if model.get(name, expected) != expected:
            raise ExportError(f"{file}: model.{name} is {model[name]!r}; only {expected!r} is implemented")
    normalizer = _part(file, fields, "normalizer")
    if normalizer.get("type") != "BertNormalizer" or normalizer.get("clean_text", True) is not True:
        raise ExportError(
            f"{file}: the normalizer is {normalizer}; only BertNormalizer with clean_text is implemented"
        )
    splitter = _part(file, fields, "pre_tokenizer").get("type")
    if splitter != "BertPreTokenizer":
        raise ExportError(
            f"{file}: the pre_tokenizer is {splitter!r}; only 'BertPreTokenizer' is implemented"
        )
    settings = {
        "do_lower_case": normalizer.get("lowercase", True),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
    }
    return settings, _by_id(file, model.get("vocab"), fields.get("added_tokens") or [])


def _part(file: Path, fields: dict[str, Any], name: str) -> dict[str, Any]:
    part = fields.get(name)
    if not isinstance(part, dict):
        raise ExportError(
            f"{file}: {name} is {part!r}, expected an object: only BERT's WordPiece is implemented"
        )
    return part


def _by_id(file: Path, vocabulary: Any, added: Any) -> list[str]:
    ids: dict[int, str] = {}
    try:
        pairs = [*vocabulary.items(), *((token["content"], token["id"]) for token in added)]
        for token, number in pairs:
            if not isinstance(token, str) or ids.setdefault(int(number), token) != token:
                raise ExportError(f"{file}: id {number} is given to {ids[number]!r} and {token!r}")
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ExportError(f"{file}: the vocabulary is broken: fetch it again") from None
    if gaps := [str(number) for number in range(len(ids)) if number not in ids]:
        raise ExportError(f"{file}: no token has id {listing(gaps)}")
    return [ids[number] for number in range(len(ids))]


def _read_settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    settings = read_json(file)
    for field, expected in SPECIAL_TOKENS.items():
        value = settings.get(field, expected)
        if isinstance(value, dict):  # a token with its flags
            value = value.get("content")
        if value not in (None, expected):
            raise ExportError(f"{file}: {field} is {value!r}; only {expected!r} is implemented")
    return {name: value for name, value in settings.items() if value is not None}


def _check_tokens(file: Path, tokens: list[str], size: int) -> None:
    if absent := [token for token in SPECIAL_TOKENS.values() if token not in tokens]:
        raise ExportError(f"{file} lacks {listing(absent)}: it is not a BERT vocabulary")
    if len(tokens) != size:
        raise ExportError(
            f"{file} has {len(tokens)} tokens and config.json a vocab_size of {size}: fetch it again, or, where the "
            "embedding table was padded, append a line such as [unused900] for each row without a token"
        )
    if blank := [str(number) for number, token in enumerate(tokens) if not token or "\n" in token]:
        raise ExportError(f"{file}: the token with id {listing(blank)} is empty or holds a line break")
    if len(set(tokens)) != len(tokens):
        repeated = [repr(token) for token, count in Counter(tokens).items() if count > 1]
        raise ExportError(f"{file} lists tokens twice: {listing(repeated)}")


def _max_tokens(folder: Path, settings: dict[str, Any], config: EncoderConfig) -> int:
    limit = settings.get("model_max_length")
    if limit is None:
        return config.max_position_embeddings
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 3:
        raise ExportError(
            f"{folder}: model_max_length is {limit!r}, expected a number of tokens of at least 3"
        )
    return int(limit) if limit <= _UNSET_ABOVE else min(DEFAULT_MAX_TOKENS, config.max_position_embeddings)
