"""Byte-pair encoding: pairs of symbols are merged, the pair that was learned first before all others.

Two kinds of symbols and words, after the pipelines of jina-embeddings-v2-base-de, -es, -code (bytes; words by GPT-2's
expression) and of base-zh (characters in lower case; words are runs of word characters or of other signs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from heapq import heapify, heappop, heappush
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from .added_tokens import WHITE_SPACE
from .character_classes import LETTER, NUMBER, WORD, ranges, reach
from .decoding import byte_signs
from .pipeline import Pipeline, Setup, Span, trim

if TYPE_CHECKING:
    import re

_MOST_SCANNED = 128  # symbols; in longer words a heap finds the next pair faster than a scan
_BLOCK = 65_536  # characters split into words at a time
_BLANK = 0x20
_DOTTED_I = "\u0130"  # the one character whose lower case is two characters

# Space as the library's expressions have it, for use between brackets; Python's \s also has U+001C to U+001F.
_SPACES = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


class Merges(NamedTuple):
    """What was learned: symbols, and the pairs that become one symbol, those with the same left symbol together."""

    alphabet: Mapping[str, int]  # symbol -> id; of bytes, U+0000 to U+00FF stand for them
    starts: Sequence[int]  # of each id: where the pairs start that it is left in; one more for their end
    rights: Sequence[int]  # right id of each pair
    ranks: Sequence[int]  # of each pair: the lower the sooner
    merged: Sequence[int]  # id of what the pair of each rank becomes
    lengths: Sequence[int]  # symbols of each id
    other: Mapping[int, str]  # id -> text of the tokens that no merge gives


class _Ranks(dict[int, dict[int, int]]):
    """Left id -> right id -> rank. Filled as ids are met, since little of a vocabulary of 61,000 is used at once.

    Safe from several threads.

    :param merges: The pairs.
    """

    __slots__ = ("_merges",)

    def __init__(self, merges: Merges) -> None:
        super().__init__()
        self._merges = merges

    def __missing__(self, left: int) -> dict[int, int]:
        _, starts, rights, ranks, *_ = self._merges
        own = slice(starts[left], starts[left + 1])
        found = self[left] = dict(zip(rights[own], ranks[own], strict=True))
        return found


def _whitespace(most: int) -> str:
    """Words of the Whitespace pre-tokenizer, as an expression for text up to a code point."""
    word = ranges(WORD, most)
    return rf"[{word}]+|[^{word}{_SPACES}]+"


def _byte_level(most: int) -> str:
    """Words of the ByteLevel pre-tokenizer: GPT-2's expression. A blank belongs to the word after it."""
    letter, number = ranges(LETTER, most), ranges(NUMBER, most)
    return (
        rf"'s|'t|'re|'ve|'m|'ll|'d| ?[{letter}]+| ?[{number}]+| ?[^{_SPACES}{letter}{number}]+"
        rf"|[{_SPACES}]+(?![^{_SPACES}])|[{_SPACES}]+"
    )


class BytePair(Pipeline):
    """Byte-pair encoding over the characters of words. Safe from several threads.

    :param setup: Special ids and added tokens; unk_id is what a character outside the alphabet becomes.
    :param merges: Alphabet and pairs.
    :param lower_case: Lower-case each character first.
    """

    _words = staticmethod(_whitespace)

    def __init__(self, setup: Setup, merges: Merges, *, lower_case: bool = False) -> None:
        self._merges = merges
        self._symbols, self._merged, self._lengths = merges.alphabet, merges.merged, merges.lengths
        self._ranks = _Ranks(merges)
        self._unknown = -1 if setup.unk_id is None else setup.unk_id
        self.lower_case = lower_case
        super().__init__(setup)

    def normalize(self, text: str) -> str:
        return _lowered(text) if self.lower_case else text

    def align(self, text: str) -> tuple[str, Sequence[Span] | None]:
        if not self.lower_case or _DOTTED_I not in text:
            return self.normalize(text), None
        spans = [(at, at + 1) for at, one in enumerate(text) for _ in range(1 + (one == _DOTTED_I))]
        return self.normalize(text), spans

    def split(self, text: str) -> Iterable[str]:
        words = _expression(self._words, reach(text)).findall
        return words(text) if len(text) <= _BLOCK else chain.from_iterable(map(words, _blocks(text)))

    def find_words(self, text: str) -> Iterator[Span]:
        return (match.span() for match in _expression(self._words, reach(text)).finditer(text))

    def symbol_texts(self) -> Iterable[str]:
        """:return: The symbols of the alphabet as the vocabulary writes them."""
        return self._symbols

    def learned_texts(self) -> Sequence[str]:
        texts = [""] * len(self._lengths)
        for text, number in zip(self.symbol_texts(), self._symbols.values(), strict=True):
            texts[number] = text
        for number, text in self._merges.other.items():
            texts[number] = text
        pairs = [(0, 0)] * len(self._merged)
        for left, (start, stop) in enumerate(pairwise(self._merges.starts)):
            for place in range(start, stop):
                pairs[self._merges.ranks[place]] = left, self._merges.rights[place]
        for (left, right), number in zip(pairs, self._merged, strict=True):
            if texts[left] and texts[right] and not texts[number]:
                texts[number] = texts[left] + texts[right]
        return texts

    def look_up(self, word: str) -> Sequence[int]:
        symbol, unknown = self._symbols.get, self._unknown
        return self._merge([symbol(one, unknown) for one in word])

    def locate(self, word: str, ids: Sequence[int]) -> Iterator[Span]:
        start = 0
        for token in ids:
            stop = start + self._lengths[token]
            yield (start, stop) if token == self.unk_id else self._trimmed(word[start:stop], start, stop)
            start = stop

    def _merge(self, ids: list[int]) -> list[int]:
        """Merge the symbols of a word, in place where it is short."""
        if len(ids) > _MOST_SCANNED:
            return self._merge_by_heap(ids)
        merged, after = self._merged, self._ranks
        never = len(merged)
        ranks = [after[left].get(right, never) for left, right in pairwise(ids)]
        while ranks:
            lowest = min(ranks)
            if lowest == never:
                break
            at = ranks.index(lowest)  # of equal pairs the leftmost
            ids[at] = new = merged[lowest]
            del ids[at + 1], ranks[at]
            if at:
                ranks[at - 1] = after[ids[at - 1]].get(new, never)
            if at < len(ranks):
                ranks[at] = after[new].get(ids[at + 1], never)
        return ids

    def _merge_by_heap(self, ids: list[int]) -> list[int]:
        """Merge the symbols of a long word: n log n.

        The heap holds pairs as rank and place; one that has changed since it was put there is skipped.
        """
        merged, ranks = self._merged, self._ranks
        end = len(ids)
        after, before = list(range(1, end + 1)), list(range(-1, end - 1))
        heap = []
        for at, (left, right) in enumerate(pairwise(ids)):
            if (number := ranks[left].get(right)) is not None:
                heap.append(number << 32 | at)
        heapify(heap)
        while heap:
            lowest = heappop(heap)
            number, at = lowest >> 32, lowest & 0xFFFFFFFF
            right = after[at]
            if ids[at] < 0 or right == end or ranks[ids[at]].get(ids[right]) != number:
                continue
            ids[at] = new = merged[number]
            ids[right] = -1  # gone
            after[at] = following = after[right]
            if following < end:
                before[following] = at
                if (number := ranks[new].get(ids[following], -1)) >= 0:
                    heappush(heap, number << 32 | at)
            if (previous := before[at]) >= 0 and (number := ranks[ids[previous]].get(new, -1)) >= 0:
                heappush(heap, number << 32 | previous)
        return [token for token in ids if token >= 0]


class ByteLevelBytePair(BytePair):
    """Byte-pair encoding over the UTF-8 bytes of words, so that no text is unknown. Safe from several threads.

    :param setup: Special ids and added tokens.
    :param merges: The alphabet has all of U+0000 to U+00FF, which stand for bytes.
    :param lower_case: Lower-case each character first.
    """

    _words = staticmethod(_byte_level)

    def __init__(self, setup: Setup, merges: Merges, *, lower_case: bool = False) -> None:
        self._byte_ids = [merges.alphabet[chr(byte)] for byte in range(256)]
        super().__init__(setup, merges, lower_case=lower_case)

    def symbol_texts(self) -> Iterable[str]:
        signs = byte_signs()
        return [signs[ord(symbol)] for symbol in self._symbols]

    def look_up(self, word: str) -> Sequence[int]:
        return self._merge(list(map(self._byte_ids.__getitem__, word.encode())))

    def locate(self, word: str, ids: Sequence[int]) -> Iterator[Span]:
        data = word.encode()
        places = range(len(data)) if len(data) == len(word) else _places(word)
        first = 0
        for token in ids:
            last = first + self._lengths[token]
            start, stop = places[first], places[last - 1] + 1
            if self._trims and (data[first] == _BLANK or data[last - 1] == _BLANK):
                # Only blanks count: the bytes of other white space are written as visible signs.
                piece = data[first:last]
                leading, trailing = (
                    len(piece) - len(rest) for rest in (piece.lstrip(b" "), piece.rstrip(b" "))
                )
                start, stop = trim(start, stop, leading, trailing)
            yield start, stop
            first = last


@cache
def _expression(words: Callable[[int], str], most: int) -> re.Pattern[str]:
    """Compile an expression for text up to a code point: the fewer ranges, the faster."""
    import re

    return re.compile(words(most))


def _places(word: str) -> list[int]:
    """For each UTF-8 byte of a word the index of its character."""
    return [at for at, character in enumerate(word) for _ in character.encode()]


@cache
def _lower_case() -> dict[int, str]:
    from .character_classes import lower_case_table

    return lower_case_table()


def _lowered(text: str) -> str:
    return text.lower() if text.isascii() else text.translate(_lower_case())


def _blocks(text: str) -> Iterator[str]:
    """A text in parts of about _BLOCK characters, cut before single blanks, where a word ends in either expression."""
    start = 0
    while len(text) - start > _BLOCK:
        at = start + _BLOCK
        while (at := text.find(" ", at, len(text) - 1)) >= 0:
            if text[at - 1] not in WHITE_SPACE and text[at + 1] not in WHITE_SPACE:
                break
            at += 1
        if at < 0:
            break
        yield text[start:at]
        start = at
    yield text[start:]


def make_byte_pair(
    setup: Setup, tables: Mapping[str, Any], *, byte_level: bool, lower_case: bool
) -> BytePair:
    """Make a tokenizer of what tokenizer.bin holds.

    :param setup: Special ids and added tokens.
    :param tables: What `read_tables` gave.
    :param byte_level: Over bytes, not characters.
    :param lower_case: Lower-case each character first.
    :return: The tokenizer.
    :raises KeyError, ValueError: The tables do not fit together.
    """
    count = len(tables["merged"])
    if len(tables["rights"]) != count or len(tables["ranks"]) != count or tables["starts"][-1] != count:
        raise ValueError
    if setup.unk_id is None and not byte_level:
        raise ValueError
    ends = list(accumulate(tables["other_lengths"]))
    other = [tables["other"][start:stop] for start, stop in zip([0, *ends], ends, strict=False)]
    merges = Merges(
        dict(zip(tables["alphabet"], tables["alphabet_ids"], strict=True)),
        tables["starts"],
        tables["rights"],
        tables["ranks"],
        tables["merged"],
        tables["lengths"],
        dict(zip(tables["other_ids"], other, strict=True)),
    )
    return (ByteLevelBytePair if byte_level else BytePair)(setup, merges, lower_case=lower_case)
