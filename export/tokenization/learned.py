"""What a tokenizer has learned, as tables: merges of byte-pair encoding, pieces and scores of Unigram."""

from __future__ import annotations

import base64
import binascii
import math
from array import array
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from export.errors import ExportError
from export.tokenization.fields import Fields
from export.tokenization.steps import BYTE_LEVEL, UNIGRAM
from runtime.tokenization.decoding import byte_signs

if TYPE_CHECKING:
    Table = array[Any] | str

_BPE_SETTINGS = {
    "dropout": (None, 0, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "fuse_unk": (None, False),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}
_SEPARATOR = "\n"


def vocabulary(fields: Fields) -> dict[str, int]:
    """Read the vocabulary of a model.

    :param fields: The tokenizer.
    :return: Token -> id, without added tokens.
    :raises ExportError: It is broken.
    """
    entries = fields.document["model"].get("vocab")
    if isinstance(entries, list):
        try:
            pieces = [str(piece) for piece, _ in entries]
        except (TypeError, ValueError):
            raise ExportError(f"{fields.file}: the vocabulary is broken: fetch it again") from None
        entries = {piece: number for number, piece in enumerate(pieces)}
        if len(entries) != len(pieces):
            raise ExportError(f"{fields.file}: the vocabulary lists a piece twice: fetch it again")
    if (
        not isinstance(entries, dict)
        or not entries
        or any(type(number) is not int for number in entries.values())
        or set(entries.values()) != set(range(len(entries)))
    ):
        raise ExportError(
            f"{fields.file}: the ids of the vocabulary are not 0, 1, 2 and so on: fetch it again"
        )
    return entries


def tables(fields: Fields, kind: str, ids: dict[str, int]) -> tuple[int | None, dict[str, Table]]:
    """Make the tables of tokenizer.bin.

    :param fields: The tokenizer.
    :param kind: Its type in the manifest.
    :param ids: Its vocabulary.
    :return: The id of unknown text, None if there is none; and name -> table.
    :raises ExportError: The model is broken or has a setting that is not implemented.
    """
    if kind == UNIGRAM:
        return _unigram(fields, ids)
    model = fields.document["model"]
    for setting, allowed in _BPE_SETTINGS.items():
        if model.get(setting) not in allowed:
            raise ExportError(
                f"{fields.file}: model.{setting} is {model[setting]!r}; only {allowed[-1]!r} is implemented"
            )
    unk_token = model.get("unk_token")
    unk_id = None if unk_token is None else ids.get(unk_token)
    if kind == BYTE_LEVEL:
        unk_id = None  # every byte is a symbol
        signs = byte_signs()
        if absent := [f"0x{byte:02x}" for byte, sign in enumerate(signs) if sign not in ids]:
            raise ExportError(f"{fields.file}: the vocabulary lacks the byte {absent[0]}; all 256 are needed")
        alphabet = {chr(byte): ids[sign] for byte, sign in enumerate(signs)}
    else:
        alphabet = {token: number for token, number in ids.items() if len(token) == 1}
        if unk_id is None:
            raise ExportError(
                f"{fields.file}: model.unk_token is {unk_token!r}, which is not in the vocabulary; it is needed for "
                "characters outside the alphabet"
            )
    lengths = array("H", bytes(2 * len(ids)))
    for token, number in ids.items():
        lengths[number] = min(len(token), 0xFFFF)
    if unk_id is not None:
        lengths[unk_id] = 1  # one character, whatever its name
    pairs, merged = _merges(fields, ids)
    other = _unmerged(ids, {*alphabet.values()}, pairs, merged)
    order = sorted(range(len(pairs)), key=pairs.__getitem__)
    lefts = Counter(left for left, _ in pairs)
    return unk_id, {
        "alphabet": "".join(alphabet),
        "alphabet_ids": _numbers(alphabet.values()),
        "lengths": lengths,
        "starts": _numbers(accumulate((lefts[number] for number in range(len(ids))), initial=0)),
        "rights": _numbers(pairs[rank][1] for rank in order),
        "ranks": _numbers(order),
        "merged": _numbers(merged),
        "other": "".join(other),
        "other_ids": _numbers(map(ids.__getitem__, other)),
        "other_lengths": _numbers(map(len, other)),
    }


def _numbers(values: Iterable[int]) -> array[int]:
    """Two bytes for each where they suffice, else four."""
    found = [*values]
    return array("H" if max(found, default=0) <= 0xFFFF else "I", found)


def _merges(fields: Fields, ids: dict[str, int]) -> tuple[list[tuple[int, int]], list[int]]:
    pairs: list[tuple[int, int]] = []
    merged: list[int] = []
    entries = fields.document["model"].get("merges")
    if not isinstance(entries, list):
        raise ExportError(f"{fields.file}: model.merges is {entries!r:.40}, expected a list: fetch it again")
    for number, entry in enumerate(entries):
        parts = entry.split(" ") if isinstance(entry, str) else entry
        try:
            left, right = parts
            pairs.append((ids[left], ids[right]))
            merged.append(ids[left + right])
        except (KeyError, TypeError, ValueError):
            raise ExportError(
                f"{fields.file}: merge {number}, {entry!r}, is not of two tokens that give a third: fetch it again"
            ) from None
    if len(set(pairs)) != len(pairs):
        raise ExportError(f"{fields.file}: a merge is listed twice: fetch it again")
    return pairs, merged


def _unmerged(
    ids: dict[str, int], alphabet: set[int], pairs: list[tuple[int, int]], merged: list[int]
) -> list[str]:
    """Give the tokens that the merges, taken in order, do not make: only `decode` meets them."""
    made = set(alphabet)
    other = {number: token for token, number in ids.items() if number not in alphabet}
    for pair, number in zip(pairs, merged, strict=True):
        if made.issuperset(pair):
            made.add(number)
            other.pop(number, None)
    return list(other.values())


def _unigram(fields: Fields, ids: dict[str, int]) -> tuple[int | None, dict[str, Table]]:
    model = fields.document["model"]
    unk_id = model.get("unk_id")
    if model.get("byte_fallback") not in (None, False):
        raise ExportError(f"{fields.file}: model.byte_fallback is true; only false is implemented")
    if type(unk_id) is not int or not 0 <= unk_id < len(ids):
        raise ExportError(f"{fields.file}: model.unk_id is {unk_id!r}, expected the id of a piece")
    try:
        scores = array("d", (float(score) for _, score in model["vocab"]))
    except (TypeError, ValueError):
        raise ExportError(f"{fields.file}: a score is not a number: fetch it again") from None
    if not all(map(math.isfinite, scores)):
        raise ExportError(f"{fields.file}: a score is not finite: fetch it again")
    if bad := [piece for piece in ids if _SEPARATOR in piece or not piece]:
        raise ExportError(f"{fields.file}: the piece {bad[0]!r} is empty or holds a line break")
    longest: dict[str, int] = {}
    for piece in ids:
        if len(piece) > 1:
            longest[piece[:2]] = max(longest.get(piece[:2], 0), len(piece))
    return unk_id, {
        "pieces": _SEPARATOR.join(ids),
        "scores": scores,
        "lengths": array("H", map(len, ids)),
        "starts": "".join(longest),
        "longest": array("H", longest.values()),
        "charsmap": array("B", _charsmap(fields)),
    }


def _charsmap(fields: Fields) -> bytes:
    normalizer: Any = fields.document.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    coded = next((step["precompiled_charsmap"] for step in steps if step.get("precompiled_charsmap")), "")
    try:
        data = base64.b64decode(coded, validate=True)
        size = int.from_bytes(data[:4], "little")
        if data and (size % 4 or 4 + size > len(data)):
            raise ValueError
        data[4 + size :].decode()
    except (binascii.Error, ValueError, TypeError):
        raise ExportError(f"{fields.file}: precompiled_charsmap is broken: fetch the file again") from None
    return data
