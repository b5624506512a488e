"""WordPiece as `tokenizers` does it for BERT: the same ids, the same offsets, in Python alone.

Splitting at white space comes first, because everything else in BERT's normalisation stays within what lies between
blanks. So each such chunk ("week.", "The") can be looked up in a cache, and most text costs one dictionary access a
word. What the cache does not know goes through runtime/tokenization/characters.py and the greedy longest match.

Truncation and pairs of texts: tokenizer.py. Padding and batches: runtime/batching.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from os import PathLike

from runtime.errors import ModelError

from .characters import CharacterTable
from .tokenizer import Tokenizer
from .vocabulary import Vocabulary
from .word_cache import WordCache

_SPECIAL = ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")  # taken literally wherever they stand in a text
_LONGEST_WORD = 100  # characters; a longer word is [UNK]
_CONTINUED = "##"

_BLOCK = 65_536  # characters split at a time: a line of 10 MB does not become 2 million strings at once

# str.split breaks at these, `tokenizers` drops them, as it drops NUL.
_NO_BREAKS = ("\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x85")


class WordPiece(Tokenizer):
    """A WordPiece vocabulary and what it makes of texts. Safe from several threads.

    :param tokens: The vocabulary; a token's index is its id.
    :param lower_case: Lower-case and drop accents first, as uncased BERT does.
    :raises ModelError: [PAD], [UNK], [CLS] or [SEP] is not among the tokens.
    """

    unk_id: int
    second_type_id = 1
    decoder = "wordpiece"

    def __init__(self, tokens: Sequence[str] | Vocabulary, *, lower_case: bool = True) -> None:
        self._vocabulary = tokens if isinstance(tokens, Vocabulary) else Vocabulary(tokens)
        special = {token: self._vocabulary.get(token) for token in _SPECIAL}
        missing = [token for token, number in special.items() if number is None and token != "[MASK]"]
        if missing:
            raise ModelError(
                f"vocabulary of {len(self)} tokens lacks {', '.join(missing)}: not a BERT WordPiece vocabulary; "
                "use the vocab.txt that the model was trained with"
            )
        self._special = {token: number for token, number in special.items() if number is not None}
        self.pad_id = self._special["[PAD]"]
        self.unk_id = self._special["[UNK]"]
        self.cls_id = self._special["[CLS]"]
        self.sep_id = self._special["[SEP]"]
        self.prefix, self.middle, self.suffix = (self.cls_id,), (self.sep_id,), (self.sep_id,)
        self.lower_case = lower_case
        self._characters = CharacterTable(lower_case=lower_case)
        self._chunk_ids = WordCache(self._look_up).__getitem__

    @classmethod
    def from_file(cls, path: str | PathLike[str], *, lower_case: bool = True) -> WordPiece:
        """Read vocab.txt: UTF-8, one token a line, the line's number from 0 is the id.

        :param path: The file.
        :param lower_case: As for the class.
        :return: The tokenizer.
        :raises ModelError: The file cannot be read, is not UTF-8, or lacks one of the special tokens.
        """
        vocabulary = Vocabulary.from_file(path)
        try:
            return cls(vocabulary, lower_case=lower_case)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None

    def __len__(self) -> int:
        """Return the number of tokens in the vocabulary."""
        return len(self._vocabulary)

    def __repr__(self) -> str:
        return f"WordPiece({len(self)} tokens, lower_case={self.lower_case})"

    def encode(self, text: str) -> list[int]:
        """The ids of a text, [CLS] first and [SEP] last, not truncated.

        :param text: Any str. A lone surrogate counts as U+FFFD, which is dropped; a literal [SEP] becomes its id.
        :return: At least two ids.
        """
        return [self.cls_id, *chain.from_iterable(map(self._chunk_ids, _chunks(_steady(text)))), self.sep_id]

    def count(self, text: str) -> int:
        """The number of ids of a text, without making their list.

        :param text: Any str.
        :return: The length of `encode(text)`.
        """
        return 2 + sum(map(len, map(self._chunk_ids, _chunks(_steady(text)))))

    def special_text(self, number: int) -> str:
        return next((token for token, own in self._special.items() if own == number), "")

    def token_texts(self) -> Sequence[str]:
        return self._vocabulary.tokens()

    def special_texts(self) -> Collection[str]:
        return self._special

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a text and where each stands in it. Several times slower than `encode`.

        :param text: Any str.
        :return: The ids of `encode`, and for each the indices in `text` of its first character and of the one after
            its last; (0, 0) for the added [CLS] and [SEP].
        """
        ids, offsets = [self.cls_id], [(0, 0)]
        block_start = 0
        for block in _blocks(_steady(text)):
            stop = 0
            for chunk in block.split():
                start = block.index(chunk, stop)
                stop = start + len(chunk)
                for number, first, last in self._locate(chunk, block_start + start):
                    ids.append(number)
                    offsets.append((first, last))
            block_start += len(block)
        ids.append(self.sep_id)
        offsets.append((0, 0))
        return ids, offsets

    def _look_up(self, chunk: str) -> list[int]:
        """Ids of a text without white space, which the cache does not hold."""
        if chunk.isascii() and chunk.isalnum():  # an ordinary word: its characters stand for themselves
            return self._word_ids(chunk.lower() if self.lower_case else chunk)
        ids: list[int] = []
        for part in self._split_at_special(chunk):
            if part in self._special:
                ids.append(self._special[part])
            else:
                for word in _chunks(self._characters.normalize(part)):
                    ids += self._word_ids(word)
        return ids

    def _word_ids(self, word: str) -> list[int]:
        """Ids of a normalised word."""
        number = self._vocabulary.get(word)
        if number is None or len(word) > _LONGEST_WORD:
            return [number for number, _ in self.pieces(word)]
        return [number]

    def _locate(self, chunk: str, position: int) -> Iterator[tuple[int, int, int]]:
        """Id, start and stop of each token of a text without white space that starts at a position of the whole."""
        if chunk.isascii() and chunk.isalnum():
            start = position
            for number, length in self.pieces(chunk.lower() if self.lower_case else chunk):
                yield number, start, position + length
                start = position + length
            return
        for part in self._split_at_special(chunk):
            if part in self._special:
                yield self._special[part], position, position + len(part)
            else:
                yield from self._locate_words(part, position)
            position += len(part)

    def _locate_words(self, part: str, position: int) -> Iterator[tuple[int, int, int]]:
        """The same for a text without special tokens."""
        word: list[str] = []  # characters
        places: list[int] = []  # where in the whole text each stands
        for place, text in enumerate(chain(self._characters.align(part), " "), position):
            for character in text:
                if character != " ":
                    if len(word) <= _LONGEST_WORD:
                        word.append(character)
                        places.append(place)
                    else:  # [UNK] already, only its end still matters
                        places[-1] = place
                elif word:
                    start = 0
                    for number, stop in self.pieces("".join(word)):
                        yield number, places[start], places[stop - 1] + 1
                        start = stop
                    word.clear()
                    places.clear()

    def _split_at_special(self, chunk: str) -> list[str]:
        """A text cut before and after each special token in it. No two can overlap, so their order is free."""
        parts = [chunk]
        if "[" in chunk:
            for token in self._special:
                if token in chunk:
                    parts = [piece for part in parts for piece in _interleave(part.split(token), token)]
        return parts

    def pieces(self, word: str) -> list[tuple[int, int]]:
        """Greedy longest match.

        :param word: A normalised word of at least one character.
        :return: The id of each piece and the index in the word after its end; [UNK] for the whole word if some part
            of it matches nothing.
        """
        length = len(word)
        if length > _LONGEST_WORD:
            return [(self.unk_id, length)]
        get = self._vocabulary.get
        if (number := get(word)) is not None:
            return [(number, length)]
        most = self._vocabulary.longest or length
        pieces = []
        start, prefix = 0, ""
        while start < length:
            for stop in range(min(length, start + most), start, -1):
                if (number := get(prefix + word[start:stop])) is not None:
                    break
            else:
                return [(self.unk_id, length)]
            pieces.append((number, stop))
            start, prefix = stop, _CONTINUED
        return pieces


def _interleave(parts: list[str], between: str) -> list[str]:
    joined = [between] * (2 * len(parts) - 1)
    joined[::2] = parts
    return joined


def _steady(text: str) -> str:
    """A text of the same length and tokens that str.split breaks where `tokenizers` does."""
    for character in _NO_BREAKS:
        if character in text:
            text = text.replace(character, "\0")
    return text


def _chunks(text: str) -> Iterable[str]:
    """What lies between white space."""
    return text.split() if len(text) <= _BLOCK else chain.from_iterable(map(str.split, _blocks(text)))


def _blocks(text: str) -> Iterator[str]:
    """A text in parts of about _BLOCK characters, cut at blanks alone."""
    start = 0
    while len(text) - start > _BLOCK:
        stop = text.rfind(" ", start, start + _BLOCK) + 1 or text.find(" ", start + _BLOCK) + 1
        if not stop:
            break
        yield text[start:stop]
        start = stop
    yield text[start:]
