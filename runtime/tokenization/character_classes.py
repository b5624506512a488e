r"""The character classes in the expressions of `tokenizers`, and its lower case, character by character.

Python's `\\w`, `\\s` and `str.lower` differ from them and change with the interpreter, so these are fixed tables
(character_class_tables.py). Text in ASCII needs none of them.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, chain

# Numbers of the classes.
WORD = 0  # \w of the Whitespace pre-tokenizer
LETTER = 1  # \p{L} of ByteLevel
NUMBER = 2  # \p{N} of ByteLevel
EXTENDING = 3  # belongs to the grapheme cluster of the character before it
PREPENDED = 4  # belongs to the grapheme cluster of the character after it
CONTROL = 5  # a grapheme cluster alone
PICTOGRAPH = 6  # a zero width joiner joins two of them
CONSONANT = 7  # of Indic scripts: a linker joins two of them
LINKER = 8

_SEPARATOR = "\U0010fffe"

_sections: list[str] = []
_edges: dict[int, list[int]] = {}


def _unpacked() -> list[str]:
    """Unpack the tables at the first call. Two threads may both do it; either result will do."""
    global _sections
    if not _sections:
        from binascii import a2b_base64
        from zlib import decompress

        from .character_class_tables import PACKED

        _sections = decompress(a2b_base64(PACKED)).decode("utf-8", "surrogatepass").split(_SEPARATOR)
    return _sections


def edges(number: int) -> list[int]:
    """Give the runs of code points of a class.

    :param number: The class.
    :return: Start and stop (exclusive) of each run in turn, ascending.
    """
    if number not in _edges:
        _edges[number] = list(accumulate(map(ord, _unpacked()[number])))
    return _edges[number]


def has_class(character: str, number: int) -> bool:
    """Tell whether a character is of a class.

    :param character: One character.
    :param number: The class.
    :return: Whether it is.
    """
    return bisect_right(edges(number), ord(character)) % 2 == 1


def ranges(number: int, most: int = 0x10FFFF) -> str:
    """Write a class for use between the brackets of a regular expression.

    :param number: The class.
    :param most: Code points above it are left out, which makes a faster expression.
    :return: Ranges, as in "0-9A-Z".
    """
    all_edges = edges(number)
    return "".join(
        f"\\U{start:08x}-\\U{min(stop - 1, most):08x}"
        for start, stop in zip(all_edges[::2], all_edges[1::2], strict=True)
        if start <= most
    )


def reach(text: str) -> int:
    """Give a code point that no character of a text exceeds, for `ranges`.

    :param text: A text without lone surrogates.
    :return: U+007F, U+FFFF or U+10FFFF.
    """
    if text.isascii():
        return 0x7F
    return 0xFFFF if len(text.encode("utf-16-le")) == 2 * len(text) else 0x10FFFF


def lower_case_table() -> dict[int, str]:
    """Give the table for `str.translate` that lower-cases as the Lowercase normaliser does: each character alone.

    :return: Code point -> text, where it is another; only one has two characters, U+0130.
    """
    codes, lower = _unpacked()[9:]
    table = dict(zip(accumulate(map(ord, codes)), lower, strict=True))
    return dict(chain(table.items(), [(0x130, "i\u0307")]))
