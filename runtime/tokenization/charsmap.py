"""The normaliser of sentencepiece models (nmt_nfkc and the like) as `tokenizers` runs it.

It takes each grapheme cluster of under six bytes whole, looks for the shortest text in the map that it starts with and
puts the replacement in the place of the whole cluster: "\ufb01" with an accent loses the accent. Other clusters go
character by character. sentencepiece itself looks for the longest text, anywhere.

The map is a length, a double array as the darts-clone library writes it, and replacements that end in NUL.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from .character_classes import (
    CONSONANT,
    CONTROL,
    EXTENDING,
    LINKER,
    PICTOGRAPH,
    PREPENDED,
    ranges,
    reach,
)
from .tables import little_endian

if TYPE_CHECKING:
    import re

    from .pipeline import Span

_MAX_CLUSTER_BYTES = 5
_MOST_REMEMBERED = 16_384  # characters in the table


class Charsmap(dict[int, str]):
    """Code point -> replacement: a table for `str.translate`, filled as characters are met. Safe from several threads.

    :param data: The map, as tokenizer.json holds it in base64.
    :raises ValueError: It is broken.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__()
        size = int.from_bytes(data[:4], "little")
        if size % 4 or not 1024 <= size <= len(data) - 4:
            raise ValueError
        self._units = little_endian(array("I", data[4 : 4 + size]))
        self._replacements = data[4 + size :]
        printable = map(chr, range(0x20, 0x7F))
        self._keeps_ascii = all(self.find(one) is None for one in printable)

    def __missing__(self, code: int) -> str:
        text = self.find(chr(code))
        if text is None:
            text = chr(code)
        if len(self) >= _MOST_REMEMBERED:
            self.clear()
        self[code] = text
        return text

    def find(self, cluster: str) -> str | None:
        """Find the replacement of the shortest text in the map that a cluster starts with.

        :param cluster: One or more characters.
        :return: The replacement, None if there is no such text.
        """
        units = self._units
        place = _offset(units[0])
        for byte in cluster.encode():
            place ^= byte
            if not byte or place >= len(units) or units[place] & 0x800000FF != byte:
                return None
            unit = units[place]
            place ^= _offset(unit)
            if unit & 0x100:
                start = units[place] & 0x7FFFFFFF
                return self._replacements[start : self._replacements.index(0, start)].decode()
        return None

    def normalize(self, text: str) -> str:
        """Replace what the map has.

        :param text: Any text without lone surrogates.
        :return: The text with the replacements.
        """
        if self._keeps_ascii and text.isascii() and text.isprintable():
            return text
        parts, end = [], 0
        for start, stop in _clusters(text):
            if (replacement := self.find(text[start:stop])) is not None:
                parts += [text[end:start].translate(self), replacement]
                end = stop
        parts.append(text[end:].translate(self))
        return "".join(parts)

    def align(self, text: str) -> tuple[str, Sequence[Span] | None]:
        """Replace what the map has, and tell where each character comes from.

        :param text: Any text without lone surrogates.
        :return: What `normalize` gives, and for each of its characters start and stop in the text; None if nothing was
            replaced. As in `tokenizers`, what is removed at the start of a text moves the positions after it.
        """
        if self._keeps_ascii and text.isascii() and text.isprintable():
            return text, None
        characters: list[str] = []
        # For each the library's note: 1 for one that was inserted; -n: n characters after the one it replaces are gone.
        changes: list[int] = []
        end = 0
        for start, stop in [*_clusters(text), (len(text), len(text))]:
            if (replacement := self.find(text[start:stop])) is None:
                start = stop
            for one in text[end:start]:
                _replace(1, self[ord(one)], characters, changes)
            if replacement is not None:
                _replace(stop - start, replacement, characters, changes)
            end = stop
        spans: list[Span] = []
        at = 0
        for change in changes:
            if change > 0:
                spans.append((at - 1, at) if at else (0, 0))
            else:
                spans.append((at, at + 1))
                at += 1 - change
        return "".join(characters), spans


def _replace(count: int, new: str, characters: list[str], changes: list[int]) -> None:
    """Append what stands for a number of characters, with its notes."""
    characters += new
    more = len(new) - count
    if more <= 0:
        changes += [0] * len(new)
        if more and changes:
            changes[-1] += more
    else:
        changes += [0] * count + [1] * more


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)


def _clusters(text: str) -> list[Span]:
    """Find the grapheme clusters of more than one character and under six bytes, CR LF among them."""
    spans = []
    for match in _expression(reach(text)).finditer(text):
        start, stop = match.span()
        if 1 < stop - start <= _MAX_CLUSTER_BYTES and len(match.group().encode()) <= _MAX_CLUSTER_BYTES:
            spans.append((start, stop))
    return spans


@cache
def _expression(most: int) -> re.Pattern[str]:
    """Compile an expression for grapheme clusters in text up to a code point.

    Of Unicode's rules those for Hangul syllables and flags are left out: such clusters have six bytes or more, and none
    of their parts is replaced. A match may so be a part of a cluster, and one of six bytes or more.
    """
    import re

    if most < 0x80:
        return re.compile("\r\n")
    extend, prepend, control = (ranges(number, most) for number in (EXTENDING, PREPENDED, CONTROL))
    pictograph, consonant, linker = (ranges(number, most) for number in (PICTOGRAPH, CONSONANT, LINKER))
    return re.compile(
        rf"\r\n|[{prepend}]*(?:"
        rf"[{pictograph}][{extend}]*(?:(?<=\u200d)[{pictograph}][{extend}]*)+"
        rf"|[{consonant}](?:[{extend}]*[{linker}][{extend}]*[{consonant}])+[{extend}]*"
        rf"|[^{control}{prepend}][{extend}]+)"
        rf"|[{prepend}]+[^{control}]?"
    )
