"""Write runtime/tokenization/unicode_tables.py: what BERT's normaliser does with a character, as `tokenizers` has it.

    python -m tests.make_unicode_tables

Python's own unicodedata will not do: its version changes with the interpreter (14.0 in Python 3.11, 15.1 in
3.13), and `tokenizers` mixes several older ones. So every code point is put through the real normaliser and
pre-tokenizer, and what comes out is stored.
"""

from __future__ import annotations

import binascii
import unicodedata
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import normalizers, pre_tokenizers

TARGET = Path(__file__).parent.parent / "runtime" / "unicode_tables.py"
CODE_POINTS = [code for code in range(0x80, 0x110000) if not 0xD800 <= code < 0xE000]
SURROGATES = range(0xD800, 0xE000)  # `tokenizers` never sees one: they count as U+FFFD, which is removed
HANGUL = range(0xAC00, 0xD7A4)  # decomposed by arithmetic at run time
REMOVED, SPACE, IDEOGRAPH, PUNCTUATION, MARK = range(1, 6)  # the kinds of runtime/tokenization/characters.py
SEPARATOR = "\U0010fffe"

TEMPLATE = '''"""What BERT's normaliser does with each character outside ASCII. Written by tests/make_unicode_tables.py.

Not to be edited by hand. characters.py says what is in it and unpacks it at the first character outside ASCII.
"""

from __future__ import annotations

# zlib, base64
PACKED = """\\
{packed}"""
'''


def kinds() -> dict[int, int]:
    """Code point -> kind, for those that are not ordinary.

    :return: Kinds as `runtime.tokenization.characters` numbers them.
    """
    cased: Any = normalizers.BertNormalizer(lowercase=False)
    uncased: Any = normalizers.BertNormalizer()
    words: Any = pre_tokenizers.BertPreTokenizer()
    found = dict.fromkeys(SURROGATES, REMOVED)
    for code in CODE_POINTS:
        character = chr(code)
        cleaned = cased.normalize_str(character)
        split = [word for word, _ in words.pre_tokenize_str(f"a{character}b")]
        if cleaned == "":
            found[code] = REMOVED
        elif cleaned == " ":
            found[code] = SPACE
        elif cleaned == f" {character} ":
            found[code] = IDEOGRAPH
        elif uncased.normalize_str(character) == "":
            found[code] = MARK
        elif split == ["a", character, "b"]:
            found[code] = PUNCTUATION
        assert cleaned in ("", " ", character, f" {character} ")
        assert split in (["a", character, "b"], [f"a{character}b"]) or found[code] in (REMOVED, SPACE)
    return found


def folds() -> dict[int, str]:
    """Code point -> what decomposition, the loss of accents and lower-casing make of it, where that is another text.

    :return: One or more characters each, without the spaces around an ideograph.
    """
    uncased: Any = normalizers.BertNormalizer()
    found = {}
    for code in CODE_POINTS:
        text = uncased.normalize_str(chr(code)).strip(" ")
        if text not in ("", chr(code)) and code not in HANGUL:
            found[code] = text
    return found


def combining_classes() -> dict[int, int]:
    """Code point -> canonical combining class, where that is not 0, as the NFD of `tokenizers` sorts.

    unicodedata only offers one example of each class; the class of each character is then read off the order in
    which NFD puts it beside the examples.

    :return: Classes 1 to 240. A character that decomposes has the class of the first one it gives.
    """
    nfd = normalizers.NFD().normalize_str
    lowest, highest = "\u0334", "\u0345"
    decomposed = {code: nfd(chr(code)) for code in CODE_POINTS}

    def moves(character: str) -> bool:
        return (
            nfd(character + lowest) != character + lowest or nfd(highest + character) != highest + character
        )

    movable = [chr(code) for code in CODE_POINTS if decomposed[code] == chr(code) and moves(chr(code))]
    example: dict[int, str] = {}
    for character in [lowest, highest, *movable]:
        example.setdefault(unicodedata.combining(character), character)
    found = {}
    for character in {lowest, highest, *movable}:
        same = [
            number
            for number, other in example.items()
            if nfd(character + other) == character + other and nfd(other + character) == other + character
        ]
        assert len(same) == 1, (character, same)
        found[ord(character)] = same[0]
    for code, text in decomposed.items():
        if text != chr(code) and ord(text[0]) in found:
            found[code] = found[ord(text[0])]
    return found


def runs(values: dict[int, int]) -> str:
    """Three characters a run of equal values: gap since the last run's end, length, value."""
    text, end, codes = "", 0, sorted(values)
    start = 0
    for at in range(1, len(codes) + 1):
        last = at == len(codes)
        if last or codes[at] != codes[at - 1] + 1 or values[codes[at]] != values[codes[start]]:
            first, length = codes[start], codes[at - 1] + 1 - codes[start]
            text += chr(first - end) + chr(length) + chr(values[first])
            end, start = first + length, at
    return text


def gaps(codes: Iterable[int]) -> str:
    """One character a code point: the distance from the one before."""
    text, last = "", 0
    for code in codes:
        text += chr(code - last)
        last = code
    return text


def pack() -> str:
    """All tables in one printable text.

    :return: Base64 of zlib of UTF-8 (surrogates passed), in lines of 100 characters.
    """
    folded = folds()
    single = {code: text for code, text in folded.items() if len(text) == 1}
    several = {code: text for code, text in folded.items() if len(text) > 1}
    sections = [
        runs(kinds()),
        gaps(single),
        "".join(single.values()),
        gaps(several),
        " ".join(several.values()),
        runs(combining_classes()),
    ]
    assert not any(SEPARATOR in section for section in sections)
    compressed = zlib.compress(SEPARATOR.join(sections).encode("utf-8", "surrogatepass"), 9)
    printable = binascii.b2a_base64(compressed, newline=False).decode("ascii")
    return "".join(printable[at : at + 100] + "\n" for at in range(0, len(printable), 100))


if __name__ == "__main__":
    TARGET.write_text(TEMPLATE.format(packed=pack()), encoding="utf-8")
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")
