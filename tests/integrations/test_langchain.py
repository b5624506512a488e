"""LangChain itself, offline: a vector store, text splitters, late chunking through a store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("langchain_text_splitters")

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import CharacterTextSplitter, RecursiveCharacterTextSplitter

from runtime import Embedder, InputError
from runtime.integrations.langchain import JinaBertEmbeddings, LateChunking
from tests.tiny import make_model

TEXTS = ["hello world", "a b c", "x y z, hello"]
LONG = "hello world, a b c. d e f g h. i j k l hello. m n o p. q r s t, world. hello world, a b c."


@pytest.fixture
def embeddings(tiny_folder: Path) -> JinaBertEmbeddings:
    return JinaBertEmbeddings(tiny_folder, threads=1)


def test_vectors_are_the_embedders(embeddings: JinaBertEmbeddings, tiny: Embedder) -> None:
    documents = embeddings.embed_documents(TEXTS)
    assert np.array_equal(np.array(documents, np.float32), tiny.encode(TEXTS))
    assert type(documents[0][0]) is float
    assert np.array_equal(np.array(embeddings.embed_query("hello"), np.float32), tiny.encode("hello"))
    assert embeddings.embed_documents([]) == []
    assert embeddings.count_tokens("hello world,") == 3


def test_asynchronous_vectors_are_the_same(embeddings: JinaBertEmbeddings) -> None:
    async def both() -> list[object]:
        return await asyncio.gather(embeddings.aembed_documents(TEXTS), embeddings.aembed_query("hello"))

    assert asyncio.run(both()) == [embeddings.embed_documents(TEXTS), embeddings.embed_query("hello")]


def test_texts_are_cut_where_told(tiny_folder: Path, tiny: Embedder) -> None:
    short = JinaBertEmbeddings(tiny_folder, threads=1, max_length=4)
    assert np.array_equal(np.array(short.embed_query("a b c d"), np.float32), tiny.encode("a b"))


def test_a_vector_store_finds_the_text(embeddings: JinaBertEmbeddings) -> None:
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(text, metadata={"number": n}) for n, text in enumerate(TEXTS)])
    ((best, score),) = store.similarity_search_with_score("a b c", k=1)
    assert best.page_content == "a b c"
    assert score == pytest.approx(1)
    found = asyncio.run(store.asimilarity_search("x y z, hello", k=3))
    assert found[0].metadata["number"] == 2
    assert store.as_retriever().invoke("hello world")[0].page_content == "hello world"


@pytest.mark.parametrize("add_start_index", [True, False])
def test_late_chunks_come_from_one_pass_over_the_document(
    embeddings: JinaBertEmbeddings, tiny: Embedder, add_start_index: bool
) -> None:
    splitter = RecursiveCharacterTextSplitter(
        chunk_size=8,
        chunk_overlap=2,
        length_function=embeddings.count_tokens,
        add_start_index=add_start_index,
        separators=[". ", " "],
    )
    document = Document(LONG, metadata={"source": "book"})
    pairs = LateChunking(embeddings, splitter).embed_chunks(document)
    assert len(pairs) > 3
    assert all(chunk.metadata["source"] == "book" for chunk, _ in pairs)
    place = 0
    for chunk, vector in pairs:
        place = LONG.index(chunk.page_content, place)
        (expected,) = tiny.encode_chunks(LONG, spans=[(place, place + len(chunk.page_content))])
        assert np.array_equal(np.array(vector, np.float32), expected.vector)
        assert not np.allclose(vector, embeddings.embed_query(chunk.page_content))  # it knows its context
        place += 1


def test_a_store_gets_late_vectors_through_split_documents(embeddings: JinaBertEmbeddings) -> None:
    splitter = CharacterTextSplitter(separator=". ", chunk_size=14, chunk_overlap=0)
    late = LateChunking(embeddings, splitter)
    documents = [
        Document(LONG),
        Document("hello world, a b c. other words"),
    ]  # a chunk of the same text in both
    store = InMemoryVectorStore(late)
    split = late.split_documents(documents)
    store.add_documents(split)
    expected = [pair for document in documents for pair in late.embed_chunks(document)]
    stored = list(store.store.values())
    assert [entry["text"] for entry in stored] == [chunk.page_content for chunk, _ in expected]
    assert [entry["vector"] for entry in stored] == [vector for _, vector in expected]
    assert stored[0]["text"] == stored[-2]["text"]
    assert stored[0]["vector"] != stored[-2]["vector"]
    assert store.similarity_search("i j k l hello", k=1)[0].page_content == "i j k l hello"


def test_a_text_that_was_not_split_here_is_refused(embeddings: JinaBertEmbeddings) -> None:
    late = LateChunking(embeddings, CharacterTextSplitter(separator=". ", chunk_size=14, chunk_overlap=0))
    store = InMemoryVectorStore(late)
    split = late.split_documents([Document(LONG)])
    store.add_documents(split)
    with pytest.raises(InputError, match=r"texts\[0\] 'hello world.*no chunk of split_documents"):
        store.add_documents(split)  # its vectors are in the store already
    with pytest.raises(InputError, match=r"texts\[0\] 'other'"):
        store.add_texts(["other"])


def test_a_splitter_that_changes_the_text_is_refused(embeddings: JinaBertEmbeddings) -> None:
    class Shouting(CharacterTextSplitter):
        def split_text(self, text: str) -> list[str]:
            return [part.upper() for part in super().split_text(text)]

    late = LateChunking(embeddings, Shouting(separator=". ", chunk_size=14, chunk_overlap=0))
    with pytest.raises(InputError, match=r"parts\[0\] 'HELLO WORLD.* word for word"):
        late.split_documents([Document(LONG)])


def test_vectors_and_late_chunks_are_cut_where_the_model_allows_it(tmp_path: Path, tiny_folder: Path) -> None:
    folder = make_model(tmp_path / "truncatable", truncatable=True)
    cut = JinaBertEmbeddings(folder, threads=1, dimensions=6)
    with Embedder(folder, threads=1) as embedder:
        expected = embedder.encode(TEXTS, dimensions=6)
    assert np.array_equal(np.array(cut.embed_documents(TEXTS), np.float32), expected)
    assert np.array_equal(np.array(cut.embed_query(TEXTS[0]), np.float32), expected[0])
    late = LateChunking(cut, CharacterTextSplitter(separator=" ", chunk_size=6, chunk_overlap=0))
    assert {len(vector) for _, vector in late.embed_chunks(Document("hello world a b c"))} == {6}
    with pytest.raises(InputError, match="cannot be cut"):
        JinaBertEmbeddings(tiny_folder, threads=1, dimensions=6)
