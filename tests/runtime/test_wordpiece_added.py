"""WordPiece with added tokens against `tokenizers`: ids and offsets, with every mix of flags."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken as Added
from tokenizers.implementations import BertWordPieceTokenizer

from runtime import Embedder, ModelError
from runtime.tokenization.added_tokens import AddedToken, write_added_tokens
from runtime.tokenization.wordpiece import WordPiece
from runtime.tokenization.wordpiece_added import WordPieceAdded
from tests.tiny import VOCABULARY, make_model, write_manifest
from tests.wordpiece import ADDED

ALPHABET = "abTICKET-IDjinasunZüÜrhéE\u0301<>1#., \t\n\u00a0中文字ßİΣς\u200b\x0b[]CLS"


def pair(seed: int, lower_case: bool) -> tuple[Any, WordPieceAdded]:
    """The library's tokenizer with some added tokens, and ours."""
    chance = random.Random(seed)
    judge = BertWordPieceTokenizer(
        {token: number for number, token in enumerate(VOCABULARY)}, lowercase=lower_case
    )
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    judge.add_tokens(
        [
            Added(word, **{flag: chance.random() < 0.4 for flag in flags}, special=False)
            for word in chance.sample(ADDED, chance.randint(1, 8))
        ]
    )
    added = [AddedToken(**entry) for entry in json.loads(judge.to_str())["added_tokens"]]
    return judge, WordPieceAdded(WordPiece(VOCABULARY, lower_case=lower_case), added)


@given(
    seed=st.integers(0, 200),
    lower_case=st.booleans(),
    parts=st.lists(st.one_of(st.sampled_from(ADDED), st.text(ALPHABET, max_size=6)), max_size=8),
)
@settings(max_examples=300, deadline=None)
def test_ids_and_offsets_are_those_of_tokenizers(seed: int, lower_case: bool, parts: list[str]) -> None:
    judge, ours = pair(seed, lower_case)
    text = "".join(parts)
    expected = judge.encode(text)
    assert ours.encode(text) == expected.ids
    assert ours.count(text) == len(expected.ids)
    assert ours.encode_with_offsets(text) == (expected.ids, expected.offsets)


def test_a_model_folder_with_added_tokens(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    size = len(VOCABULARY)
    added = [AddedToken(number, VOCABULARY[number], special=True) for number in range(4)]
    added.append(AddedToken(size - 1, "hello world", normalized=True))
    (folder / "vocab.txt").write_text(
        "".join(f"{token}\n" for token in VOCABULARY[: size - 1]), encoding="utf-8"
    )
    tokenizer = {"type": "wordpiece", "lower_case": True, "added_tokens": write_added_tokens(added)}
    write_manifest(folder, tokenizer=tokenizer)
    with Embedder(folder, threads=1) as embedder:
        assert embedder.tokenizer.encode("a Hello World b") == [2, 5, size - 1, 6, 3]
        assert embedder.encode(["a hello world", "hello"]).shape == (2, 16)
        (chunk,) = embedder.encode_chunks("Hello World", spans=[(0, 11)])
        assert chunk.tokens == 3


@pytest.mark.parametrize(
    "entries",
    [7, [7], [{"id": 1}], [{"id": -1, "content": "x"}], [{"id": 999, "content": "x"}], [{"id": 1, "x": 2}]],
)
def test_broken_entries_are_refused(tmp_path: Path, entries: object) -> None:
    tokenizer = {"type": "wordpiece", "lower_case": True, "added_tokens": entries}
    folder = make_model(tmp_path / "model", tokenizer=tokenizer)
    with pytest.raises(ModelError, match=r"manifest\.json: tokenizer\.added_tokens") as caught:
        Embedder(folder)
    assert "\n" not in str(caught.value)
