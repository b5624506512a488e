"""Added tokens: stored cases, and random ones against `tokenizers` itself."""

from __future__ import annotations

import random
from typing import Any

import pytest

from runtime.errors import ModelError
from runtime.tokenization.added_tokens import (
    AddedToken,
    AddedTokens,
    Part,
    TokenMatcher,
    read_added_tokens,
    write_added_tokens,
)

STRIPPING = [
    AddedToken(1, "ab", rstrip=True),
    AddedToken(2, " c"),
    AddedToken(3, "d", lstrip=True),
    AddedToken(4, "<mask>", lstrip=True, rstrip=True),
]
WORDS = [AddedToken(1, "ab", single_word=True), AddedToken(2, "b"), AddedToken(3, "bb", single_word=True)]
OVERLAPPING = [
    AddedToken(1, "<s>"),
    AddedToken(2, "<s><s>"),
    AddedToken(3, "s>x"),
    AddedToken(4, "é", special=True),
]


def found(tokens: list[AddedToken], text: str) -> list[tuple[int | None, str]]:
    return [(one.id, text[one.start : one.stop]) for one in TokenMatcher(tokens).split(text)]


@pytest.mark.parametrize(
    ("tokens", "text", "parts"),
    [
        (
            STRIPPING,
            "xab  cd",
            [(None, "x"), (1, "ab  "), (2, " c"), (3, "d")],
        ),  # the blank before c counts twice
        (STRIPPING, "ab\x85\u3000 x\td", [(1, "ab\x85\u3000 "), (None, "x"), (3, "\td")]),
        (STRIPPING, "ab \x1c", [(1, "ab "), (None, "\x1c")]),  # no white space of Unicode
        (STRIPPING, "a \n<mask>  .", [(None, "a"), (4, " \n<mask>  "), (None, ".")]),
        (WORDS, "ab b", [(1, "ab"), (None, " "), (2, "b")]),
        (WORDS, "xab b", [(None, "xab "), (2, "b")]),  # what a refused match covers is not searched again
        (WORDS, "ab\u0301 ab² ab_ \u24b6ab", [(None, "ab\u0301 "), (1, "ab"), (None, "² ab_ \u24b6ab")]),
        (OVERLAPPING, "<s><s><s>x", [(2, "<s><s>"), (1, "<s>"), (None, "x")]),
        (OVERLAPPING, "<S>", [(None, "<S>")]),
        (OVERLAPPING, "", []),
    ],
)
def test_tokens_are_found(tokens: list[AddedToken], text: str, parts: list[tuple[int | None, str]]) -> None:
    assert found(tokens, text) == parts


def test_normalized_tokens_are_looked_for_in_normalised_text() -> None:
    added = AddedTokens([AddedToken(1, "AB", normalized=True), AddedToken(2, "<X>")], str.lower)
    assert added.exact is not None
    assert added.normalized is not None
    assert added.exact.split("ab<X>") == [Part(None, 0, 2), Part(2, 2, 5)]
    assert added.normalized.split("xab") == [Part(None, 0, 1), Part(1, 1, 3)]


def test_special_tokens_come_first_among_equals() -> None:
    added = AddedTokens(
        [AddedToken(1, "AB", normalized=True), AddedToken(2, "ab", normalized=True, special=True)], str.lower
    )
    assert added.normalized is not None
    assert added.normalized.split("ab") == [Part(2, 0, 2)]
    assert AddedTokens([]).exact is None


def test_tokens_keep_their_form_in_a_manifest() -> None:
    tokens = STRIPPING + OVERLAPPING
    written = [dict(entry) for entry in write_added_tokens(tokens)]
    assert written[0] == {"id": 1, "content": "ab", "rstrip": True}
    assert read_added_tokens(written, 5) == tokens


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("x", "added_tokens is 'x', not a list"),
        ([7], r"added_tokens\[0\] is 7, not an object"),
        ([{"id": 1, "content": ""}], r"added_tokens\[0\].content is ''"),
        (
            [{"id": 1, "content": "a"}, {"id": 9, "content": "b"}],
            r"\[1\].id is 9, not an integer from 0 to 8",
        ),
        ([{"id": True, "content": "a"}], r"\[0\].id is True"),
        ([{"id": 1, "content": "a", "lstrip": 1}], r"\[0\].lstrip is 1, not true or false"),
        ([{"id": 1, "content": "a", "strip": True}], r"unknown field 'strip'"),
    ],
)
def test_a_wrong_entry_is_named(entries: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_added_tokens(entries, 9)


PIECES = [*"ab \t\x1c\x85\u3000cd<xSé_1²\u0301\u200d\u24b6日İς\U0001f600\U00010400"]
PIECES += ["ab", "bb", "  ", "<s>", "s>", "e\u0301", "<mask>"]


@pytest.mark.parametrize("lower", [False, True])
def test_random_tokens_are_found_as_tokenizers_does(lower: bool) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    rng = random.Random(17)
    for _ in range(150):
        judge = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
        if lower:
            judge.normalizer = tokenizers.normalizers.Lowercase()
        tokens: list[AddedToken] = []
        for _ in range(rng.randint(1, 5)):
            content = "".join(rng.choices(PIECES, k=rng.randint(1, 2)))
            flags = {
                flag: rng.random() < 0.4
                for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")
            }
            flags["lstrip"] &= not content.isspace()  # where one token strips another, `tokenizers` panics
            if all(token.content != content for token in tokens):
                judge.add_tokens([tokenizers.AddedToken(content, **flags)])
                tokens.append(AddedToken(judge.token_to_id(content), content, **flags))
        added = AddedTokens(tokens, str.lower if lower else None)
        for _ in range(60):
            text = "".join(rng.choices(PIECES, k=rng.randint(0, 12)))
            expected = judge.encode(text).ids
            assert ids(added, text, lower) == expected, (tokens, text)


def ids(added: AddedTokens, text: str, lower: bool) -> list[int]:
    """The ids of a tokenizer for whose model every text is unknown."""
    result = []
    for part in added.exact.split(text) if added.exact else [Part(None, 0, len(text))] if text else []:
        if part.id is not None:
            result.append(part.id)
            continue
        rest = text[part.start : part.stop]
        if lower:
            rest = "".join(map(str.lower, rest))
        rest_parts = added.normalized.split(rest) if added.normalized else [Part(None, 0, len(rest))]
        result += [0 if one.id is None else one.id for one in rest_parts]
    return result
