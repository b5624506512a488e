"""What the tests, the fuzzer and the benchmark of the tokenizer share: vocabulary, reference, texts to try."""

from __future__ import annotations

import json
import lzma
import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from runtime.tokenization.tokenizer import Tokenizer
from tests.paths import MODELS, ROOT, SHARED

if TYPE_CHECKING:
    # One thread: its pool waits long for a CPU core that others use.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers
    from tokenizers.implementations import BertWordPieceTokenizer

    Judge: TypeAlias = tokenizers.Tokenizer | BertWordPieceTokenizer

SPECIAL = ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")
ADDED = (  # tokens that people add, and what is hard about them
    "TICKET-ID",
    "jina sun",
    "Zürich",
    "é",
    "##ab",
    "<e1>",
    "naïve café",
    " lead",
    "trail ",
    "中文",
    "ab",
    "A.B",
)
UNICODE = SHARED / "data" / "unicode"

Encoded = tuple[list[int], list[tuple[int, int]]]


def vocabulary() -> Path | None:
    """Return the published vocabulary, of the bundled model or beside the checkout; None where neither is."""
    places = [*sorted(MODELS.glob("*/vocab.txt")), SHARED / "data" / "vocab.txt"]
    return next((place for place in places if place.is_file()), None)


def reference(path: Path, *, lower_case: bool = True) -> BertWordPieceTokenizer:
    """Return `tokenizers` as BERT uses it, the five special tokens registered."""
    # One thread: its pool waits long for a CPU core that others use.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers.implementations import BertWordPieceTokenizer
    from tokenizers.models import WordPiece as Model

    return BertWordPieceTokenizer(Model.read_file(str(path)), lowercase=lower_case)


def without_surrogates(text: str) -> str:
    """Return the text that `tokenizers`, which takes no lone surrogate, is given instead: each becomes U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def description(judge: Judge) -> dict[str, Any]:
    """Return the content of tokenizer.json."""
    found: dict[str, Any] = json.loads(judge.to_str())
    return found


def mismatches(ours: Tokenizer, judge: Judge, texts: Sequence[str]) -> list[str]:
    """Compare ids, offsets, count, and the texts that the ids give.

    :return: The texts on which they differ.
    """
    expected = judge.encode_batch([without_surrogates(text) for text in texts])
    lists = [one.ids for one in expected]
    bare, whole = (judge.decode_batch(lists, skip_special_tokens=skip) for skip in (True, False))
    return [
        text
        for text, one, without, with_special in zip(texts, expected, bare, whole, strict=True)
        if ours.encode(text) != one.ids
        or ours.encode_with_offsets(text) != (one.ids, one.offsets)
        or ours.count(text) != len(one.ids)
        or ours.decode(one.ids) != without
        or ours.decode(one.ids, special=True) != with_special
    ]


def normalization_texts() -> list[str]:
    """Return every column of NormalizationTest, alone and between letters."""
    texts = []
    with lzma.open(UNICODE / "NormalizationTest.txt.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            if line[0] not in "#@\n":
                for column in line.split(";")[:5]:
                    text = "".join(chr(int(code, 16)) for code in column.split())
                    texts += [text, f"a{text}b"]
    return texts


def word_break_texts() -> list[str]:
    """Return every line of WordBreakTest."""
    lines = (UNICODE / "WordBreakTest.txt").read_text(encoding="utf-8").splitlines()
    fields = [line.split("#")[0].replace("÷", " ").replace("×", " ").split() for line in lines]
    return ["".join(chr(int(code, 16)) for code in codes) for codes in fields if codes]


def emoji_texts() -> list[str]:
    """Return every emoji of emoji-test, alone and in words."""
    lines = (UNICODE / "emoji-test.txt").read_text(encoding="utf-8").splitlines()
    fields = [line.split("#")[0].split(";")[0].split() for line in lines]
    emoji = ["".join(chr(int(code, 16)) for code in codes) for codes in fields if codes]
    return [text for one in emoji for text in (one, f"so {one}fun{one}{one}")]


def declaration_texts() -> list[str]:
    """Return the Universal Declaration of Human Rights, one text a language."""
    with lzma.open(UNICODE / "udhr2.jsonl.xz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def code_texts() -> list[str]:
    """Return pieces of code in twelve programming languages, and sentences in three human ones."""
    rows = (ROOT / "export" / "verification_languages.jsonl").read_text(encoding="utf-8").splitlines()
    return [str(json.loads(row)["text"]) for row in rows]


@cache
def documentation_texts() -> list[str]:
    """Return lines of documentation that have signs of code in them: manual pages, C++, PostgreSQL, Linux, git."""
    texts = []
    for name in ("docs_html", "docs_man_pod"):
        with lzma.open(SHARED / "data" / "text" / f"{name}.txt.xz", "rt", encoding="utf-8") as lines:
            texts += [line.rstrip("\n") for line in lines if re.search(r"[;{}\\$]|->|::|\(\)|--\w", line)][
                ::61
            ]
    return texts


FILES: dict[str, Callable[[], list[str]]] = {
    "NormalizationTest": normalization_texts,
    "WordBreakTest": word_break_texts,
    "emoji-test": emoji_texts,
    "UDHR": declaration_texts,
}

# Ranges (start, stop) that random texts draw from, each as often as the others.
_RANGES = [
    (0x20, 0x7F), (0x61, 0x7B), (0x61, 0x7B), (0x00, 0x21), (0x7F, 0xA1), (0xA0, 0x250), (0x250, 0x300),
    (0x300, 0x370), (0x334, 0x346), (0x370, 0x530), (0x590, 0x780), (0x8C8, 0x980), (0x900, 0xE00), (0xE00, 0x1000),
    (0x1100, 0x1200), (0x1780, 0x1A00), (0x1AB0, 0x1B80), (0x1BA0, 0x1C00), (0x1DC0, 0x1E00), (0x1E00, 0x2000),
    (0x2000, 0x2070), (0x20D0, 0x2100), (0x2100, 0x2300), (0x3000, 0x3100), (0x302A, 0x3030), (0x3400, 0x3500),
    (0x4E00, 0x9FFF), (0xA66F, 0xA6F2), (0xA806, 0xA8F2), (0xAC00, 0xD7A4), (0xD800, 0xE000), (0xE000, 0xE010),
    (0xF900, 0xFB00), (0xFB00, 0xFE00), (0xFE00, 0xFE70), (0xFE70, 0x10000), (0x10A00, 0x10B00),
    (0x11000, 0x11D00), (0x16FE0, 0x17000), (0x1D150, 0x1D1F0), (0x1E000, 0x1E030), (0x1E920, 0x1E960),
    (0x1F300, 0x1F700), (0x20000, 0x20100), (0x2F800, 0x2FA20), (0xE0000, 0xE0200), (0x0, 0x110000),
]  # fmt: skip
_PIECES = [
    *SPECIAL, *(f"{token}" for token in ("[sep]", "[CLS", "SEP]", "[", "]", "##", "[[SEP]]", "[unused1]", "##s")),
    " ", "  ", "\n", "\r\n", "\t", "\x0b", "\x1c", "\x85", "\u2028", "\u3000", "\0", "\ufeff", "\u200d", "\u202e",
    "the", "The", "unaffable", "İ", "ΑΣ", "ß", "ﬁ", "é", "e\u0301", "한국어", "중\u302e", "日本", "\U0001d15e\u0301",
    "don't", "U.S.A.", "3.14", "https://example.com/a_b?c=d", "a" * 99, "b" * 101, "\u0301" * 40, "\ud83d\ude00",
]  # fmt: skip


def random_texts(seed: int) -> Iterator[str]:
    """Texts of a few characters to a few hundred that mix scripts, marks, controls, surrogates and special tokens.

    :param seed: The same seed gives the same texts on every Python.
    :return: Without end.
    """
    draw = random.Random(seed).random  # the one method whose stream is promised to stay

    def below(number: int) -> int:
        return int(draw() * number)

    while True:
        ranges = [_RANGES[below(len(_RANGES))] for _ in range(1 + below(4))]
        parts = []
        for _ in range(1 + below(3) * below(3) * below(20) + below(8)):
            if draw() < 0.25:
                parts.append(_PIECES[below(len(_PIECES))])
            else:
                start, stop = ranges[below(len(ranges))]
                parts.append(chr(start + below(stop - start)))
        yield "".join(parts)
