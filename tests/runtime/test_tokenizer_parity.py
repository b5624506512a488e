"""WordPiece against `tokenizers` itself: ids, character offsets and counts, no difference anywhere."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.tokenization.wordpiece import WordPiece
from tests.make_tokenizer_golden import EXAMPLES, all_codes, blocks, telling_codes
from tests.wordpiece import (
    FILES,
    SPECIAL,
    UNICODE,
    code_texts,
    mismatches,
    random_texts,
    reference,
    vocabulary,
    without_surrogates,
)

pytest.importorskip("tokenizers")
PATH = vocabulary()
if PATH is None:
    pytest.skip("needs vocab.txt in models/NAME or ../shared/data", allow_module_level=True)

UNCASED = (WordPiece.from_file(PATH), reference(PATH))
CASED = (WordPiece.from_file(PATH, lower_case=False), reference(PATH, lower_case=False))
both = pytest.mark.parametrize("pair", [UNCASED, CASED], ids=["uncased", "cased"])
Pair = tuple[WordPiece, Any]

alphabet = st.one_of(
    st.characters(),  # surrogates among them
    st.characters(max_codepoint=0x2FF),
    st.characters(categories=["Mn", "Mc", "Me"]),
    st.characters(categories=["Cc", "Cf", "Cs", "Zs", "Zl", "Zp"]),
    st.sampled_from("[]#SEPCLSaeiou \n\u302e\u0334\u0301\U0001d165"),
)
strings = st.lists(st.one_of(st.text(alphabet), st.sampled_from(SPECIAL))).map("".join)


def test_every_code_point_gives_the_same_words() -> None:
    """Between letters. Ids follow from words, whatever the characters."""
    table = UNCASED[0]._characters
    normalize = UNCASED[1]._tokenizer.normalizer.normalize_str
    split = UNCASED[1]._tokenizer.pre_tokenizer.pre_tokenize_str
    for texts in blocks(all_codes()):
        for text in texts[1::2]:
            expected = [word for word, _ in split(normalize(without_surrogates(text)))]
            assert table.normalize(text).split() == expected, ascii(text)


@both
def test_code_points_give_the_same_ids_and_offsets(pair: Pair) -> None:
    for texts in blocks(telling_codes()):
        assert not mismatches(*pair, texts)


@pytest.mark.slow
@both
def test_every_code_point_gives_the_same_ids_and_offsets(pair: Pair) -> None:
    for texts in blocks(all_codes()):
        assert not mismatches(*pair, texts)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.skipif(not UNICODE.is_dir(), reason="needs ../shared/data/unicode")
def test_unicode_files(name: str) -> None:
    assert not mismatches(*UNCASED, FILES[name]())


@both
def test_random_texts(pair: Pair) -> None:
    assert not mismatches(*pair, list(itertools.islice(random_texts(1), 10_000)))


@both
def test_code(pair: Pair) -> None:
    texts = code_texts()
    assert not mismatches(
        *pair, [*texts, *(line for text in texts for line in text.splitlines(keepends=True))]
    )


@both
def test_examples(pair: Pair) -> None:
    assert not mismatches(*pair, EXAMPLES)


@both
@given(strings)
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_string(pair: Pair, text: str) -> None:
    assert not mismatches(*pair, [text])


@given(
    st.lists(st.sampled_from("ab\u0301\u0334\u302e\u302f\U0001d165\U0001d15e\u0344\u0f73é한\0 "), max_size=40)
)
@settings(max_examples=1000, deadline=None)
def test_combining_characters_in_any_order(characters: list[str]) -> None:
    assert not mismatches(*UNCASED, ["".join(characters)])


def test_long_texts() -> None:
    texts = random_texts(7)
    long = [" ".join(itertools.islice(texts, 8000)), "".join(itertools.islice(texts, 8000))]
    assert min(map(len, long)) > 200_000
    assert not mismatches(*UNCASED, long)
