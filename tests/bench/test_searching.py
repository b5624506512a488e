"""Words, words and vectors together, and the best of a search ordered anew."""

from __future__ import annotations

import numpy as np
import pytest

from runtime import Embedder
from tests.bench import searching


def test_fusion_adds_up_reciprocal_ranks() -> None:
    cosines, words = np.array([0.9, 0.5, 0.1]), np.array([0.0, 7.0, 3.0])
    expected = [1 / 61 + 1 / 63, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62]
    assert searching.fused(cosines, words) == pytest.approx(expected)
    assert searching.hybrid(cosines[None], words[None])[0] == pytest.approx(expected)


def test_bm25_finds_the_rare_word_and_nothing_for_stop_words() -> None:
    pytest.importorskip("bm25s")
    documents = ["red house", "red car", "red zebra crossing"]
    found = searching.bm25(documents, ["a red zebra", "the of and"])
    assert found.shape == (2, 3)
    assert found[0].argmax() == 2
    assert not found[1].any()


def test_the_best_are_ordered_anew_before_all_others(tiny: Embedder) -> None:
    documents = ["p q r", "hello world", "a b c", "d e f"]
    stored = tiny.encode_multivector(documents)
    asked = tiny.encode_multivector(["hello world"], query=True)
    first = np.array([[4.0, 3.0, 2.0, 1.0]])
    two = searching.reranked(first, asked, stored, 2)
    assert np.argsort(-two[0]).tolist() == [1, 0, 2, 3]
    assert (two[0, :2] > searching.ABOVE - 2).all()
    assert two[0, 2:].tolist() == [2, 1]
