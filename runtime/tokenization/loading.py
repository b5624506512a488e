"""From what a model folder holds to its tokenizer. Only the kind that is asked for is imported."""

from __future__ import annotations

import os

from runtime.errors import ModelError

from .tokenizer import Tokenizer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .pipeline import Setup

KINDS = ("wordpiece", "byte-level-bpe", "character-bpe", "unigram")
_VOCABULARY = "vocab.txt"
_EXPORT_AGAIN = "copy or export the model folder again"
_MOST_IDS = 1 << 22


def tokenizer_file(kind: str) -> str:
    """Name the file that holds what a kind of tokenizer has learned.

    :param kind: One of KINDS.
    :return: Its name in the model folder.
    """
    return _VOCABULARY if kind == "wordpiece" else "tokenizer.bin"


def load_tokenizer(folder: str, description: Mapping[str, Any], rows: int = _MOST_IDS) -> Tokenizer:
    """Load the tokenizer of a model folder.

    :param folder: Model folder.
    :param description: Field "tokenizer" of its manifest: "type" is one of KINDS, the rest depends on it.
    :param rows: Of the model's embedding table: ids of a WordPiece's added tokens must be lower.
    :return: The tokenizer.
    :raises ModelError: A field is missing or wrong, or the file is damaged.
    """
    kind = description.get("type")
    if kind == "wordpiece":
        return _load_wordpiece(folder, description, rows)
    if kind not in KINDS:
        raise ModelError(
            f"tokenizer.type is {kind!r}, not one of {', '.join(KINDS)}: install a newer release"
        )
    try:
        setup = _setup(description)
        lower_case = _flag(description, "lower_case")
    except ModelError as error:
        raise ModelError(f"{os.path.join(folder, 'manifest.json')}: {error}: {_EXPORT_AGAIN}") from None
    from .tables import TABLES, read_tables

    tables = read_tables(folder)
    try:
        if kind == "unigram":
            from .unigram import make_unigram

            return make_unigram(setup, tables)
        from .byte_pair import make_byte_pair

        return make_byte_pair(setup, tables, byte_level=kind == "byte-level-bpe", lower_case=lower_case)
    except (KeyError, ValueError, IndexError, TypeError):
        path = os.path.join(folder, TABLES)
        raise ModelError(f"{path}: not the tables of {kind}: {_EXPORT_AGAIN}") from None


def _load_wordpiece(folder: str, description: Mapping[str, Any], rows: int) -> Tokenizer:
    from .wordpiece import WordPiece

    path = os.path.join(folder, _VOCABULARY)
    plain = WordPiece.from_file(path, lower_case=bool(description.get("lower_case")))
    entries = description.get("added_tokens")
    if entries is None:
        return plain
    from .added_tokens import read_added_tokens
    from .wordpiece_added import WordPieceAdded

    try:
        return WordPieceAdded(plain, read_added_tokens(entries, rows))
    except ModelError as error:
        raise ModelError(f"{os.path.join(folder, 'manifest.json')}: {error}: {_EXPORT_AGAIN}") from None


def _setup(description: Mapping[str, Any]) -> Setup:
    from .added_tokens import read_added_tokens
    from .pipeline import Setup

    size = _number(description, "size", _MOST_IDS)
    unk_id = description.get("unk_id")
    return Setup(
        size=size,
        pad_id=_number(description, "pad_id", size),
        unk_id=None if unk_id is None else _number(description, "unk_id", size),
        prefix=_ids(description, "prefix", size),
        middle=_ids(description, "middle", size),
        suffix=_ids(description, "suffix", size),
        added_tokens=read_added_tokens(description.get("added_tokens", []), size),
        trim_offsets=_flag(description, "trim_offsets"),
        second_type_id=_number(description, "second_type_id", 2),
        decoder=_decoder(description.get("decoder")),
    )


def _number(description: Mapping[str, Any], field: str, end: int) -> int:
    value = description.get(field)
    if type(value) is not int or not 0 <= value < end:
        raise ModelError(f"tokenizer.{field} is {value!r:.60}, not an integer from 0 to {end - 1}")
    return value


def _flag(description: Mapping[str, Any], field: str) -> bool:
    value = description.get(field, False)
    if not isinstance(value, bool):
        raise ModelError(f"tokenizer.{field} is {value!r:.60}, not true or false")
    return value


def _decoder(name: object) -> str | None:
    from .decoding import DECODERS

    if name is not None and name not in DECODERS:
        raise ModelError(f"tokenizer.decoder is {name!r:.60}, not one of {', '.join(DECODERS)}")
    return name if isinstance(name, str) else None


def _ids(description: Mapping[str, Any], field: str, size: int) -> tuple[int, ...]:
    values = description.get(field)
    if not isinstance(values, list) or not all(type(one) is int and 0 <= one < size for one in values):
        raise ModelError(f"tokenizer.{field} is {values!r:.60}, not a list of integers from 0 to {size - 1}")
    return tuple(values)
