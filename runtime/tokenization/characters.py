"""What BERT's normaliser and pre-tokenizer do with a text, character by character.

`tokenizers` cleans (control characters go, every white space becomes a blank), puts blanks around ideographs,
decomposes (NFD), drops accents (nonspacing marks), lower-cases, and then splits at blanks and around punctuation.
All of it can be said of each character alone, so a table from character to text does the whole of it in one
`str.translate`, which leaves words parted by blanks. The exception is the canonical order of the few combining
characters that are not dropped: `align` sorts those.

Python's unicodedata is not asked, since its version changes with the interpreter. Text in ASCII needs no table;
the first other character unpacks runtime/tokenization/unicode_tables.py, in less than 2 ms.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, chain, groupby

REMOVED, SPACE, IDEOGRAPH, PUNCTUATION, MARK = range(1, 6)

# Stands before a combining character that is kept, and so may have to change places; nothing else becomes U+FFFD.
MOVABLE = "\ufffd"

_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_SEPARATOR = "\U0010fffe"
_MOST_CHARACTERS = 16_384  # what a table remembers: more than one text's scripts need, 2 MB at most


class Tables:
    """unicode_tables.py unpacked: for each code point from U+0080 its kind, fold and combining class."""

    __slots__ = ("classes", "edges", "folds", "kinds")

    def __init__(self) -> None:
        from binascii import a2b_base64
        from zlib import decompress

        from .unicode_tables import PACKED

        sections = decompress(a2b_base64(PACKED)).decode("utf-8", "surrogatepass").split(_SEPARATOR)
        kinds, single, single_folds, several, several_folds, classes = sections
        # Runs of one kind, ascending: edges[2 * n] to edges[2 * n + 1] (exclusive) is of kinds[n].
        self.edges = _edges(kinds)
        self.kinds = kinds[2::3]
        self.folds: dict[int, str] = dict(zip(_codes(single), single_folds, strict=True))
        self.folds.update(zip(_codes(several), several_folds.split(" "), strict=True))
        self.classes: dict[int, int] = {}  # canonical combining class, where it is not 0
        edges = _edges(classes)
        for start, stop, number in zip(edges[::2], edges[1::2], classes[2::3], strict=True):
            self.classes.update(dict.fromkeys(range(start, stop), ord(number)))

    def kind(self, code: int) -> int:
        """Return REMOVED, SPACE, IDEOGRAPH, PUNCTUATION, MARK, or 0 for a character that is none of them."""
        run, outside = divmod(bisect_right(self.edges, code) - 1, 2)
        return 0 if outside else ord(self.kinds[run])

    def fold(self, code: int) -> str:
        """Return the character decomposed, without its accents, in lower case."""
        if 0xAC00 <= code < 0xD7A4:  # Hangul syllables: the Unicode standard's arithmetic, section 3.12
            block, trailing = divmod(code - 0xAC00, 28)
            leading, vowel = divmod(block, 21)
            jamo = chr(0x1100 + leading) + chr(0x1161 + vowel)
            return jamo + chr(0x11A7 + trailing) if trailing else jamo
        return self.folds.get(code) or chr(code)


def _edges(section: str) -> list[int]:
    """Start and stop (exclusive) of each run; stored as gap since the last stop, length, value."""
    return list(
        accumulate(chain.from_iterable(zip(map(ord, section[::3]), map(ord, section[1::3]), strict=True)))
    )


def _codes(section: str) -> accumulate[int]:
    """Code points that are stored as the distance from the one before."""
    return accumulate(map(ord, section))


_tables: Tables | None = None


def tables() -> Tables:
    """Return the tables, unpacked at the first call.

    Two threads may both unpack; either result will do.
    """
    global _tables
    if _tables is None:
        _tables = Tables()
    return _tables


class CharacterTable(dict[int, str]):
    """Code point -> the text that stands for it, blanks parting words: "É" -> "e", "!" -> " ! ", U+0301 -> "".

    A table for `str.translate`, filled as characters are met. Safe from several threads.

    :param lower_case: Also decompose, drop accents and lower-case, as uncased BERT does.
    :param split: Put blanks around punctuation too; without it the text is what the normaliser alone makes.
    """

    __slots__ = ("lower_case", "split")

    def __init__(self, *, lower_case: bool = True, split: bool = True) -> None:
        super().__init__()
        self.lower_case = lower_case
        self.split = split

    def __missing__(self, code: int) -> str:
        text = self._ascii(chr(code)) if code < 0x80 else self._other(code)
        if len(self) >= _MOST_CHARACTERS:
            self.clear()
        self[code] = text
        return text

    def _ascii(self, character: str) -> str:
        if character in _ASCII_PUNCTUATION:
            return self._punctuation(character)
        if character in " \t\n\r":
            return " "
        if not character.isprintable():
            return ""
        return character.lower() if self.lower_case else character

    def _other(self, code: int) -> str:
        known = tables()
        kind = known.kind(code)
        if kind == REMOVED:
            return ""
        if kind == SPACE:
            return " "
        if not self.lower_case:
            text = chr(code)
            return (
                f" {text} " if kind == IDEOGRAPH else self._punctuation(text) if kind == PUNCTUATION else text
            )
        if kind == MARK:
            return ""
        text = "".join(self._part(part, known) for part in known.fold(code))
        return f" {text} " if kind == IDEOGRAPH else text

    def _part(self, part: str, known: Tables) -> str:
        """One character of a fold, after which `tokenizers` looks for punctuation and not before."""
        code = ord(part)
        if part in _ASCII_PUNCTUATION or (code >= 0x80 and known.kind(code) == PUNCTUATION):
            return self._punctuation(part)
        return MOVABLE + part if code in known.classes else part

    def _punctuation(self, character: str) -> str:
        return f" {character} " if self.split else character

    def normalize(self, text: str) -> str:
        """The whole of normalisation and the split into words.

        :param text: Any text without special tokens.
        :return: Its words and punctuation, normalised, between blanks.
        """
        normal = text.translate(self)
        return "".join(self.align(text)) if MOVABLE in normal else normal

    def align(self, text: str) -> list[str]:
        """What stands for each character of a text, with combining characters in canonical order.

        Where sorting moves a character, `tokenizers` leaves the positions in the original as they were and moves
        the characters over them; so does this.

        :param text: Any text without special tokens.
        :return: One text, maybe empty, for each character; joined they give what `normalize` does.
        """
        texts = [self[ord(character)] for character in text]
        if MOVABLE not in "".join(texts):
            return texts
        known = tables()
        positions = [at for at, one in enumerate(text) if not _is_removed(one, known)]
        # What NFD sorts: combining class, whether it takes the next position in the original, what is left of it.
        items: list[tuple[int, bool, str]] = []
        for at in positions:
            left = texts[at].replace(MOVABLE, "")
            if number := known.classes.get(ord(text[at]), 0):
                items.append((number, True, left))
            else:
                items.append((0, True, ""))
                items += [(known.classes.get(ord(one), 0), False, one) for one in left]
        aligned = [""] * len(texts)
        following = iter(positions)
        at = 0
        for fixed, run in groupby(items, key=lambda item: item[0] == 0):
            for _, takes_position, left in run if fixed else sorted(run, key=lambda item: item[0]):
                if takes_position:
                    at = next(following)
                aligned[at] += left
        return aligned


def _is_removed(character: str, known: Tables) -> bool:
    """Whether cleaning drops it, so that combining characters on its two sides meet."""
    code = ord(character)
    if code < 0x80:
        return not (character.isprintable() or character in "\t\n\r")
    return known.kind(code) == REMOVED
