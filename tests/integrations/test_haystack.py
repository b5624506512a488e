"""Haystack itself, offline: components in pipelines, with a document store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("haystack")

from haystack import Document, Pipeline
from haystack.components.retrievers import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore

from runtime import Embedder, ModelError
from runtime.integrations.haystack import JinaBertDocumentEmbedder, JinaBertTextEmbedder
from tests.tiny import make_model

TEXTS = ["hello world", "a b c", "x y z, hello"]


def pipelines(folder: Path) -> tuple[Pipeline, Pipeline]:
    """One that writes documents, one that queries them."""
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    writing, asking = Pipeline(), Pipeline()
    writing.add_component("embedder", JinaBertDocumentEmbedder(str(folder), threads=1))
    writing.add_component("writer", DocumentWriter(store))
    writing.connect("embedder.documents", "writer.documents")
    asking.add_component("embedder", JinaBertTextEmbedder(str(folder), threads=1))
    asking.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    asking.connect("embedder.embedding", "retriever.query_embedding")
    return writing, asking


def test_a_pipeline_finds_the_document(tiny_folder: Path) -> None:
    writing, asking = pipelines(tiny_folder)
    written = writing.run({"embedder": {"documents": [Document(content=text) for text in TEXTS]}})
    assert written["writer"] == {"documents_written": 3}
    assert written["embedder"]["meta"]["model"] == "tiny"
    for text in TEXTS:
        (found,) = asking.run({"embedder": {"text": text}})["retriever"]["documents"]
        assert found.content == text
        assert found.score == pytest.approx(1)


def test_a_pipeline_is_written_down_and_read_again(tiny_folder: Path) -> None:
    _, asking = pipelines(tiny_folder)
    again = Pipeline.loads(asking.dumps())
    assert again.get_component("embedder").to_dict() == asking.get_component("embedder").to_dict()


def test_vectors_are_the_embedders(tiny_folder: Path, tiny: Embedder) -> None:
    expected = tiny.encode(TEXTS)
    result = JinaBertDocumentEmbedder(str(tiny_folder), threads=1).run(
        [Document(content=text) for text in TEXTS]
    )
    vectors = [document.embedding for document in result["documents"]]
    assert np.array_equal(np.array(vectors, np.float32), expected)
    assert type(vectors[0][0]) is float
    tokens = sum(tiny.count_tokens(TEXTS))
    assert result["meta"] == {"model": "tiny", "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    single = JinaBertTextEmbedder(str(tiny_folder), threads=1).run("a b c")
    assert np.array_equal(np.array(single["embedding"], np.float32), expected[1])
    assert single["meta"]["usage"]["total_tokens"] == 5


def test_asynchronous_vectors_are_the_same(tiny_folder: Path) -> None:
    text, documents = JinaBertTextEmbedder(str(tiny_folder)), JinaBertDocumentEmbedder(str(tiny_folder))
    assert asyncio.run(text.run_async("hello")) == text.run("hello")
    given = [Document(content="hello")]
    assert asyncio.run(documents.run_async(given)) == documents.run(given)


def test_meta_fields_come_before_the_content(tiny_folder: Path, tiny: Embedder) -> None:
    embedder = JinaBertDocumentEmbedder(
        str(tiny_folder),
        threads=1,
        prefix="a ",
        suffix=" z",
        meta_fields_to_embed=["title", "year", "none", "absent"],
        embedding_separator=", ",
    )
    document = Document(content="world", meta={"title": "hello", "year": 7, "none": None, "other": "x"})
    (embedded,) = embedder.run(
        [
            document,
        ]
    )["documents"]
    assert np.array_equal(np.array(embedded.embedding, np.float32), tiny.encode("a hello, 7, world z"))
    assert document.embedding is None  # the one given stays as it was
    assert (embedded.id, embedded.content, embedded.meta) == (document.id, document.content, document.meta)
    (empty,) = embedder.run([Document(content=None)])["documents"]
    assert np.array_equal(np.array(empty.embedding, np.float32), tiny.encode("a  z"))


def test_components_are_written_down_with_all_they_were_told(tiny_folder: Path) -> None:
    options = {
        "model": str(tiny_folder),
        "threads": 1,
        "max_length": 5,
        "prefix": "a",
        "suffix": "b",
        "dimensions": 8,
    }
    more = {"meta_fields_to_embed": ["title"], "embedding_separator": "; ", "progress_bar": True}
    for made in (JinaBertTextEmbedder(**options), JinaBertDocumentEmbedder(**options, **more)):
        written = made.to_dict()
        assert written["type"] == f"runtime.integrations.haystack.{type(made).__name__}"
        assert written["init_parameters"] == {**options, **(more if "Document" in written["type"] else {})}
        assert type(made).from_dict(written).to_dict() == written


def test_nothing_is_loaded_before_warm_up(tmp_path: Path) -> None:
    embedder = JinaBertTextEmbedder(str(tmp_path / "none"))
    with pytest.raises(ModelError, match="does not exist"):
        embedder.warm_up()


def test_the_wrong_component_says_which_is_right(tiny_folder: Path) -> None:
    with pytest.raises(TypeError, match="JinaBertDocumentEmbedder"):
        JinaBertTextEmbedder(str(tiny_folder)).run([Document(content="hello")])
    for wrong in ("hello", ["hello"]):
        with pytest.raises(TypeError, match="JinaBertTextEmbedder"):
            JinaBertDocumentEmbedder(str(tiny_folder)).run(wrong)
    assert JinaBertDocumentEmbedder(str(tiny_folder)).run([])["documents"] == []


def test_vectors_are_cut_where_the_model_allows_it(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "truncatable", truncatable=True)
    with Embedder(folder, threads=1) as embedder:
        expected = embedder.encode(["hello world"], dimensions=6)
    text = JinaBertTextEmbedder(str(folder), threads=1, dimensions=6).run("hello world")
    assert np.array_equal(np.array([text["embedding"]], np.float32), expected)
    documents = JinaBertDocumentEmbedder(str(folder), threads=1, dimensions=6).run(
        [Document(content="hello world")]
    )
    assert np.array_equal(np.array([documents["documents"][0].embedding], np.float32), expected)
