"""T5's Unigram: a text becomes the pieces with the highest sum of scores (log probabilities).

The pipeline is that of the published T5 files as `tokenizers` runs it: charsmap (charsmap.py), words between white
space, U+2581 put before each, then the best path through the pieces. sentencepiece itself differs in rare cases; the
library is the reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from math import inf
from typing import Any, NamedTuple

from .added_tokens import WHITE_SPACE
from .charsmap import Charsmap
from .pipeline import Pipeline, Setup, Span

SPACE_SIGN = "\u2581"  # stands before each word

_UNKNOWN_PENALTY = 10.0  # an unknown character scores so much less than the lowest piece
_NO_BREAKS = ("\x1c", "\x1d", "\x1e", "\x1f")  # str.split breaks at these, the library does not


class Pieces(NamedTuple):
    """What was learned."""

    ids: Mapping[str, int]  # piece -> id
    scores: Sequence[float]  # of each id
    lengths: Sequence[int]  # of each id, in characters
    longest: Mapping[str, int]  # first two characters of a piece -> characters of the longest such piece


class Unigram(Pipeline):
    """A Unigram model with T5's pipeline. Safe from several threads.

    :param setup: Special ids and added tokens; unk_id is what unknown characters become, neighbours together.
    :param pieces: Pieces and scores.
    :param charsmap: The normaliser; None for none.
    """

    def __init__(self, setup: Setup, pieces: Pieces, charsmap: Charsmap | None) -> None:
        if setup.unk_id is None:
            raise ValueError("unk_id is missing")
        self._unknown = setup.unk_id
        self._ids, self._scores, self._lengths, self._longest = pieces
        self._unknown_score = min(pieces.scores) - _UNKNOWN_PENALTY
        self._charsmap = charsmap
        super().__init__(setup)

    def normalize(self, text: str) -> str:
        return text if self._charsmap is None else self._charsmap.normalize(text)

    def align(self, text: str) -> tuple[str, Sequence[Span] | None]:
        return (text, None) if self._charsmap is None else self._charsmap.align(text)

    def split(self, text: str) -> Iterable[str]:
        for character in _NO_BREAKS:
            if character in text:
                return (text[start:stop] for start, stop in self.find_words(text))
        return text.split()

    def find_words(self, text: str) -> Iterator[Span]:
        import re

        return (match.span() for match in re.finditer(f"[^{WHITE_SPACE}]+", text))

    def learned_texts(self) -> Sequence[str]:
        return list(self._ids)

    def look_up(self, word: str) -> Sequence[int]:
        return [token for token, _ in self._tokens(word)]

    def locate(self, word: str, ids: Sequence[int]) -> Iterator[Span]:
        shift = (
            0 if word.startswith(SPACE_SIGN) else 1
        )  # the sign before the word stands at its first character
        known = self._unknown not in ids
        start = 0
        for length in (
            map(self._lengths.__getitem__, ids) if known else [size for _, size in self._tokens(word)]
        ):
            stop = start + length
            yield max(start - shift, 0), max(stop - shift, 1)
            start = stop

    def _tokens(self, word: str) -> Iterable[tuple[int, int]]:
        """Give id and length of each piece of a word, the sign before it counted."""
        if not word.startswith(SPACE_SIGN):
            word = SPACE_SIGN + word
        if word.rfind(SPACE_SIGN) == 0:
            return self._best_path(word)
        parts = word.split(SPACE_SIGN)[1:]
        return chain.from_iterable(self._best_path(SPACE_SIGN + part) for part in parts)

    def _best_path(self, text: str) -> list[tuple[int, int]]:
        """Find the pieces with the highest sum of scores (Viterbi); of equal sums the one with the longer last piece.

        :param text: At least one character.
        :return: Id and length of each piece.
        """
        find, scores, longest, unknown = self._ids.get, self._scores, self._longest.get, self._unknown
        size = len(text)
        best = [-inf] * (size + 1)  # sum of the best path to each place
        best[0] = 0.0
        starts, tokens = [0] * (size + 1), [0] * (size + 1)  # of its last piece
        for start in range(size):
            reached = best[start]
            after = start + 1
            single = False
            for stop in range(after, min(size, start + longest(text[start : start + 2], 1)) + 1):
                token = find(text[start:stop])
                if token is not None:
                    single |= stop == after
                    if (total := scores[token] + reached) > best[stop]:
                        best[stop], starts[stop], tokens[stop] = total, start, token
            if not single and (total := self._unknown_score + reached) > best[after]:
                best[after], starts[after], tokens[after] = total, start, unknown
        path: list[tuple[int, int]] = []
        stop = size
        while stop:
            token, last = tokens[stop], stop
            stop = starts[stop]
            if token == unknown:
                while stop and tokens[stop] == unknown:  # neighbours are one token
                    stop = starts[stop]
                token = find(text[stop:last], unknown)
            path.append((token, last - stop))
        path.reverse()
        return path


def make_unigram(setup: Setup, tables: Mapping[str, Any]) -> Unigram:
    """Make a tokenizer of what tokenizer.bin holds.

    :param setup: Special ids and added tokens.
    :param tables: What `read_tables` gave.
    :return: The tokenizer.
    :raises KeyError, ValueError: The tables do not fit together.
    """
    names = tables["pieces"].split("\n")
    starts = tables["starts"]  # two characters each
    pieces = Pieces(
        dict(zip(names, range(len(tables["scores"])), strict=True)),
        tables["scores"].tolist(),
        tables["lengths"],
        dict(zip(map("".join, zip(starts[::2], starts[1::2], strict=True)), tables["longest"], strict=True)),
    )
    charsmap = tables["charsmap"].tobytes()
    return Unigram(setup, pieces, Charsmap(charsmap) if charsmap else None)
