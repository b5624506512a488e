"""Byte-pair and Unigram tokenizers as the export stores them: published cases, size, what tests/data holds."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from export.tokenization import convert_tokenizer
from runtime.tokenization.byte_pair import ByteLevelBytePair, BytePair
from runtime.tokenization.decoding import byte_signs
from runtime.tokenization.tokenizer import Tokenizer
from tests.hostile_texts import SPECIAL
from tests.stored_tokenizers import GOLDEN, store
from tests.tokenizer_kinds import ASSETS, TINY, load, write_checkpoint

needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason="needs ../shared/data/tokenizers")
_loaded: dict[str, Tokenizer] = {}


@pytest.fixture
def tokenizer(kind: str, tmp_path: Path) -> Tokenizer:
    if kind not in _loaded:
        _loaded[kind] = load(tmp_path, kind)
    return _loaded[kind]


@pytest.mark.parametrize("kind", TINY)
def test_tests_of_the_runtime_have_what_the_export_makes(kind: str, tmp_path: Path) -> None:
    converted = convert_tokenizer(write_checkpoint(tmp_path, kind))
    assert json.loads(json.dumps(store(converted, tmp_path))) == GOLDEN[kind]["tokenizer"]


PUBLISHED = "golden/token_ids.json"


@needs_assets
@pytest.mark.parametrize(
    ("kind", "model"), [("GPT-2", "Xenova/gpt2"), ("T5", "t5-small"), ("T5 from spiece.model", "t5-small")]
)
def test_published_ids(tokenizer: Tokenizer, model: str) -> None:
    cases = json.loads((ASSETS / PUBLISHED).read_text(encoding="utf-8"))["cases"]
    name = next(one for one in cases if one.endswith(model.rpartition("/")[2]))
    assert len(cases[name]) > 20
    for case in cases[name].values():
        if case.keys() <= {"text", "tokens", "ids"}:
            assert tokenizer.encode(case["text"]) == case["ids"], case["text"]


@needs_assets
@pytest.mark.parametrize(
    ("kind", "model"),
    [
        (TINY[0], "jinaai/jina-embeddings-v2-base-de"),
        (TINY[0], "jinaai/jina-embeddings-v2-base-code"),
        (TINY[1], "jinaai/jina-embeddings-v2-base-zh"),
        (TINY[1], "jinaai/jina-reranker-v1-tiny-en"),
    ],
)
def test_words_end_where_published_tokens_end(tokenizer: Tokenizer, model: str) -> None:
    """The merges of these cannot be had, but no token of them reaches over an end of our words."""
    cases = json.loads((ASSETS / PUBLISHED).read_text(encoding="utf-8"))["cases"][model]
    signs = byte_signs()
    assert isinstance(tokenizer, BytePair)
    tried = 0
    for case in cases.values():
        if "tokens" not in case or "text_pair" in case or any(token in case["text"] for token in SPECIAL):
            continue
        words = list(tokenizer.split(tokenizer.normalize(case["text"])))
        if isinstance(tokenizer, ByteLevelBytePair):
            words = ["".join(signs[byte] for byte in word.encode()) for word in words]
        tokens = ["?" if token == "<unk>" else token for token in case["tokens"]]
        assert len("".join(words)) == len("".join(tokens))
        assert all(
            "?" in (one, two) or one == two for one, two in zip("".join(words), "".join(tokens), strict=True)
        )
        ends = set(itertools.accumulate(map(len, tokens)))
        assert set(itertools.accumulate(map(len, words))) <= ends
        tried += 1
    assert tried >= (1 if model.endswith("zh") else 18)


@needs_assets
def test_a_large_vocabulary_is_stored_compactly(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "GPT-2")
    converted = convert_tokenizer(tmp_path)
    assert converted.size == 50_257
    assert sum(map(len, converted.files.values())) < 550_000
