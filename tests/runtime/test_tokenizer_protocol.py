"""What all tokenizers share: truncation, pairs, special tokens, lone surrogates."""

from __future__ import annotations

import pytest

from runtime.errors import InputError
from runtime.tokenization.tokenizer import Tokenizer, without_surrogates
from runtime.tokenization.wordpiece import WordPiece
from tests.paths import ROOT


class Letters(Tokenizer):
    """Ids are code points; special tokens as the test says."""

    pad_id, unk_id = 0, None

    def __init__(self, prefix: tuple[int, ...], middle: tuple[int, ...], suffix: tuple[int, ...]) -> None:
        self.prefix, self.middle, self.suffix = prefix, middle, suffix

    def encode(self, text: str) -> list[int]:
        return [*self.prefix, *map(ord, text), *self.suffix]


BERT = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c"])
ROBERTA = Letters((1,), (2, 2), (2,))
T5 = Letters((), (1,), (1,))
A, B = ord("a"), ord("b")
TEXTS = [
    "How's the weather today?",
    "unbelievably antidisestablishmentarianism, isn't it!",
    "10.5 % of 3,000 (three thousand): fine...",
    "don't do not; I'm, we've, they're",
]


@pytest.mark.parametrize(
    ("tokenizer", "first", "length"), [(BERT, [2, 4, 5], 2), (ROBERTA, [1, A, B], 2), (T5, [A, B, A], 1)]
)
def test_truncation_keeps_the_special_tokens(tokenizer: Tokenizer, first: list[int], length: int) -> None:
    ids = tokenizer.encode("a b a b" if tokenizer is BERT else "abab")
    assert tokenizer.added_count == length
    assert tokenizer.truncate(ids, 100) == tokenizer.truncate(ids, len(ids)) == ids
    assert tokenizer.truncate(ids, 4) == [*first, *tokenizer.suffix]
    assert tokenizer.truncate(ids, length) == [*tokenizer.prefix, *tokenizer.suffix]
    assert list(tokenizer.strip_special(ids)) == ids[len(tokenizer.prefix) : -1]


def test_the_beginning_of_a_text_can_be_cut_instead() -> None:
    ids = ROBERTA.encode("abab")
    assert ROBERTA.truncate(ids, 4, left=True) == [1, A, B, 2]
    assert ROBERTA.truncate(ids, 2, left=True) == [1, 2]
    assert ROBERTA.truncate(ids, 6, left=True) == ids
    assert T5.truncate(T5.encode("abab"), 3, left=True) == [A, B, 1]


def test_offsets_are_truncated_like_ids() -> None:
    ids, offsets = BERT.encode_with_offsets("a b c")
    assert BERT.truncate(offsets, 4) == [(0, 0), (0, 1), (2, 3), (0, 0)]
    assert BERT.truncate(ids, 4) == [2, 4, 5, 3]


def test_pairs_have_the_form_of_their_kind() -> None:
    assert BERT.encode_pair("a b", "c") == ([2, 4, 5, 3, 6, 3], [0, 0, 0, 0, 1, 1], 0)
    assert ROBERTA.encode_pair("a", "b") == ([1, A, 2, 2, B, 2], [0] * 6, 0)
    assert T5.encode_pair("a", "b") == ([A, 1, B, 1], [0] * 4, 0)
    assert ROBERTA.encode_pair("", "") == ([1, 2, 2, 2], [0] * 4, 0)


def test_the_document_of_a_pair_is_cut_and_the_query_kept() -> None:
    assert ROBERTA.encode_pair("aa", "bbbb", 8) == ([1, A, A, 2, 2, B, B, 2], [0] * 8, 2)
    assert ROBERTA.encode_pair("aa", "bbbb", 6) == ([1, A, A, 2, 2, 2], [0] * 6, 4)
    assert ROBERTA.encode_pair("aaaa", "bbbb", 5) == ([1, A, 2, 2, 2], [0] * 5, 7)
    with pytest.raises(InputError, match="max_length=4: must be at least 5 for a pair"):
        ROBERTA.encode_pair("a", "b", 4)
    with pytest.raises(InputError, match="max_length=3: must be at least 4"):
        BERT.encode_pair("a", "b", 3)


def test_each_lone_surrogate_becomes_a_replacement_character() -> None:
    assert without_surrogates("a\ud800b\udfff\ud83d\ude00") == "a\ufffdb\ufffd\ufffd\ufffd"
    text = "héllo 😀"
    assert without_surrogates(text) is text


def test_decode_is_that_of_tokenizers() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    own = WordPiece.from_file(ROOT / "models" / "jinabert-6l-distilled" / "vocab.txt")
    decoder = tokenizers.decoders.WordPiece(prefix="##", cleanup=True)
    vocabulary = own._vocabulary.tokens()
    for text in TEXTS:
        ids = own.encode(text)
        assert own.decode(ids) == decoder.decode([vocabulary[number] for number in ids[1:-1]])
    assert own.decode(own.encode("Hello, wörld!"), special=True) == "[CLS] hello, world! [SEP]"
    assert own.decode([]) == ""
