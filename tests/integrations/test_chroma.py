"""Chroma itself, offline: a collection that remembers its function across processes."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("chromadb")

import chromadb
from chromadb.utils.embedding_functions import config_to_embedding_function, known_embedding_functions

from runtime import Embedder, InputError, ModelError
from runtime.integrations.chroma import JinaBertEmbeddingFunction
from runtime.modules import MODULES_DATA, Module, describe, pack
from tests.tiny import make_model, write_manifest

TEXTS = ["hello world", "a b c", "x y z, hello"]


@pytest.fixture
def client(tmp_path: Path) -> chromadb.ClientAPI:
    return chromadb.PersistentClient(str(tmp_path / "chroma"))


def test_vectors_are_the_embedders(tiny_folder: Path, tiny: Embedder) -> None:
    function = JinaBertEmbeddingFunction(tiny_folder, threads=1)
    vectors = function(TEXTS)
    assert np.array_equal(np.array(vectors), tiny.encode(TEXTS))
    assert vectors[0].dtype == np.float32
    assert np.array_equal(function.embed_query(["a b c"])[0], vectors[1])
    assert function.max_tokens() == 32


def test_a_collection_finds_the_text_by_cosine(client: chromadb.ClientAPI, tiny_folder: Path) -> None:
    collection = client.create_collection(
        "texts", embedding_function=JinaBertEmbeddingFunction(tiny_folder, threads=1)
    )
    collection.add(ids=["0", "1", "2"], documents=TEXTS)
    found = collection.query(query_texts=["a b c", "hello world"], n_results=1)
    assert found["ids"] == [["1"], ["0"]]
    assert found["distances"][0][0] == pytest.approx(0, abs=1e-6)
    assert collection.configuration_json["hnsw"]["space"] == "cosine"


ANOTHER_PROCESS = """
import json, sys
import chromadb
import runtime.integrations.chroma
from runtime import ModelError
collection = chromadb.PersistentClient(sys.argv[1]).get_collection("texts")
try:
    found = collection.query(query_texts=sys.argv[2:], n_results=1, include=["documents"])["documents"]
except ModelError as error:
    found = str(error)
function = collection.configuration["embedding_function"]
print(json.dumps([collection.count(), found, function.get_config()]))
"""


def test_another_process_opens_the_collection_by_name(
    client: chromadb.ClientAPI,
    tiny_folder: Path,
    tmp_path: Path,
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    function = JinaBertEmbeddingFunction(tiny_folder, threads=1, max_length=20)
    client.create_collection("texts", embedding_function=function).add(ids=["0", "1", "2"], documents=TEXTS)
    result = run_python(ANOTHER_PROCESS, str(tmp_path / "chroma"), "x y z, hello", "hello world")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [3, [["x y z, hello"], ["hello world"]], function.get_config()]


def test_a_folder_with_other_weights_does_not_embed_for_the_collection(
    client: chromadb.ClientAPI,
    tmp_path: Path,
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    folder = make_model(tmp_path / "model")
    function = JinaBertEmbeddingFunction(folder)
    client.create_collection("texts", embedding_function=function).add(ids=["0"], documents=["hello"])
    folder.rename(tmp_path / "old")
    make_model(folder, poison=True)
    count, found, config = json.loads(run_python(ANOTHER_PROCESS, str(tmp_path / "chroma"), "hello").stdout)
    assert count == 1  # still there to read
    assert re.search("holds tiny with weights .* vectors are from .* in a new collection", found)
    assert config == function.get_config()


def test_it_is_registered_and_built_from_its_configuration(tiny_folder: Path) -> None:
    function = JinaBertEmbeddingFunction(tiny_folder, threads=1)
    assert known_embedding_functions["jinabert-runtime"] is JinaBertEmbeddingFunction
    config = json.loads(json.dumps(function.get_config()))
    again = config_to_embedding_function({"name": function.name(), "config": config})
    assert again.get_config() == config
    assert np.array_equal(again(["hello"]), function(["hello"]))
    assert not function.is_legacy()


def test_a_folder_that_has_gone_is_said_when_it_is_needed(
    client: chromadb.ClientAPI,
    tmp_path: Path,
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    folder = make_model(tmp_path / "model")
    collection = client.create_collection("texts", embedding_function=JinaBertEmbeddingFunction(folder))
    collection.add(ids=["0"], documents=["hello"])
    folder.rename(tmp_path / "elsewhere")
    count, found, _ = json.loads(run_python(ANOTHER_PROCESS, str(tmp_path / "chroma"), "hello").stdout)
    assert count == 1
    assert "does not exist" in found
    with pytest.raises(ModelError, match="does not exist"):
        JinaBertEmbeddingFunction(folder)


def test_updates_that_would_mix_vectors_are_refused(tiny_folder: Path) -> None:
    function = JinaBertEmbeddingFunction(tiny_folder)
    old = function.get_config()
    function.validate_config_update(old, {**old, "model": "/elsewhere", "threads": 2})
    for change in ({"weights": "other"}, {"max_length": 7}, {"dimensions": 8}):
        with pytest.raises(InputError, match="make a new collection"):
            function.validate_config_update(old, {**old, **change})


@pytest.mark.parametrize("config", [{"colour": 1}, {"threads": "2"}, {"model": 7}, {"max_length": True}])
def test_a_configuration_of_something_else_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(config))}"):
        JinaBertEmbeddingFunction.build_from_config(config)


def test_vectors_are_cut_and_a_rotation_is_another_model(tmp_path: Path) -> None:
    straight, rotated = (make_model(tmp_path / name) for name in ("straight", "rotated"))
    texts = ["hello world", "a b c"]
    rotation = Module("dense", 16, 16, arrays={"weight": np.eye(16, dtype=np.float32)[::-1]})
    (rotated / MODULES_DATA).write_bytes(pack([rotation]))
    write_manifest(rotated, modules=[describe(rotation)], truncatable=True)
    function = JinaBertEmbeddingFunction(rotated, threads=1, dimensions=6)
    with Embedder(rotated, threads=1) as embedder:
        assert np.array_equal(function(texts), embedder.encode(texts, dimensions=6))
        assert np.array_equal(function.embed_query(texts), embedder.encode(texts, dimensions=6))
    assert JinaBertEmbeddingFunction.build_from_config(function.get_config()).dimensions == 6
    with pytest.raises(ModelError, match="but this collection's vectors are from"):
        JinaBertEmbeddingFunction(straight, weights=function.weights)(texts)
