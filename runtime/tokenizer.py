"""WordPiece as `tokenizers` does it for BERT: the same ids, the same offsets, in Python alone.

Splitting at white space comes first, because everything else in BERT's normalisation stays within what lies between
blanks. So each such chunk ("week.", "The") can be looked up in a cache, and most text costs one dictionary access a
word. What the cache does not know goes through runtime/characters.py and the greedy longest match.

Does not truncate, pad or build batches: see runtime/embedder.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from runtime.characters import CharacterTable
from runtime.errors import ModelError

_SPECIAL = ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")  # taken literally wherever they stand in a text
_LONGEST_WORD = 100  # characters; a longer word is [UNK]
_CONTINUED = "##"

_MOST_CHUNKS = 32_768  # in the cache, which then starts again: about 7 MB
_LONGEST_CHUNK = 64  # characters; a longer chunk is hardly met twice
_BLOCK = 65_536  # characters split at a time, so that one line of 10 MB does not become 2 million strings at once

# str.split breaks at these, `tokenizers` drops them, as it drops NUL.
_NO_BREAKS = ("\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x85")


class WordPiece:
    """A WordPiece vocabulary and what it makes of texts. Safe from several threads.

    :param tokens: The vocabulary; a token's index is its id.
    :param lower_case: Lower-case and drop accents first, as uncased BERT does.
    :raises ModelError: [PAD], [UNK], [CLS] or [SEP] is not among the tokens.
    """

    def __init__(self, tokens: Sequence[str], *, lower_case: bool = True) -> None:
        self._vocabulary = dict(zip(tokens, range(len(tokens)), strict=True))
        self._size = len(tokens)
        missing = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if token not in self._vocabulary]
        if missing:
            raise ModelError(
                f"vocabulary of {len(tokens)} tokens lacks {', '.join(missing)}: not a BERT WordPiece vocabulary; "
                "use the vocab.txt that the model was trained with"
            )
        self.pad_id = self._vocabulary["[PAD]"]
        self.unk_id = self._vocabulary["[UNK]"]
        self.cls_id = self._vocabulary["[CLS]"]
        self.sep_id = self._vocabulary["[SEP]"]
        self.lower_case = lower_case
        self._special = tuple(token for token in _SPECIAL if token in self._vocabulary)
        self._characters = CharacterTable(lower_case=lower_case)
        self._chunk_ids = _ChunkCache(self._look_up).__getitem__
        self._longest_token = 0  # characters; found out when the first word is taken apart

    @classmethod
    def from_file(cls, path: str | Path, *, lower_case: bool = True) -> WordPiece:
        """Read vocab.txt: UTF-8, one token a line, the line's number from 0 is the id.

        :param path: The file.
        :param lower_case: As for the class.
        :return: The tokenizer.
        :raises ModelError: The file cannot be read, is not UTF-8, or lacks one of the special tokens.
        """
        try:
            text = Path(path).read_bytes().decode("utf-8")
        except OSError as error:
            raise ModelError(f"{path}: cannot read the vocabulary: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ModelError(f"{path}: not UTF-8 at byte {error.start}; export the model again") from error
        tokens = text.replace("\r\n", "\n").split("\n")
        if not tokens[-1]:
            tokens.pop()
        try:
            return cls(tokens, lower_case=lower_case)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None

    def __len__(self) -> int:
        """:return: The number of tokens in the vocabulary."""
        return self._size

    def __repr__(self) -> str:
        return f"WordPiece({self._size} tokens, lower_case={self.lower_case})"

    def encode(self, text: str) -> list[int]:
        """The ids of a text, [CLS] first and [SEP] last, not truncated.

        :param text: Any str. A lone surrogate counts as U+FFFD, which is dropped; a literal [SEP] becomes its id.
        :return: At least two ids.
        """
        text = _steady(text)
        if len(text) <= _BLOCK:
            return [self.cls_id, *chain.from_iterable(map(self._chunk_ids, text.split())), self.sep_id]
        ids = [self.cls_id]
        for block in _blocks(text):
            ids += chain.from_iterable(map(self._chunk_ids, block.split()))
        ids.append(self.sep_id)
        return ids

    def count(self, text: str) -> int:
        """The number of ids of a text, without making their list.

        :param text: Any str.
        :return: The length of `encode(text)`.
        """
        return 2 + sum(sum(map(len, map(self._chunk_ids, block.split()))) for block in _blocks(_steady(text)))

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
        ids = []
        for part in self._split_at_special(chunk):
            if part in self._special:
                ids.append(self._vocabulary[part])
                continue
            for block in _blocks(self._characters.normalize(part)):
                for word in block.split():
                    number = self._vocabulary.get(word)
                    if number is None or len(word) > _LONGEST_WORD:
                        ids += [number for number, _ in self._pieces(word)]
                    else:
                        ids.append(number)
        return ids

    def _locate(self, chunk: str, position: int) -> Iterator[tuple[int, int, int]]:
        """Id, start and stop of each token of a text without white space that starts at a position of the whole."""
        if chunk.isascii() and chunk.isalnum():  # an ordinary word: its characters stand for themselves
            start = position
            for number, length in self._pieces(chunk.lower() if self.lower_case else chunk):
                yield number, start, position + length
                start = position + length
            return
        for part in self._split_at_special(chunk):
            if part in self._special:
                yield self._vocabulary[part], position, position + len(part)
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
                    for number, stop in self._pieces("".join(word)):
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

    def _pieces(self, word: str) -> list[tuple[int, int]]:
        """Greedy longest match.

        :param word: A normalised word of at least one character.
        :return: The id of each piece and the index in the word after its end; [UNK] for the whole word if some part
            of it matches nothing.
        """
        length = len(word)
        if length > _LONGEST_WORD:
            return [(self.unk_id, length)]
        vocabulary = self._vocabulary
        if (number := vocabulary.get(word)) is not None:
            return [(number, length)]
        if not self._longest_token:
            self._longest_token = max(map(len, vocabulary))
        pieces = []
        start, prefix = 0, ""
        while start < length:
            for stop in range(min(length, start + self._longest_token), start, -1):
                if (number := vocabulary.get(prefix + word[start:stop])) is not None:
                    break
            else:
                return [(self.unk_id, length)]
            pieces.append((number, stop))
            start, prefix = stop, _CONTINUED
        return pieces


class _ChunkCache(dict[str, tuple[int, ...]]):
    """Chunk -> its ids, looked up when first asked for. Bounded.

    Each access is one operation of a dict, so threads need no lock: at worst two of them look up the same chunk.
    """

    __slots__ = ("look_up",)

    def __init__(self, look_up: Callable[[str], list[int]]) -> None:
        super().__init__()
        self.look_up = look_up

    def __missing__(self, chunk: str) -> tuple[int, ...]:
        ids = tuple(self.look_up(chunk))
        if len(chunk) <= _LONGEST_CHUNK:
            if len(self) >= _MOST_CHUNKS:
                self.clear()
            self[chunk] = ids
        return ids


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
