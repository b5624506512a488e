"""Write runtime/tokenization/character_classes.py: the character classes of `tokenizers`, asked of it.

    python -m tests.make_character_classes

Python's own tables will not do: their version changes with the interpreter, `\\w` and `\\s` of `re` are other classes,
and the library's expressions come from engines with Unicode versions of their own. So each code point is put through
the pre-tokenizer or normaliser that uses the class.
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tokenizers import normalizers, pre_tokenizers

from tests.charsmap import charsmap

TARGET = Path(__file__).parent.parent / "runtime" / "tokenization" / "character_class_tables.py"
CODE_POINTS = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
ACUTE = "\u0301"  # two bytes, and extends the cluster before it

TEMPLATE = '''"""Character classes of `tokenizers`, packed. Written by tests/make_character_classes.py.

Not to be edited by hand. runtime/tokenization/character_classes.py says what is in it and unpacks it.
"""

from __future__ import annotations

# zlib, base64
PACKED = """\\
{packed}"""
'''


def words(split: Callable[[str], list[Any]], text: str) -> list[str]:
    """Return the pieces of a text without their offsets."""
    return [piece for piece, _ in split(text)]


def word_characters() -> Iterable[int]:
    r"""Return `\w` of the Whitespace pre-tokenizer and of added tokens with single_word."""
    split = pre_tokenizers.Whitespace().pre_tokenize_str
    return (
        code for code in CODE_POINTS if len(words(split, f"a{chr(code)}")) == 1 and not blank(split, code)
    )


def blank(split: Callable[[str], list[Any]], code: int) -> bool:
    """Return whether the pre-tokenizer drops a character."""
    return not words(split, chr(code))


def white_space() -> list[int]:
    r"""Return `\s` of the Whitespace pre-tokenizer."""
    split = pre_tokenizers.Whitespace().pre_tokenize_str
    return [code for code in CODE_POINTS if blank(split, code)]


def byte_level(letter_or_number: str) -> Iterable[int]:
    r"""Return `\p{L}` or `\p{N}` of the ByteLevel pre-tokenizer, as the example is one or the other."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    return (code for code in CODE_POINTS if len(words(split, letter_or_number + chr(code))) == 1)


def byte_level_spaces() -> list[int]:
    r"""Return `\s` of the ByteLevel pre-tokenizer: what is none of the other classes and does not join "!"."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    return [code for code in CODE_POINTS if all(len(words(split, one + chr(code))) == 2 for one in "a1!")]


def lower_case() -> dict[int, str]:
    """Return a table code point -> its lower case where that is another text."""
    lower = normalizers.Lowercase().normalize_str
    found = {code: lower(chr(code)) for code in CODE_POINTS}
    return {code: text for code, text in found.items() if text != chr(code)}


def extending() -> list[int]:
    """Return what belongs to the grapheme cluster of the character before it: Extend, SpacingMark, ZWJ."""
    data: Any = charsmap("a", "X")
    normalize = normalizers.Precompiled(data).normalize_str
    return [code for code in CODE_POINTS if normalize(f"a{chr(code)}") == "X"]


def joining(pattern: str, key: str) -> list[int]:
    """Find what makes one grapheme cluster of the characters before and after it.

    :param pattern: A text with "{}" for the character, at whose end stand the key and an accent: if they are a cluster
        of their own the key's replacement takes the accent too.
    :param key: What is replaced.
    :return: The characters.
    """
    data: Any = charsmap(key, "X")
    normalize = normalizers.Precompiled(data).normalize_str
    return [code for code in CODE_POINTS if normalize(pattern.format(chr(code))).endswith(ACUTE)]


def prepended() -> list[int]:
    """Find what belongs to the grapheme cluster of the character after it."""
    return joining(f"{{}}a{ACUTE}", "a")


def controls() -> list[int]:
    """Find what nothing joins: marks after it are a cluster of their own."""
    joined = set(joining(f"{{}}\u0341{ACUTE}", "\u0341"))
    return [code for code in CODE_POINTS if code not in joined]


def pictographs() -> list[int]:
    """:return: What a zero width joiner joins to a pictograph after it."""
    return joining(f"{{}}\u200d\u2122{ACUTE}", "\u2122")


def consonants() -> list[int]:
    """:return: What a linker joins to a consonant of Indic scripts after it."""
    return joining(f"{{}}\u094d\u0958{ACUTE}", "\u0958")


def linkers() -> list[int]:
    """:return: What joins two consonants of Indic scripts, and not whatever stands after it."""
    joined = joining(f"\u0915{{}}\u0958{ACUTE}", "\u0958")
    return sorted(set(joined) - set(joining(f"\u0915{{}}\u2122{ACUTE}", "\u2122")))


def runs(codes: Iterable[int]) -> str:
    """Return two characters a run of code points: gap since the last run's end, length."""
    edges: list[int] = []
    for code in codes:
        if edges and edges[-1] == code:
            edges[-1] += 1
        else:
            edges += [code, code + 1]
    return "".join(chr(after - before) for before, after in zip([0, *edges], edges, strict=False))


def pack() -> str:
    """Return all classes in one printable text: base64 of zlib of UTF-8 (surrogates passed)."""
    from runtime.tokenization.added_tokens import WHITE_SPACE

    assert white_space() == byte_level_spaces() == list(map(ord, WHITE_SPACE))
    lower = lower_case()
    expanded = {code: text for code, text in lower.items() if len(text) > 1}
    assert expanded == {0x130: "i\u0307"}, expanded
    single = {code: text for code, text in lower.items() if len(text) == 1}
    gaps = (after - before for before, after in zip([0, *single], single, strict=False))
    sections = [
        runs(word_characters()),
        runs(byte_level("a")),
        runs(byte_level("1")),
        runs(extending()),
        runs(prepended()),
        runs(controls()),
        runs(pictographs()),
        runs(consonants()),
        runs(linkers()),
        "".join(map(chr, gaps)),
        "".join(single.values()),
    ]
    separator = "\U0010fffe"
    assert not any(separator in section for section in sections)
    compressed = zlib.compress(separator.join(sections).encode("utf-8", "surrogatepass"), 9)
    printable = binascii.b2a_base64(compressed, newline=False).decode("ascii")
    return "".join(printable[at : at + 100] + "\n" for at in range(0, len(printable), 100))


if __name__ == "__main__":
    TARGET.write_text(TEMPLATE.format(packed=pack()), encoding="utf-8")
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")
