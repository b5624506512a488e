"""Random texts that are hard for tokenizers: `kind_texts` for tests, `hostile_texts` for `tests.fuzz_tokenizer`.

Each sort of the latter aims at one thing that goes wrong: merges within long words, rare alphabets, grapheme clusters,
white space, added tokens side by side, ordinary text with small changes.
"""

from __future__ import annotations

import random
import sysconfig
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

from tests.wordpiece import UNICODE, declaration_texts, random_texts

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # of RoBERTa and what follows it
_PIECES = [
    *SPECIAL, "<S>", "<mask", "s>", "  <mask>", "</s></s>", "<extra_id_0>", "<new word>", "NEW", "new",
    "\u2581", "\u2581a", "\uff1c/s\uff1e", "'s", "'re", "'LL", "it's", "I've", "\u0120", "\u0121", "\u00a0",
    "  ", "   \n", "\n\n", "\t\tx", "\r\n", "\x1c", "\x1d\x1f", "\x85", "\u2003", "\u3000", "\u200b", "\0",
    "def f(x):\n    return x\n", "{\n\t\"key\": [1, 2.5e-3]\n}", "aaa", "aaaa" * 9, "ab" * 70, "a" * 200, "の" * 150,
    "²", "½", "Ⓐ", "ⅷ", "İ", "ΑΣ", "Ǆ", "ß", "\u0301", "e\u0302\u0301", "D\u0307", "\ufb01\u0301", "™\u0301",
    "☃\u200d™\u0301", "क्\u0958\u0301", "\u0600ª\u0301", "\u0958", "가\u11a8", "각", "\u1100\u1161",
    "🇫🇷", "👍🏽", "👩\u200d👧", "①", "㌀", "１２", "ｱ\uff9e", "\ufdfa", "\U0001d400",
    "\u05c8", "\u05c9", "\ue000", "\U0010fffd",
]  # fmt: skip
_WHITE = [*map(chr, range(0x09, 0x0E)), " ", " ", "  ", "\r\n", "\r\n", *map(chr, range(0x1C, 0x20)), "\x85", "\xa0",
          "\u1680", "\u180e", *map(chr, range(0x2000, 0x2010)), "\u2028", "\u2029", "\u202f", "\u205f", "\u2060",
          "\u3000", "\ufeff", "\0", "\x7f", "\u2581", "\u0120"]  # fmt: skip
_EMOJI = [*"👩👨👧👦🧑🏽🏿🏻❤☃♀♂⚕🏴🚀😶🫱🫲1#*", "\ufe0f", "\ufe0e", "\u200d", "\u200d", "\u200d", "\u20e3",
          *"🇫🇷🇩🇪", *map(chr, range(0xE0061, 0xE007B, 5)), "\U000e007f"]  # fmt: skip
# Ranges of a theme: letters and what combines with them.
_THEMES = {
    "Hangul": [(0x1100, 0x1113), (0x1161, 0x1176), (0x11A7, 0x11C3), (0xA960, 0xA97D), (0xD7B0, 0xD7FC),
               (0xAC00, 0xD7A4), (0x3131, 0x318F), (0xFFA0, 0xFFDD)],
    "Indic": [(0x0900, 0x0980), (0x0915, 0x093A), (0x094D, 0x094E), (0x0980, 0x0A00), (0x0B00, 0x0D80),
              (0x1B00, 0x1B80), (0xA980, 0xAA00), (0x11000, 0x11080), (0x200C, 0x200E)],
    "marks": [(0x61, 0x7B), (0x300, 0x370), (0x300, 0x316), (0x1AB0, 0x1AD0), (0x1DC0, 0x1E00), (0x20D0, 0x20F1),
              (0xFE20, 0xFE30), (0x591, 0x5C8), (0x64B, 0x660)],
    "compatibility": [(0xA0, 0x100), (0x132, 0x150), (0x1C4, 0x1F4), (0x340, 0x346), (0x958, 0x960), (0x1E00, 0x1F00),
                      (0x1F00, 0x2000), (0x2070, 0x20A0), (0x2100, 0x2190), (0x2460, 0x24FF), (0x3131, 0x318F),
                      (0x3200, 0x3400), (0xF900, 0xFB50), (0xFB50, 0xFE00), (0xFE30, 0xFF00), (0xFF00, 0xFFF0),
                      (0x1D400, 0x1D800), (0x1F100, 0x1F200), (0x2F800, 0x2FA1E), (0x300, 0x310)],
    "letters and digits": [(0x41, 0x5B), (0x61, 0x7B), (0x30, 0x3A), (0xC0, 0x180), (0x370, 0x400), (0x400, 0x500),
                           (0xB2, 0xBA), (0x2150, 0x218A), (0x660, 0x66A), (0x24B6, 0x24EA)],
    "ideographs": [(0x4E00, 0xA000), (0x4E00, 0x4F00), (0x3040, 0x3100), (0x3000, 0x3040), (0x20000, 0x20100),
                   (0x61, 0x7B)],
    "signs": [(0x20, 0x30), (0x3A, 0x41), (0x5B, 0x61), (0x7B, 0x7F), (0x2010, 0x2028), (0x2030, 0x205F),
              (0x2190, 0x2200)],
    "controls": [(0x00, 0x20), (0x7F, 0xA0), (0x200B, 0x2010), (0x2060, 0x2070), (0xFFF0, 0x10000),
                 (0xE0000, 0xE0080), (0x13430, 0x13440), (0x1D173, 0x1D17B), (0x61, 0x64)],
    "private and unassigned": [(0xE000, 0xF900), (0x5C8, 0x5D0), (0x378, 0x380), (0xF0000, 0xF0100),
                               (0x10FFF0, 0x110000), (0x2FE0, 0x2FF0), (0x1CF00, 0x1D000), (0x61, 0x64)],
    "everything": [(0x0, 0x110000)],
}  # fmt: skip
_MOST_REPEATED = 2_000  # characters


def kind_texts(seed: int) -> Iterator[str]:
    """Random texts as those of `random_texts`, half of them with pieces that matter to these tokenizers.

    :param seed: The same seed gives the same texts on every Python.
    :return: Without end.
    """
    draw = random.Random(seed).random
    for text in random_texts(seed):
        yield text
        parts = []
        for _ in range(1 + int(draw() * 6)):
            parts.append(_PIECES[int(draw() * len(_PIECES))])
            if draw() < 0.5:
                start = int(draw() * len(text))
                parts.append(text[start : start + int(draw() * 6)])
        yield "".join(parts)


class _Maker:
    """Makes texts of each sort.

    :param seed: The same seed and pieces give the same texts.
    :param pieces: Texts of tokens, to build words of.
    :param added: Contents of added tokens.
    """

    def __init__(self, seed: int, pieces: Sequence[str], added: Sequence[str]) -> None:
        self.draw = random.Random(seed).random
        self.pieces, self.added = pieces, [*added, *(one.upper() for one in added)]
        self.sentences = _sentences()
        self.mixed = kind_texts(seed)

    def pick(self, values: Sequence[str]) -> str:
        return values[int(self.draw() * len(values))]

    def below(self, number: int) -> int:
        return int(self.draw() * number)

    def character(self, ranges: Sequence[tuple[int, int]]) -> str:
        start, stop = ranges[self.below(len(ranges))]
        return chr(start + self.below(stop - start))

    def themed(self) -> str:
        """A few to some dozen characters of one theme, sometimes with blanks."""
        ranges = _THEMES[self.pick(tuple(_THEMES))]
        parts = [self.character(ranges) for _ in range(1 + self.below(24))]
        if self.draw() < 0.5:
            parts.insert(self.below(len(parts)), self.pick(_WHITE))
        return "".join(parts)

    def few(self) -> str:
        """Up to six different characters in many orders, so that pairs repeat."""
        alphabet = [self.character(_THEMES[self.pick(tuple(_THEMES))]) for _ in range(1 + self.below(4))]
        alphabet += [self.pick(_WHITE), self.pick("ab'rs1.")]
        return "".join(self.pick(alphabet) for _ in range(1 + self.below(40)))

    def emoji(self) -> str:
        """Sequences with joiners, skin tones, flags, tags and key caps, some broken."""
        return "".join(self.pick(_EMOJI) for _ in range(1 + self.below(14)))

    def white(self) -> str:
        """Runs of white space of all sorts around short words."""
        return "".join(
            self.pick(_WHITE) if self.draw() < 0.7 else self.pick(self.pieces)
            for _ in range(1 + self.below(12))
        )

    def words(self) -> str:
        """Words of tokens that need not belong together, with or without blanks between them."""
        between = self.pick(["", "", " ", "\n", "'", "-", "_"])
        return between.join(self.pick(self.pieces) for _ in range(1 + self.below(16)))

    def special(self) -> str:
        """Added tokens side by side, with a little between them."""
        parts = []
        for _ in range(1 + self.below(5)):
            parts.append(self.pick(self.added))
            parts.append(self.pick(["", "", self.pick(_WHITE), self.pick(self.pieces), self.few()[:4]]))
        text = "".join(parts)
        return text[self.below(3) :] if self.draw() < 0.3 else text

    def runs(self) -> str:
        """Runs of one character or piece: many ways to split them have the same score, or merge alike."""
        parts = []
        for _ in range(1 + self.below(3)):
            piece = self.pick([self.pick("-=*_#.~/ \t\n0aeи中"), self.pick(self.pieces), self.themed()[:1]])
            parts.append(piece * (2 + self.below(30)))
        return self.pick(["", " ", "a"]).join(parts)

    def long(self) -> str:
        """One piece repeated many times, or a very long word."""
        if self.draw() < 0.5:
            piece = (
                self.pick([self.pick(self.pieces), self.themed()[:3], self.pick(_WHITE), self.emoji()[:3]])
                or "a"
            )
            return piece * (1 + self.below(_MOST_REPEATED) // len(piece))
        return "".join(self.pick(self.pieces).strip() for _ in range(50 + self.below(200)))

    def edited(self) -> str:
        """A stretch of real text with a few changes."""
        sentence = self.pick(self.sentences)
        start = self.below(max(1, len(sentence) - 80))
        characters = list(sentence[start : start + 10 + self.below(110)])
        for _ in range(self.below(4)):
            at = self.below(len(characters) + 1)
            characters[at : at + self.below(3)] = self.pick(
                [
                    self.pick(_WHITE),
                    self.pick(self.added),
                    self.themed()[:2],
                    self.pick("\u0301\u0327\u200d\ufe0f'"),
                    "",
                ]
            )
        text = "".join(characters)
        change: Callable[[str], str] = (str, str, str.upper, str.swapcase, _decomposed, _composed)[
            self.below(6)
        ]
        return change(text)

    def any(self) -> str:
        """A text as `kind_texts` has it."""
        return next(self.mixed)

    def rows(self) -> Iterator[str]:
        """Texts of all sorts, without end; long ones are rare, since one of them costs as much as fifty others."""
        sorts = (
            self.themed,
            self.runs,
            self.few,
            self.emoji,
            self.white,
            self.words,
            self.special,
            self.edited,
            self.any,
        )
        for number in range(1 << 62):
            yield self.long() if number % 400 == 399 else sorts[number % len(sorts)]()


def hostile_texts(seed: int, pieces: Sequence[str], added: Sequence[str]) -> Iterator[str]:
    """Random texts of all sorts.

    :param seed: The same seed, pieces and version of Python give the same texts.
    :param pieces: Texts of tokens, to build words of.
    :param added: Contents of added tokens.
    :return: Without end.
    """
    return _Maker(seed, pieces, added).rows()


def _decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


@cache
def _sentences() -> list[str]:
    """Stretches of real text: declarations of human rights where ../shared is, and Python's own source."""
    library = Path(sysconfig.get_path("stdlib"))
    texts = [
        (library / name).read_text(encoding="utf-8")
        for name in ("argparse.py", "html/entities.py", "turtle.py")
    ]
    if UNICODE.is_dir():
        texts += declaration_texts()
    return [text[start : start + 500] for text in texts for start in range(0, min(len(text), 20_000), 500)]
