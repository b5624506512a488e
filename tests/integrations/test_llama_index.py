"""LlamaIndex itself, offline and without a language model: indexes, pipelines, late chunking."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llama_index.core")

from llama_index.core import (
    Document,
    MockEmbedding,
    StorageContext,
    VectorStoreIndex,
    load_index_from_storage,
)
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import MetadataMode

from runtime import Embedder, ModelError
from runtime.integrations.llama_index import JinaBertEmbedding, LateChunking
from tests.tiny import make_model

TEXTS = ["hello world", "a b c", "x y z, hello"]
LONG = "hello world, a b c. d e f g h. i j k l hello. m n o p. q r s t, world. hello world, a b c."


@pytest.fixture
def model(tiny_folder: Path) -> JinaBertEmbedding:
    return JinaBertEmbedding(str(tiny_folder), threads=1)


def splitter(model: JinaBertEmbedding) -> SentenceSplitter:
    return SentenceSplitter(chunk_size=12, chunk_overlap=4, tokenizer=model.tokenize)


def test_vectors_are_the_embedders(model: JinaBertEmbedding, tiny: Embedder) -> None:
    vectors = model.get_text_embedding_batch(TEXTS)
    assert np.array_equal(np.array(vectors, np.float32), tiny.encode(TEXTS))
    assert type(vectors[0][0]) is float
    assert model.get_text_embedding("a b c") == vectors[1]
    assert model.get_query_embedding("a b c") == vectors[1]
    assert model.model_name == "tiny"


def test_asynchronous_vectors_are_the_same(model: JinaBertEmbedding) -> None:
    async def all_three() -> list[list[list[float]]]:
        batch, text, query = await asyncio.gather(
            model.aget_text_embedding_batch(TEXTS),
            model.aget_text_embedding("a b c"),
            model.aget_query_embedding("a b c"),
        )
        return [batch, [text], [query]]

    vectors = model.get_text_embedding_batch(TEXTS)
    assert asyncio.run(all_three()) == [vectors, [vectors[1]], [vectors[1]]]


def test_an_index_finds_the_text_and_survives_on_disk(model: JinaBertEmbedding, tmp_path: Path) -> None:
    documents = [Document(text=text) for text in TEXTS]
    index = VectorStoreIndex.from_documents(documents, embed_model=model)
    (best,) = index.as_retriever(similarity_top_k=1).retrieve("a b c")
    assert best.text == "a b c"
    assert best.score == pytest.approx(1)
    index.storage_context.persist(tmp_path)
    again = load_index_from_storage(StorageContext.from_defaults(persist_dir=tmp_path), embed_model=model)
    assert again.as_retriever(similarity_top_k=1).retrieve("hello world")[0].text == "hello world"


def test_it_is_written_down_and_pickled(model: JinaBertEmbedding, tiny_folder: Path) -> None:
    written = model.to_dict()
    assert written["class_name"] == "JinaBertEmbedding"
    assert written["model"] == str(tiny_folder)
    for again in (JinaBertEmbedding.from_dict(written), pickle.loads(pickle.dumps(model))):
        assert again.get_text_embedding("a b") == model.get_text_embedding("a b")


def test_a_wrong_folder_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        JinaBertEmbedding(str(tmp_path / "none"))


def test_late_chunks_come_from_one_pass_over_the_document(model: JinaBertEmbedding, tiny: Embedder) -> None:
    late = LateChunking(embed_model=model, splitter=splitter(model))
    documents = [Document(text=LONG, metadata={"source": "book"}), Document(text="hello. a b c. z")]
    nodes = late(documents)
    assert len(nodes) > 4
    texts = {document.doc_id: document.text for document in documents}
    for node in nodes:
        text = texts[node.ref_doc_id]
        place = (node.start_char_idx, node.end_char_idx)
        assert text[slice(*place)] == node.get_content(metadata_mode=MetadataMode.NONE)
        (expected,) = tiny.encode_chunks(text, spans=[place])
        assert np.array_equal(np.array(node.embedding, np.float32), expected.vector)
    assert nodes[0].metadata == {"source": "book"}


def test_an_index_keeps_the_late_vectors(model: JinaBertEmbedding) -> None:
    nodes = LateChunking(embed_model=model, splitter=splitter(model))([Document(text=LONG)])
    index = VectorStoreIndex(nodes, embed_model=model)
    stored = index.vector_store.data.embedding_dict
    assert {node.node_id: node.embedding for node in nodes} == stored
    assert index.as_retriever(similarity_top_k=1).retrieve("q r s t, world")[0].node_id in stored


def test_late_chunking_is_a_step_of_a_pipeline(model: JinaBertEmbedding) -> None:
    pipeline = IngestionPipeline(transformations=[LateChunking(embed_model=model, splitter=splitter(model))])
    nodes = pipeline.run(documents=[Document(text=LONG)])
    assert all(len(node.embedding) == 16 for node in nodes)
    again = pipeline.run(documents=[Document(text=LONG)])  # out of the pipeline's cache, with their vectors
    assert [node.embedding for node in again] == [node.embedding for node in nodes]
    plain = IngestionPipeline(transformations=[splitter(model), model])
    others = plain.run(documents=[Document(text=LONG)])
    assert [node.text for node in others] == [node.text for node in nodes]
    assert [node.embedding for node in others] != [node.embedding for node in nodes]


def test_late_chunking_wants_this_model(model: JinaBertEmbedding) -> None:
    with pytest.raises(ValueError, match="JinaBertEmbedding"):
        LateChunking(embed_model=MockEmbedding(embed_dim=3), splitter=splitter(model))


def test_vectors_and_late_chunks_are_cut_where_the_model_allows_it(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "truncatable", truncatable=True)
    cut = JinaBertEmbedding(str(folder), threads=1, dimensions=6)
    with Embedder(folder, threads=1) as embedder:
        expected = embedder.encode(["hello world"], dimensions=6)
    assert np.array_equal(np.array(cut.get_text_embedding_batch(["hello world"]), np.float32), expected)
    assert np.array_equal(np.array([cut.get_query_embedding("hello world")], np.float32), expected)
    late = LateChunking(embed_model=cut, splitter=SentenceSplitter(chunk_size=20, chunk_overlap=0))
    assert {len(node.embedding or []) for node in late([Document(text="hello world. a b c.")])} == {6}
    assert JinaBertEmbedding.from_dict(cut.to_dict()).dimensions == 6
