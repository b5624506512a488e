"""One empty or blank item among others never fails a batch: it has a vector, or no chunk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from haystack import Document as HaystackDocument
from langchain_core.documents import Document
from langchain_text_splitters import CharacterTextSplitter, RecursiveCharacterTextSplitter
from llama_index.core.node_parser import SentenceSplitter, TokenTextSplitter
from llama_index.core.schema import Document as LlamaDocument
from llama_index.core.schema import NodeWithScore, TextNode

from runtime.integrations import (
    chroma,
    cross_encoder,
    haystack,
    langchain,
    llama_index,
    sentence_transformers,
)

ODD = ["", "  ", "\n\n", "\u200b", "\x00", "\ud83d"]
BATCH = ["", "bread rises", " ", "penguins are birds", "\n"]


@pytest.mark.parametrize("odd", ODD[:-1])  # LlamaIndex itself cannot hash half a character
@pytest.mark.parametrize("splitter", [SentenceSplitter, TokenTextSplitter])
def test_llama_index_late_chunking(tiny_folder: Path, odd: str, splitter: type) -> None:
    late = llama_index.LateChunking(
        embed_model=llama_index.JinaBertEmbedding(str(tiny_folder)), splitter=splitter.from_defaults()
    )
    nodes = late([LlamaDocument(text=odd), LlamaDocument(text="bread rises"), LlamaDocument(text=odd)])
    assert "bread rises" in [node.get_content() for node in nodes]
    assert all(node.embedding for node in nodes)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "splitter", [CharacterTextSplitter(), RecursiveCharacterTextSplitter(chunk_size=20, chunk_overlap=0)]
)
def test_langchain_late_chunking(tiny_folder: Path, odd: str, splitter: object) -> None:
    late = langchain.LateChunking(langchain.JinaBertEmbeddings(tiny_folder), splitter)  # type: ignore[arg-type]
    chunks = late.split_documents([Document(odd), Document("bread rises"), Document(odd)])
    assert "bread rises" in [chunk.page_content for chunk in chunks]
    assert len(late.embed_documents([chunk.page_content for chunk in chunks])) == len(chunks)


def test_empty_texts_have_the_vector_of_an_empty_text(tiny_folder: Path) -> None:
    folder = str(tiny_folder)
    expected = sentence_transformers.SentenceTransformer(folder).encode(BATCH)
    assert np.allclose(langchain.JinaBertEmbeddings(folder).embed_documents(BATCH), expected)
    assert np.allclose(llama_index.JinaBertEmbedding(folder).get_text_embedding_batch(BATCH), expected)
    assert np.allclose(chroma.JinaBertEmbeddingFunction(folder)(BATCH), expected)
    documents = [HaystackDocument(id=str(number), content=text or None) for number, text in enumerate(BATCH)]
    embedded = haystack.JinaBertDocumentEmbedder(folder).run(documents)["documents"]
    assert np.allclose([document.embedding for document in embedded], expected)


def test_rankers_rank_empty_documents(tiny_folder: Path) -> None:
    folder = str(tiny_folder)
    ranked = langchain.JinaBertRerank(model=folder, top_n=None).compress_documents(
        [Document(t) for t in BATCH], "bread"
    )
    assert sorted(document.page_content for document in ranked) == sorted(BATCH)
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in BATCH]
    assert (
        len(llama_index.JinaBertRerank(model=folder, top_n=None).postprocess_nodes(nodes, query_str="bread"))
        == 5
    )
    documents = [HaystackDocument(id=str(number), content=text or None) for number, text in enumerate(BATCH)]
    assert len(haystack.JinaBertRanker(folder).run("bread", documents)["documents"]) == 5


def test_a_blank_query_among_pairs_scores_nothing_and_fails_nothing(tiny_folder: Path) -> None:
    scores = cross_encoder.CrossEncoder(tiny_folder).predict(
        [("", "bread"), ("bread", "bread"), ("bread", ""), (" ", "")]
    )
    assert np.isfinite(scores).all()
    assert scores[0] == scores[3] == 0 < scores[1]
