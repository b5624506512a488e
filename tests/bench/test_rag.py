"""The parts of the end-to-end benchmark on a tiny model: what is stored, what counts as found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bm25s")
pytest.importorskip("langchain_text_splitters")
pytest.importorskip("qdrant_client")

from runtime import Embedder
from tests.bench import rag, stores
from tests.bench.report import Result
from tests.paths import SHARED

DOCUMENTS = ["hello world. a b c", "d e f. g h i", "j k l. m n o", "p q r"]


def test_qdrant_finds_the_nearest_vectors_in_order() -> None:
    draw = np.random.default_rng(5)
    vectors, queries = (draw.standard_normal((n, 24)).astype(np.float32) for n in (300, 20))
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(vectors, axis=1)
    cosines = queries @ vectors.T / lengths
    found = stores.qdrant(vectors, queries, 10)
    assert np.array_equal(found.numbers, np.argsort(-cosines, axis=1)[:, :10])
    np.testing.assert_allclose(found.scores, -np.sort(-cosines, axis=1)[:, :10], atol=1e-6)
    few = stores.qdrant(vectors[:2], queries, 3)
    assert (few.numbers[:, 2] == -1).all()


def test_hit_rates_and_reciprocal_ranks() -> None:
    documents = np.array([0, 0, 1, 1, 2, 3, 3, 3, 3, 3, 3, 3])
    found = np.array(
        [
            [4, 0, 1, 2, 3, 5, 6, 7, 8, 9],
            [5, 6, 7, 8, 9, 10, 11, 3, 0, 1],
            [2, 0, 1, 4, -1, -1, -1, -1, -1, -1],
        ]
    )
    scores = rag.judge(found, documents, [{2}, {1}, {3}])
    assert scores.hit == {1: pytest.approx(1 / 3), 5: pytest.approx(1 / 3), 10: pytest.approx(2 / 3)}
    assert scores.mrr == {
        1: pytest.approx(1 / 3),
        5: pytest.approx(1 / 3),
        10: pytest.approx((1 + 1 / 8) / 3),
    }
    assert scores.error == pytest.approx(np.sqrt(2 / 9 / 3))


def test_late_chunking_reads_documents_that_belong_together_in_one_pass(tiny: Embedder) -> None:
    corpus = rag.Corpus(DOCUMENTS, [], [], groups=[2, 2])
    spans = [[(0, 12), (13, 18)], [(0, 6), (7, 12)], [(0, 12)], [(0, 5)]]
    vectors = rag.late(tiny, corpus, spans)
    text = f"{DOCUMENTS[0]}\n\n{DOCUMENTS[1]}\n\n"
    shift = len(DOCUMENTS[0]) + 2
    chunks = tiny.encode_chunks(text, spans=[(0, 12), (13, 18), (shift, shift + 6), (shift + 7, shift + 12)])
    assert np.array_equal(vectors[:4], [chunk.vector for chunk in chunks])
    assert vectors.shape == (6, 16)
    alone = rag.late(tiny, rag.Corpus(DOCUMENTS, [], [], groups=[1, 1, 1, 1]), spans)
    assert np.array_equal(alone[4], tiny.encode(DOCUMENTS[2]))
    assert not np.allclose(alone[0], vectors[0])


def test_chunks_are_short_and_cover_the_document(tiny: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rag, "CHUNK_TOKENS", 4)
    for document, spans in zip(DOCUMENTS, rag.split(tiny, DOCUMENTS), strict=True):
        parts = [document[start:end] for start, end in spans]
        assert all(tiny.count_tokens(part) - 2 <= 4 for part in parts)
        assert "".join(parts).replace(" ", "") == document.replace(" ", "")


def test_a_corpus_goes_through_to_a_table(tiny: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rag, "CHUNK_TOKENS", 6)
    monkeypatch.delenv(rag.POSTGRES, raising=False)
    corpus = rag.Corpus(DOCUMENTS, ["d e f. g h i", "p q r"], [{1}, {3}], groups=[2, 2])
    result = Result("rag")
    rag.measure(result, "made", corpus, tiny, {rag.OURS: tiny}, {rag.OURS: "tiny"})
    (table,) = result.tables
    assert table.title == "made: 4 documents, 6 chunks, 2 queries; %"
    assert [row[0] for row in table.rows] == [
        "BM25, whole documents",
        "BM25, plain chunks",
        "tiny, whole documents",
        "tiny, whole documents, hybrid",
        "tiny, whole documents, reranked",
        "tiny, plain chunks",
        "tiny, plain chunks, hybrid",
        "tiny, plain chunks, reranked",
        "tiny, late chunks",
    ]
    # The documents themselves are asked for.
    for way in ("", ", reranked"):
        (row,) = (row for row in table.rows if row[0] == f"tiny, whole documents{way}")
        assert row[1:7] == ["100.0"] * 6
    assert result.data["made, tiny, whole documents"]["hit"] == {1: 1, 5: 1, 10: 1}


def test_meetings_are_turns_in_a_row_and_marked_turns_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rag, "SEGMENT_WORDS", 5)
    turns = [{"speaker": who, "content": "one two three"} for who in "ABCDE"]
    queries = [{"query": "What?", "relevant_text_span": [["1", "2"], ["4", "9"]]}]
    short = {"meeting_transcripts": turns, "specific_query_list": queries}
    long = {"meeting_transcripts": turns * 3, "specific_query_list": []}
    (tmp_path / "Yale-LILY_QMSum_test.jsonl").write_text(f"{json.dumps(long)}\n{json.dumps(short)}\n")
    corpus = rag.meetings(1, tmp_path)
    assert corpus.documents == [
        "A: one two three\nB: one two three",
        "C: one two three\nD: one two three",
        "E: one two three",
    ]
    assert (corpus.queries, corpus.answers, corpus.groups) == (["What?"], [{0, 1, 2}], [3])
    assert rag.meetings(2, tmp_path).groups == [3, 8]


@pytest.mark.skipif(not (SHARED / "data" / "retrieval").is_dir(), reason="needs ../shared/data/retrieval")
def test_every_query_has_an_answer_in_the_corpus() -> None:
    for name, queries in (("xquad_en", 1190), ("cisi", 76)):
        corpus = rag.load(name)
        assert len(corpus.queries) == len(corpus.answers) == queries
        assert all(answer and max(answer) < len(corpus.documents) for answer in corpus.answers)
    assert len(rag.load("xquad_en", quick=True).documents) == rag.QUICK
