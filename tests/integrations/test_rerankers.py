"""Rerank adapters under the real libraries, with an embedding model and with a cross-encoder."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from runtime import Embedder, Reranker
from runtime.integrations.cross_encoder import CrossEncoder
from tests.tiny import make_cross_encoder

TEXTS = ["a b c", "hello world", "", "world, hello a"]
QUERY = "hello a"


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cross-encoder."""
    return make_cross_encoder(tmp_path_factory.mktemp("cross") / "model")


@pytest.fixture(params=["embedding model", "cross-encoder"])
def folder(request: pytest.FixtureRequest, tiny_folder: Path, cross: Path) -> str:
    """One model folder of each task."""
    return str(tiny_folder if request.param == "embedding model" else cross)


def expected(folder: str, top_n: int | None = None) -> list[tuple[int, float]]:
    """Index and score of the library's own ranking."""
    cross = "cross" in folder
    with Reranker(folder, threads=1) if cross else Embedder(folder, threads=1) as ranker:
        return [(each.index, each.score) for each in ranker.rerank(QUERY, TEXTS, top_n)]


def test_langchain(folder: str) -> None:
    documents_module = pytest.importorskip("langchain_core.documents")
    from runtime.integrations.langchain import JinaBertRerank

    documents = [documents_module.Document(text, metadata={"number": n}) for n, text in enumerate(TEXTS)]
    compressor = JinaBertRerank(model=folder, threads=1, top_n=3)
    found = compressor.compress_documents(documents, QUERY)
    wanted = expected(folder, 3)
    assert [(each.metadata["number"], each.metadata["relevance_score"]) for each in found] == wanted
    assert all("relevance_score" not in document.metadata for document in documents)
    if "cross" not in folder:
        best = found[0]
        span = best.page_content[best.metadata["relevant_start"] : best.metadata["relevant_end"]]
        assert span
        assert span in best.page_content
    assert compressor.compress_documents([], QUERY) == []
    assert pickle.loads(pickle.dumps(compressor)).compress_documents(documents, QUERY) == found


def test_llama_index(folder: str) -> None:
    schema = pytest.importorskip("llama_index.core.schema")
    from runtime.integrations.llama_index import JinaBertRerank

    nodes = [
        schema.NodeWithScore(node=schema.TextNode(text=text, id_=str(n))) for n, text in enumerate(TEXTS)
    ]
    reranker = JinaBertRerank(model=folder, threads=1, top_n=2)
    found = reranker.postprocess_nodes(nodes, query_str=QUERY)
    assert [(int(each.node.node_id), each.score) for each in found] == expected(folder, 2)
    assert reranker.postprocess_nodes([], query_str=QUERY) == []
    with pytest.raises(ValueError, match="needs a query"):
        reranker.postprocess_nodes(nodes)


def test_haystack(folder: str) -> None:
    haystack = pytest.importorskip("haystack")
    from runtime.integrations.haystack import JinaBertRanker

    documents = [haystack.Document(content=text, meta={"number": n}) for n, text in enumerate(TEXTS)]
    pipeline = haystack.Pipeline()
    pipeline.add_component("ranker", JinaBertRanker(model=folder, threads=1, top_k=3))
    again = haystack.Pipeline.loads(pipeline.dumps())
    for one in (pipeline, again):
        found = one.run({"ranker": {"query": QUERY, "documents": documents}})["ranker"]["documents"]
        assert [(each.meta["number"], each.score) for each in found] == expected(folder, 3)
    with pytest.raises(TypeError, match="documents is not a list of Document"):
        JinaBertRanker(model=folder).run(QUERY, ["a"])  # type: ignore[list-item]


def test_cross_encoder_surface(folder: str) -> None:
    model = CrossEncoder(folder, threads=1)
    wanted = dict(expected(folder))
    logistic = (lambda score: 1 / (1 + np.exp(-score))) if "cross" in folder else (lambda score: score)
    scores = model.predict([(QUERY, text) for text in TEXTS])
    assert isinstance(scores, np.ndarray)
    np.testing.assert_allclose(scores, [logistic(wanted[n]) for n in range(len(TEXTS))], rtol=1e-6)
    assert model.predict((QUERY, TEXTS[1])) == scores[1]
    ranked = model.rank(QUERY, TEXTS, top_k=2, return_documents=True)
    assert [each["corpus_id"] for each in ranked] == [index for index, _ in expected(folder, 2)]
    assert ranked[0]["text"] == TEXTS[ranked[0]["corpus_id"]]
    assert model.rank(QUERY, []) == []
    if "cross" in folder:
        raw = model.predict([(QUERY, text) for text in TEXTS], activation_fn=lambda logits: logits)
        np.testing.assert_array_equal(raw, np.float32([wanted[n] for n in range(len(TEXTS))]))
    with pytest.raises(TypeError, match=r"\[0\]"):
        model.predict([("a", None)])  # type: ignore[list-item]
