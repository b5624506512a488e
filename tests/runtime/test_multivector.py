"""Late interaction against the formula written out, and its promise: no bit depends on what else is scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import Embedder, InputError, Multivector, TextTooLongError, maxsim
from runtime.multivector import (
    COSINE_SHARE,
    INT8_SCALE,
    TOKEN_ROTATION,
    TOKEN_WEIGHTS,
    best_window,
    inverse_document_frequencies,
    principal_rotation,
    unit_rows,
)
from tests.tiny import DIMENSION, VOCABULARY, make_model, write_manifest

TEXTS = ["hello world", "a b c d e f g", "world", "hello, a", "", "z y x w v u t s r q p o n m l k j i"]
LETTERS = st.lists(st.sampled_from(["hello", "world", "a", "b", "c", ","]), min_size=1, max_size=20).map(
    " ".join
)


def multivectors(seed: int, lengths: list[int], dimensions: int, dtype: str) -> list[Multivector]:
    """Made-up texts of so many tokens, the first and the last of them special."""
    chance = np.random.default_rng(seed)
    made = []
    for length in lengths:
        units = unit_rows(chance.standard_normal((length, dimensions)).astype(np.float32))
        special = np.zeros(length, np.bool_)
        special[0] = special[-1] = True
        stored = np.rint(units * INT8_SCALE).astype(np.int8) if dtype == "int8" else units.astype(dtype)
        pooled = unit_rows(units.mean(axis=0, keepdims=True).astype(np.float32))[0].astype(np.float32)
        weights = np.where(special, 0, chance.random(length)).astype(np.float32)
        made.append(Multivector(stored, np.arange(length, dtype=np.int32), special, weights, pooled))
    return made


def by_the_formula(query: Multivector, document: Multivector) -> float:
    own = ~query.special
    scale = INT8_SCALE if document.vectors.dtype == np.int8 else 1
    cosines = query.vectors[own].astype(np.float64) @ (document.vectors.astype(np.float64) / scale).T
    weights = query.weights[own].astype(np.float64)
    share = COSINE_SHARE * float(query.pooled.astype(np.float64) @ document.pooled)
    return (float((weights * cosines.max(axis=1)).sum() / weights.sum()) + share) / (1 + COSINE_SHARE)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_scores_are_those_of_the_formula(dtype: str) -> None:
    (query,) = multivectors(1, [9], 64, "float32")
    documents = multivectors(2, [3, 700, 12, 12, 90], 64, dtype)
    expected = [by_the_formula(query, document) for document in documents]
    np.testing.assert_allclose(maxsim(query, documents), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=12),
    dimensions=st.sampled_from([1, 7, 64, 128, 512]),
    seed=st.integers(0, 1000),
)
def test_a_score_is_bit_identical_whatever_else_is_scored(
    dtype: str, lengths: list[int], dimensions: int, seed: int
) -> None:
    (query,) = multivectors(seed, [7], dimensions, "float32")
    documents = multivectors(seed + 1, lengths, dimensions, dtype)
    together = maxsim(query, documents)
    assert together.tolist() == [maxsim(query, [document])[0] for document in documents]
    assert together[::-1].tolist() == maxsim(query, documents[::-1]).tolist()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    (query,) = multivectors(1, [9], 16, "float32")
    documents = multivectors(2, [50, 3, 200, 7, 7, 2], 16, "int8")
    expected = maxsim(query, documents).tolist()
    for rows in (1, 3, 7, 64):
        monkeypatch.setattr("runtime.multivector.BLOCK_ROWS", rows)
        assert maxsim(query, documents).tolist() == expected


def test_arrays_alone_are_scored_without_the_share_of_the_cosine() -> None:
    (query,) = multivectors(1, [9], 16, "float32")
    (document,) = multivectors(2, [20], 16, "float32")
    share = COSINE_SHARE * float(query.pooled @ document.pooled)
    alone = maxsim(query, [document.vectors])[0]
    whole = maxsim(query, [document])[0] * (1 + COSINE_SHARE)
    np.testing.assert_allclose(whole - share, alone, atol=1e-5)


def test_no_documents_have_no_scores() -> None:
    (query,) = multivectors(1, [9], 16, "float32")
    assert maxsim(query, []).shape == (0,)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (np.zeros((3, 5), np.float32), r"documents\[1\].*\[3, 5\].*\[tokens, 16\]"),
        (np.zeros((0, 16), np.float32), r"documents\[1\].*\[0, 16\]"),
        (np.zeros((3, 16), np.int8), r"documents\[1\].*int8.*the same for all"),
        (np.zeros((3, 16), np.float64), r"documents\[1\].*float64.*float16, int8"),
    ],
)
def test_what_cannot_be_compared_is_named(document: np.ndarray, reason: str) -> None:
    (query,) = multivectors(1, [9], 16, "float32")
    with pytest.raises(InputError, match=reason):
        maxsim(query, [np.ones((2, 16), np.float32), document])


def test_an_int8_query_is_refused() -> None:
    (query,) = multivectors(1, [9], 16, "int8")
    with pytest.raises(InputError, match="query's vectors are int8"):
        maxsim(query, [np.ones((2, 16), np.int8)])


def test_the_best_window_is_where_the_query_stands() -> None:
    (query,) = multivectors(1, [6], 32, "float32")
    (document,) = multivectors(2, [300], 32, "float32")
    document.vectors[210:214] = query.vectors[1:5]
    start, end = best_window(query, document, tokens=8)
    assert start <= 210
    assert end >= 214
    assert end - start == 8


def test_rare_tokens_weigh_more() -> None:
    weights = inverse_document_frequencies([np.array(ids, np.int32) for ids in ([1, 2, 2], [1, 3], [1])], 5)
    assert weights[1] == 0
    assert 0 < weights[2] == weights[3] < weights[4]


def test_the_rotation_puts_first_what_matters_and_keeps_angles() -> None:
    chance = np.random.default_rng(3)
    rows = unit_rows((chance.standard_normal((400, 12)) * np.arange(12, 0, -1)).astype(np.float32))
    rotation = principal_rotation(rows, 12).astype(np.float64) / (1 << 14)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(12), atol=1e-3)
    shares = ((rows @ rotation) ** 2).mean(axis=0)
    assert (np.diff(shares) <= 1e-9).all()


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with token weights and a rotation."""
    folder = make_model(tmp_path_factory.mktemp("rotated") / "model")
    weights = np.linspace(0.5, 2, len(VOCABULARY))
    np.save(folder / TOKEN_WEIGHTS, weights.astype(np.float16))
    rows = unit_rows(np.random.default_rng(5).standard_normal((200, DIMENSION)).astype(np.float32))
    np.save(folder / TOKEN_ROTATION, principal_rotation(rows, 8))
    write_manifest(folder)
    return folder


def test_multivectors_are_unit_token_vectors(tiny: Embedder) -> None:
    for text, found in zip(TEXTS, tiny.encode_multivector(TEXTS), strict=True):
        tokens = tiny.encode_tokens(text)
        assert found.ids.tolist() == tokens.ids.tolist()
        np.testing.assert_allclose(found.vectors, unit_rows(tokens.vectors), atol=1e-6)
        assert found.vectors.dtype == np.float32
        assert found.special.tolist() == [True, *[False] * (len(tokens.ids) - 2), True]
        assert found.pooled.tolist() == tiny.encode(text).tolist()
        assert found.weights.tolist() == (~found.special).tolist()  # no weights in this folder: 1 each


def test_a_folders_weights_and_rotation_are_used(rotated: Path) -> None:
    with Embedder(rotated, threads=1) as embedder:
        (whole,) = embedder.encode_multivector(["hello world"])
        (cut,) = embedder.encode_multivector(["hello world"], dimensions=5, dtype="int8")
        np.testing.assert_allclose(
            whole.weights[1:-1], np.linspace(0.5, 2, len(VOCABULARY))[whole.ids[1:-1]], rtol=1e-3
        )
        assert cut.vectors.shape == (4, 5)
        assert cut.vectors.dtype == np.int8
        np.testing.assert_allclose(np.linalg.norm(cut.vectors / INT8_SCALE, axis=1), 1, atol=0.02)
        with pytest.raises(InputError, match=r"dimensions=9: must be an integer from 1 to 8"):
            embedder.encode_multivector(["a"], dimensions=9)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"dimensions": 4}, r"no token_rotation\.npy"),
        ({"dtype": "float64"}, r"dtype='float64': must be one of float32, float16, int8"),
        ({"token_weights": [1.0, 2.0]}, r"token_weights of shape \[2\]"),
        ({"max_length": 2}, "max_length"),
    ],
)
def test_arguments_out_of_range_are_named(tiny: Embedder, arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        tiny.encode_multivector(["a"], **arguments)


def test_a_query_that_is_too_long_is_refused_and_a_document_cut(tiny: Embedder) -> None:
    long = "a b c d e f g h"
    with pytest.raises(TextTooLongError, match="10 tokens"):
        tiny.encode_multivector([long], query=True, max_length=6)
    assert len(tiny.encode_multivector([long], max_length=6)[0].ids) == 6


@given(st.lists(LETTERS, min_size=1, max_size=10))
def test_stored_documents_score_as_texts_do(tiny: Embedder, texts: list[str]) -> None:
    (query,) = tiny.encode_multivector(["hello a"], query=True)
    scores = maxsim(query, tiny.encode_multivector(texts))
    found = {ranked.index: ranked.score for ranked in tiny.rerank("hello a", texts)}
    assert [found[number] for number in range(len(texts))] == scores.tolist()
