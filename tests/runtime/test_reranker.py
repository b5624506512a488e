"""Documents in the order in which they answer a query: by token vectors, and by a cross-encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import Embedder, InputError, ModelError, Reranker
from tests.tiny import make_cross_encoder

DOCUMENTS = ["a b c", "hello world", "world, hello a", "hello world", ""]


def test_the_best_comes_first_and_equal_ones_in_their_order(tiny: Embedder) -> None:
    ranked = tiny.rerank("hello world", DOCUMENTS)
    assert sorted(each.index for each in ranked) == list(range(len(DOCUMENTS)))
    assert [each.index for each in ranked[:2]] == [1, 3]
    scores = [each.score for each in ranked]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == scores[1]


@pytest.mark.parametrize(("top_n", "count"), [(1, 1), (3, 3), (5, 5), (99, 5), (None, 5)])
def test_top_n(tiny: Embedder, top_n: int | None, count: int) -> None:
    assert tiny.rerank("hello", DOCUMENTS, top_n) == tiny.rerank("hello", DOCUMENTS)[:count]


def test_where_a_document_answers_is_a_span_of_it(tiny: Embedder) -> None:
    for ranked in tiny.rerank("hello", DOCUMENTS, return_documents=True):
        assert ranked.text == DOCUMENTS[ranked.index]
        assert ranked.start is not None
        assert ranked.end is not None
        assert ranked.text[ranked.start : ranked.end].strip() == ranked.text  # shorter than a window
    assert all(ranked.start is None for ranked in tiny.rerank("hello", DOCUMENTS, spans=False))


def test_a_cut_document_says_so(tiny: Embedder) -> None:
    ranked = tiny.rerank("hello", ["a b c d e f", "a"], max_length=5)
    assert {each.index: each.truncated for each in ranked} == {0: True, 1: False}


def test_no_documents_are_no_results(tiny: Embedder) -> None:
    assert tiny.rerank("hello", []) == []


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        (("", ["a"]), InputError, "the query is empty"),
        (("  \n", ["a"]), InputError, "the query is empty"),
        ((None, ["a"]), TypeError, "query is NoneType, not str"),
        (("a", ["a", None]), TypeError, r"documents\[1\] is NoneType, not str"),
        (("a", ["a", 3, None]), TypeError, r"documents\[1\] is int"),
        (("a", "a text"), TypeError, "documents is str: expected a list of str"),
        (("a", {"a": 1}), TypeError, "documents is dict"),
        (("a", 7), TypeError, "documents is int"),
        (("a", ["a"], 0), InputError, "top_n=0: must be an integer of at least 1"),
        (("a", ["a"], -1), InputError, "top_n=-1"),
        (("a", ["a"], True), InputError, "top_n=True"),
        (("a", ["a"], 1.5), InputError, r"top_n=1\.5"),
        (("a " * 40, ["a"]), InputError, "the query has 42 tokens, more than max_length 32"),
    ],
)
def test_bad_input_is_named(
    tiny: Embedder, cross: Path, arguments: tuple[object, ...], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        tiny.rerank(*arguments)  # type: ignore[arg-type]
    if "more than max_length" in reason:
        reason = "leaves no room for a document"
    with Reranker(cross, threads=1) as reranker, pytest.raises(error, match=reason):
        reranker.rerank(*arguments)  # type: ignore[arg-type]


@given(st.lists(st.sampled_from([*DOCUMENTS, "a b", "hello"]), min_size=1, max_size=12))
def test_a_score_does_not_depend_on_the_other_documents(tiny: Embedder, documents: list[str]) -> None:
    alone = {text: tiny.rerank("hello a", [text])[0].score for text in documents}
    assert all(each.score == alone[documents[each.index]] for each in tiny.rerank("hello a", documents))


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder's model folder."""
    return make_cross_encoder(tmp_path_factory.mktemp("cross") / "model")


def test_a_cross_encoder_scores_pairs(cross: Path) -> None:
    with Reranker(cross, threads=1) as reranker:
        model = reranker.model
        scores = reranker.score([("hello", text) for text in DOCUMENTS])
        for text, score in zip(DOCUMENTS, scores, strict=True):
            ids, _, _ = model.tokenizer.encode_pair("hello", text)
            pooler, classifier = (module.arrays for module in model.modules)
            first = model.embed_tokens(ids)[0]
            expected = classifier["weight"] @ np.tanh(pooler["weight"] @ first + pooler["bias"])
            np.testing.assert_allclose(score, expected[0] + classifier["bias"][0], atol=1e-4)
        ranked = reranker.rerank("hello", DOCUMENTS, 3)
        assert [each.score for each in ranked] == sorted(scores.tolist(), reverse=True)[:3]
        assert reranker.rerank("hello", []) == []


def test_a_pair_keeps_the_query_and_cuts_the_document(cross: Path) -> None:
    with Reranker(cross, threads=1) as reranker:
        long = "hello world " * 30
        (ranked,) = reranker.rerank("a b c", [long])
        assert ranked.truncated
        assert ranked.score == reranker.score([("a b c", long)])[0]
        with pytest.raises(InputError, match="leaves no room"):
            reranker.score([("a b c", "a")], max_length=6)
        with pytest.raises(TypeError, match=r"pairs\[0\]"):
            reranker.score(["ab"])  # type: ignore[list-item]


def test_each_class_says_which_the_other_model_is_for(tiny_folder: Path, cross: Path) -> None:
    with pytest.raises(ModelError, match=r"cross-encoder.*use Reranker\("):
        Embedder(cross)
    with pytest.raises(ModelError, match=r"embedding model, not a cross-encoder: use Embedder\(.*\)\.rerank"):
        Reranker(tiny_folder)


def test_the_bundled_model_finds_the_answer_and_where_it_stands() -> None:
    filler = "The river was quiet that morning, and the boats lay side by side along the bank. " * 20
    answer = "The pass key of the archive is 48213."
    documents = [filler, filler + answer + " " + filler, "Whales are mammals."]
    with Embedder(threads=1) as embedder:
        best = embedder.rerank("What is the pass key?", documents, 1, return_documents=True)[0]
    assert best.index == 1
    assert best.text is not None
    assert "pass key" in best.text[best.start : best.end]
