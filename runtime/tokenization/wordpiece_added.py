"""WordPiece with added tokens: texts with an id of their own wherever they stand, besides [CLS] and its like.

wordpiece.py splits at white space first, which is fast, and which an added token of several words does not survive.
Here the steps come in the order of `tokenizers`: added tokens, normalisation, normalised added tokens, words.
"""

from __future__ import annotations

from itertools import chain

from .characters import CharacterTable
from .pipeline import Pipeline, Setup, Span
from .wordpiece import WordPiece

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .added_tokens import AddedToken


class WordPieceAdded(Pipeline):
    """A WordPiece vocabulary that is told which tokens are added. Safe from several threads.

    :param plain: The vocabulary, the special tokens and the longest match.
    :param added_tokens: All of them, [CLS] and its like included, in the order of tokenizer.json.
    """

    def __init__(self, plain: WordPiece, added_tokens: Sequence[AddedToken]) -> None:
        self._plain = plain
        self._normalizer = CharacterTable(lower_case=plain.lower_case, split=False)
        self._splitter = CharacterTable(lower_case=False)
        self.cls_id, self.sep_id, self.lower_case = plain.cls_id, plain.sep_id, plain.lower_case
        super().__init__(
            Setup(
                size=max([len(plain), *(token.id + 1 for token in added_tokens)]),
                pad_id=plain.pad_id,
                unk_id=plain.unk_id,
                prefix=plain.prefix,
                middle=plain.middle,
                suffix=plain.suffix,
                added_tokens=added_tokens,
                second_type_id=plain.second_type_id,
                decoder=plain.decoder,
            )
        )

    def normalize(self, text: str) -> str:
        return self._normalizer.normalize(text)

    def align(self, text: str) -> tuple[str, list[Span]]:
        texts = self._normalizer.align(text)
        sources = [(place, place + 1) for place, piece in enumerate(texts) for _ in piece]
        return "".join(texts), sources

    def split(self, text: str) -> Iterable[str]:
        return self._splitter.normalize(text).split()

    def find_words(self, text: str) -> Iterator[Span]:
        start = stop = 0
        for place, piece in enumerate(chain(self._splitter.align(text), " ")):
            if piece.isspace() or len(piece) > 1:  # a blank, or punctuation between two
                if stop > start:
                    yield start, stop
                if len(piece) > 1:
                    yield place, place + 1
                start = stop = place + 1
            else:
                stop = place + 1

    def learned_texts(self) -> Sequence[str]:
        return self._plain.token_texts()

    def look_up(self, word: str) -> Sequence[int]:
        return [number for number, _ in self._plain.pieces(word)]

    def locate(self, word: str, ids: Sequence[int]) -> Iterator[Span]:
        start = 0
        for _, stop in self._plain.pieces(word):
            yield start, stop
            start = stop
