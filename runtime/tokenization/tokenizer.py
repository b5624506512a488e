"""What every tokenizer offers, whatever its model: ids of a text, where they stand in it, truncation, pairs.

Truncation and the joining of two texts are written here once. A kind of tokenizer (wordpiece.py, byte_pair.py,
unigram.py) adds its model and says which special tokens stand before, between and after the texts.
"""

from __future__ import annotations

from runtime.errors import InputError

TYPE_CHECKING = False  # typing itself would be a noticeable part of a cold start
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import TypeVar

    _T = TypeVar("_T")


class Tokenizer:
    """Base of all tokenizers. Safe from several threads.

    `encode`, `encode_with_offsets` and `count` give the special tokens too: `prefix`, the text's own ids, `suffix`.
    """

    pad_id: int
    unk_id: int | None  # None: no text is unknown
    prefix: tuple[int, ...]  # before a text: ([CLS],) of BERT, (<s>,) of RoBERTa, () of T5
    middle: tuple[int, ...]  # between two texts: ([SEP],), (</s>, </s>), (</s>,)
    suffix: tuple[int, ...]  # after the last text: ([SEP],), (</s>,), (</s>,)
    second_type_id = 0  # type id of the second text and what follows it; 1 of BERT
    decoder: str | None = (
        None  # how tokens become a text again: one of decoding.DECODERS; None: not implemented
    )

    def __len__(self) -> int:
        """Give the number of ids.

        :return: One more than the largest id that `encode` can give, or the size of the vocabulary if that is larger.
        """
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """Give the ids of a text with its special tokens, not truncated.

        :param text: Any str. A lone surrogate counts as U+FFFD in every tokenizer, since UTF-8 has no bytes for it.
        :return: The ids; never fewer than `prefix` and `suffix`.
        """
        raise NotImplementedError

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Give the ids of a text and where each stands in it.

        :param text: Any str.
        :return: The ids of `encode`, and for each the indices in `text` of its first character and of the one after
            its last; (0, 0) for the special tokens that were added.
        """
        raise NotImplementedError

    def count(self, text: str) -> int:
        """Count the ids of a text without making their list where that is cheaper.

        :param text: Any str.
        :return: The length of `encode(text)`.
        """
        return len(self.encode(text))

    def special_text(self, number: int) -> str:
        """Give what a special token is called, such as [CLS] or </s>.

        :param number: Its id.
        :return: Its text; "" for an id that is no special token.
        """
        raise NotImplementedError

    def token_texts(self) -> Sequence[str]:
        """Give the tokens as the vocabulary writes them.

        :return: Index is id; "" for an id that no token has.
        """
        raise NotImplementedError

    def special_texts(self) -> Collection[str]:
        """:return: The special tokens: those that `decode` leaves out."""
        raise NotImplementedError

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Give the text of ids, as `tokenizers` does; what the tokenizer drops or folds is lost.

        :param ids: None below 0; those that no token has are left out.
        :param special: Write the special tokens too.
        :return: The text.
        :raises InputError: An id is negative.
        :raises NotImplementedError: The tokenizer came with a decoder that is not implemented.
        """
        if self.decoder is None:
            raise NotImplementedError
        if (lowest := min(ids, default=0)) < 0:
            raise InputError(f"token id {lowest}: must be 0 or higher")
        from .decoding import DECODERS

        texts, hidden = self.token_texts(), () if special else self.special_texts()
        tokens = [texts[number] for number in ids if number < len(texts)]
        return DECODERS[self.decoder]([token for token in tokens if token and token not in hidden])

    @property
    def added_count(self) -> int:
        """Ids that `encode` adds to those of the text itself: 2 for [CLS] and [SEP], 1 for T5's </s>."""
        return len(self.prefix) + len(self.suffix)

    def truncate(self, values: Sequence[_T], max_length: int, *, left: bool = False) -> list[_T]:
        """Cut a text's ids, or its offsets, at the end of the text; the special tokens around it stay.

        :param values: What `encode` or `encode_with_offsets` gave: one value for each id.
        :param max_length: Most values to keep, at least `added_count`.
        :param left: Cut the beginning of the text instead of its end.
        :return: All values if they fit, else the first ones and those of `suffix`; with `left` those of `prefix` and
            the last ones.
        """
        if len(values) <= max_length:
            return list(values)
        if left:
            before = len(self.prefix)
            return [*values[:before], *values[len(values) - max_length + before :]]
        after = len(self.suffix)
        return [*values[: max_length - after], *values[len(values) - after :]]

    def strip_special(self, values: Sequence[_T]) -> Sequence[_T]:
        """Drop the special tokens that `encode` added.

        :param values: What `encode` or `encode_with_offsets` gave: one value for each id.
        :return: Those of the text itself.
        """
        return values[len(self.prefix) : len(values) - len(self.suffix)]

    def encode_pair(
        self, first: str, second: str, max_length: int | None = None
    ) -> tuple[list[int], list[int], int]:
        """Join two texts as rerankers read them: [CLS] a [SEP] b [SEP] for BERT, <s> a </s></s> b </s> for RoBERTa.

        :param first: The query: kept whole as long as it fits at all.
        :param second: The document: its end is cut first.
        :param max_length: Most ids of the sequence, special tokens included; None for no limit.
        :return: Ids; a type id for each: 0 up to the second text, `second_type_id` from there on; how many ids
            were cut.
        :raises InputError: max_length has no room for the special tokens and one more.
        """
        left, right = (list(self.strip_special(self.encode(text))) for text in (first, second))
        total = len(left) + len(right)
        if max_length is not None:
            room = max_length - self.added_count - len(self.middle)
            if room < 1:
                raise InputError(
                    f"max_length={max_length}: must be at least {max_length - room + 1} for a pair of texts"
                )
            left = left[:room]
            right = right[: room - len(left)]
        before = [*self.prefix, *left, *self.middle]
        after = [*right, *self.suffix]
        types = [0] * len(before) + [self.second_type_id] * len(after)
        return before + after, types, total - len(left) - len(right)


def without_surrogates(text: str) -> str:
    """Put U+FFFD in the place of each lone surrogate, so that the text has UTF-8 bytes; the length stays.

    :param text: Any str.
    :return: The text itself where it has none.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        import re

        return re.sub("[\ud800-\udfff]", "\ufffd", text)
    return text
