"""Real English texts for the tests of trust, from the export's verification set (see export/verification_texts.md)."""

from __future__ import annotations

import lzma
import random

from runtime.tokenization.wordpiece import WordPiece
from tests.paths import ROOT


def real_texts() -> list[str]:
    """All of them, in file order."""
    data = (ROOT / "export" / "verification_texts.txt.xz").read_bytes()
    return [line for line in lzma.decompress(data).decode("utf-8").split("\n") if line]


def short_texts(tokenizer: WordPiece, count: int, *, most: int = 40) -> list[str]:
    """Make short texts.

    :param tokenizer: counts tokens.
    :param count: how many.
    :param most: tokens of the longest.
    :return: always the same ones.
    """
    short = [text for text in real_texts() if 4 <= tokenizer.count(text) <= most]
    return random.Random(7).sample(short, count)


def long_text(tokenizer: WordPiece, tokens: int) -> str:
    """The beginning of the longest text, of this many tokens or a few more."""
    words = max(real_texts(), key=len).split()
    low, high = 1, len(words)
    while low < high:
        middle = (low + high) // 2
        if tokenizer.count(" ".join(words[:middle])) < tokens:
            low = middle + 1
        else:
            high = middle
    return " ".join(words[:low])
