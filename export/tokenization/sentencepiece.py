"""Reads a sentencepiece model (spiece.model): a protocol buffer of which a few fields matter.

Field numbers: sentencepiece_model.proto of google/sentencepiece.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from export.errors import ExportError

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # of ModelProto
_PIECE, _SCORE, _TYPE = 1, 2, 3  # of SentencePiece
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # SentencePiece.Type
_MODEL_TYPE, _UNIGRAM = 3, 1  # of TrainerSpec
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_BLANKS, _ESCAPE = 2, 3, 4, 5  # of NormalizerSpec


class SentencePieceModel(NamedTuple):
    """A Unigram model."""

    pieces: list[str]
    scores: list[float]  # of float32
    unk_id: int
    controls: list[int]  # ids of <pad>, </s> …
    charsmap: str  # base64, as in tokenizer.json; "" for none


def read_model(file: Path) -> SentencePieceModel:
    """Read spiece.model.

    :param file: The file.
    :return: The model.
    :raises ExportError: It is broken, no Unigram model, or normalises in another way than T5's.
    """
    try:
        return _read(file, file.read_bytes())
    except OSError as error:
        raise ExportError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, IndexError, struct.error):
        raise ExportError(f"{file} is not a sentencepiece model: fetch it again") from None


def _read(file: Path, data: bytes) -> SentencePieceModel:
    pieces: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for field, value in _fields(data):
        if field == _PIECES and isinstance(value, bytes):
            parts = dict(_fields(value))
            score, text = parts.get(_SCORE, bytes(4)), parts.get(_PIECE, b"")
            if not isinstance(score, bytes) or not isinstance(text, bytes):
                raise ValueError
            pieces.append(text.decode())
            scores.append(struct.unpack("<f", score)[0])
            types.append(int(parts.get(_TYPE, _NORMAL)))
        elif field == _TRAINER and isinstance(value, bytes):
            trainer = dict(_fields(value))
        elif field == _NORMALIZER and isinstance(value, bytes):
            normalizer = dict(_fields(value))
    if not pieces:
        raise ValueError
    if trainer.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM:
        raise ExportError(
            f"{file}: the model type is {trainer[_MODEL_TYPE]!r}; only 1, Unigram, is implemented"
        )
    for name, field in (
        ("add_dummy_prefix", _DUMMY_PREFIX),
        ("remove_extra_whitespaces", _REMOVE_BLANKS),
        ("escape_whitespaces", _ESCAPE),
    ):
        if normalizer.get(field, 1) != 1:
            raise ExportError(f"{file}: {name} is false; only true is implemented")
    if other := sorted(set(types) - {_NORMAL, _UNKNOWN, _CONTROL}):
        raise ExportError(
            f"{file}: has pieces of type {other[0]}; only normal, unknown and control are implemented"
        )
    if types.count(_UNKNOWN) != 1:
        raise ExportError(f"{file}: {types.count(_UNKNOWN)} unknown pieces, expected 1: fetch it again")
    charsmap = normalizer.get(_CHARSMAP, b"")
    return SentencePieceModel(
        pieces,
        scores,
        types.index(_UNKNOWN),
        [number for number, kind in enumerate(types) if kind == _CONTROL],
        base64.b64encode(charsmap if isinstance(charsmap, bytes) else b"").decode(),
    )


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Read the fields of one message.

    :param data: The message.
    :return: Number and value of each: int for a varint, bytes for everything else.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            number, at = _varint(data, at)
            yield key >> 3, number
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError
        if at + size > len(data):
            raise ValueError
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
