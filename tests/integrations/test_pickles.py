"""Adapters in pickles, copies, closures and pools: they hold the folder, and share one model where they arrive."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import numpy as np
import pytest
from haystack import Document as HaystackDocument
from langchain_core.documents import Document
from langchain_text_splitters import CharacterTextSplitter
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document as LlamaDocument

from runtime import integrations
from runtime.integrations import (
    chroma,
    cross_encoder,
    haystack,
    langchain,
    llama_index,
    sentence_transformers,
)
from runtime.integrations.cross_encoder import CrossEncoder

TEXTS = ["bread rises", "penguins are birds"]


def _haystack_document(folder: str) -> Any:
    embedder = haystack.JinaBertDocumentEmbedder(folder)
    embedder.warm_up()
    return embedder


ADAPTERS: dict[str, tuple[Callable[[str], Any], Callable[[Any], Any]]] = {
    "SentenceTransformer": (sentence_transformers.SentenceTransformer, lambda made: made.encode(TEXTS)),
    "CrossEncoder": (
        cross_encoder.CrossEncoder,
        lambda made: made.predict([("bread", text) for text in TEXTS]),
    ),
    "langchain": (langchain.JinaBertEmbeddings, lambda made: made.embed_documents(TEXTS)),
    "langchain rerank": (
        lambda folder: langchain.JinaBertRerank(model=folder),
        lambda made: made.compress_documents([Document(text) for text in TEXTS], "bread"),
    ),
    "langchain late": (
        lambda folder: langchain.LateChunking(langchain.JinaBertEmbeddings(folder), CharacterTextSplitter()),
        lambda made: made.embed_chunks(Document(TEXTS[0]))[0][1],
    ),
    "llama-index": (llama_index.JinaBertEmbedding, lambda made: made.get_text_embedding_batch(TEXTS)),
    "llama-index late": (
        lambda folder: llama_index.LateChunking(
            embed_model=llama_index.JinaBertEmbedding(folder), splitter=SentenceSplitter()
        ),
        lambda made: [node.embedding for node in made([LlamaDocument(text=TEXTS[0])])],
    ),
    "haystack": (
        _haystack_document,
        lambda made: made.run([HaystackDocument(id="1", content=TEXTS[0])])["documents"][0].embedding,
    ),
    "chroma": (chroma.JinaBertEmbeddingFunction, lambda made: made(TEXTS)),
}
WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda made: pickle.loads(pickle.dumps(made)),
    "cloudpickle": lambda made: pickle.loads(cloudpickle.dumps(made)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_travel(tiny_folder: Path, kind: str, way: str) -> None:
    make, use = ADAPTERS[kind]
    made = make(str(tiny_folder))
    expected = use(made)
    found = use(WAYS[way](made))
    assert np.array_equal(found, expected) if not isinstance(expected[0], Document) else found == expected


def test_what_arrives_is_loaded_once_and_at_first_use(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = [pickle.dumps(make(str(tiny_folder))) for make in (langchain.JinaBertEmbeddings, CrossEncoder)]
    integrations._kept.clear()
    gc.collect()
    integrations._loaded.clear()  # as in another process
    first, second = map(pickle.loads, pickled)
    assert first.embedder is second.ranker
    assert "loaded at first use" in repr(first.embedder)
    assert integrations.shared_embedder(tiny_folder, None) is first.embedder


def test_closures_run_in_the_workers_of_joblib(tiny_folder: Path) -> None:
    model = sentence_transformers.SentenceTransformer(tiny_folder, threads=1)
    expected = model.encode(TEXTS)
    found = joblib.Parallel(n_jobs=2)(joblib.delayed(lambda text: model.encode(text))(text) for text in TEXTS)
    assert np.array_equal(found, expected)
