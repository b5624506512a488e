"""The order of steps that byte-pair and Unigram tokenizers share, as in `tokenizers`.

    text -> added tokens that are not normalised -> normaliser -> normalised added tokens -> words -> model

A kind of tokenizer says what its normaliser, its words and its model are; this file puts ids and offsets together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from .added_tokens import WHITE_SPACE, AddedToken, AddedTokens, Part
from .tokenizer import Tokenizer, without_surrogates
from .word_cache import WordCache

Span = tuple[int, int]

BYTE_SPACE = "\u0120"  # how byte-level vocabularies write a blank
_TRIMMED = WHITE_SPACE + BYTE_SPACE


class Setup(NamedTuple):
    """What all kinds of tokenizers are told besides their model."""

    size: int  # ids
    pad_id: int
    unk_id: int | None
    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    added_tokens: Sequence[AddedToken] = ()
    trim_offsets: bool = False  # offsets leave out the white space at both ends of a token
    second_type_id: int = 0
    decoder: str | None = None  # name in decoding.DECODERS


class Pipeline(Tokenizer):
    """A tokenizer of the steps above. Subclasses say what the methods below do, up to `__len__`.

    :param setup: Special ids and added tokens.
    """

    def __init__(self, setup: Setup) -> None:
        self.pad_id, self.unk_id = setup.pad_id, setup.unk_id
        self.prefix, self.middle, self.suffix = setup.prefix, setup.middle, setup.suffix
        self.second_type_id, self.decoder = setup.second_type_id, setup.decoder
        self._size = setup.size
        self._trims = setup.trim_offsets
        self._added = AddedTokens(setup.added_tokens, self.normalize)
        self._word_ids = WordCache(self.look_up).__getitem__
        self._texts: list[str] = []  # of the tokens, made at the first `decode`

    def normalize(self, text: str) -> str:
        """Normalise a text without added tokens.

        :param text: Any text without lone surrogates.
        :return: What the words are split from.
        """
        return text

    def align(self, text: str) -> tuple[str, Sequence[Span] | None]:
        """Normalise a text and tell where its characters come from.

        :param text: As for `normalize`.
        :return: What `normalize` gives, and for each of its characters the start and stop in `text` of what became it;
            None if each stands for itself.
        """
        return text, None

    def split(self, text: str) -> Iterable[str]:
        """Split a normalised text into words, on which the model works one by one.

        :param text: What `normalize` gave.
        :return: The words.
        """
        raise NotImplementedError

    def find_words(self, text: str) -> Iterator[Span]:
        """Find the words of a normalised text.

        :param text: What `normalize` gave.
        :return: Start and stop of each word that `split` gives.
        """
        raise NotImplementedError

    def look_up(self, word: str) -> Sequence[int]:
        """Give the ids of a word.

        :param word: A word that `split` gave.
        :return: Its ids.
        """
        raise NotImplementedError

    def locate(self, word: str, ids: Sequence[int]) -> Iterator[Span]:
        """Tell where the tokens of a word stand in it.

        :param word: A word that `split` gave.
        :param ids: Its ids.
        :return: For each id the start and stop of its characters in the word, without what trim_offsets leaves out.
        """
        raise NotImplementedError

    def learned_texts(self) -> Sequence[str]:
        """:return: The tokens of the model as the vocabulary writes them, at their ids; "" where there is none."""
        raise NotImplementedError

    def __len__(self) -> int:
        """:return: The number of ids."""
        return self._size

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._size} tokens)"

    def special_text(self, number: int) -> str:
        return next(
            (token.content for token in self._added.tokens if token.id == number and token.special), ""
        )

    def token_texts(self) -> Sequence[str]:
        if not self._texts:
            texts = [*self.learned_texts()]
            texts += [""] * (self._size - len(texts))
            for token in self._added.tokens:
                texts[token.id] = token.content
            self._texts = texts
        return self._texts

    def special_texts(self) -> Collection[str]:
        return {token.content for token in self._added.tokens if token.special}

    def encode(self, text: str) -> list[int]:
        return [*self.prefix, *chain.from_iterable(self._runs(text)), *self.suffix]

    def count(self, text: str) -> int:
        return self.added_count + sum(map(len, self._runs(text)))

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span]]:
        ids: list[int] = []
        spans: list[Span] = []
        text = without_surrogates(text)
        for part in self._exact_parts(text):
            if part.id is not None:
                ids.append(part.id)
                spans.append(self._trimmed(text[part.start : part.stop], part.start, part.stop))
                continue
            normal, sources = self.align(text[part.start : part.stop])
            for token, start, stop in self._locate_part(normal):
                if sources is not None:
                    start, stop = sources[start][0], sources[stop - 1][1]
                ids.append(token)
                spans.append((part.start + start, part.start + stop))
        before, after = [(0, 0)] * len(self.prefix), [(0, 0)] * len(self.suffix)
        return [*self.prefix, *ids, *self.suffix], [*before, *spans, *after]

    def _runs(self, text: str) -> Iterator[Sequence[int]]:
        """Ids of a text, some at a time, without prefix and suffix."""
        text = without_surrogates(text)
        for part in self._exact_parts(text):
            if part.id is not None:
                yield (part.id,)
                continue
            normal = self.normalize(text[part.start : part.stop])
            for inner in self._normalized_parts(normal):
                if inner.id is not None:
                    yield (inner.id,)
                else:
                    yield from map(self._word_ids, self.split(normal[inner.start : inner.stop]))

    def _locate_part(self, normal: str) -> Iterator[tuple[int, int, int]]:
        """Id, start and stop of each token in a normalised text."""
        for part in self._normalized_parts(normal):
            if part.id is not None:
                yield (part.id, *self._trimmed(normal[part.start : part.stop], part.start, part.stop))
                continue
            inner = normal[part.start : part.stop]
            for first, last in self.find_words(inner):
                word = inner[first:last]
                ids = self._word_ids(word)
                base = part.start + first
                for token, (start, stop) in zip(ids, self.locate(word, ids), strict=True):
                    yield token, base + start, base + stop

    def _exact_parts(self, text: str) -> list[Part]:
        return _parts(text) if self._added.exact is None else self._added.exact.split(text)

    def _normalized_parts(self, text: str) -> list[Part]:
        return _parts(text) if self._added.normalized is None else self._added.normalized.split(text)

    def _trimmed(self, token: str, start: int, stop: int) -> Span:
        if not self._trims:
            return start, stop
        leading, trailing = (
            len(token) - len(rest) for rest in (token.lstrip(_TRIMMED), token.rstrip(_TRIMMED))
        )
        return trim(start, stop, leading, trailing)


def trim(start: int, stop: int, leading: int, trailing: int) -> Span:
    """Leave white space at the ends of a token out of its offsets, as the byte-level post-processor does.

    :param start: Where the token starts.
    :param stop: Where it ends.
    :param leading: Characters of white space at its start.
    :param trailing: The same at its end.
    :return: Start and stop of what is left; the stop twice if nothing is.
    """
    start = min(start + leading, stop)
    return start, max(stop - trailing, start) if stop >= trailing else stop


def _parts(text: str) -> list[Part]:
    return [Part(None, 0, len(text))] if text else []
