"""Pooling modes, modules and prompts that a folder declares: bit-identical in any batch, with any number of threads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime import Embedder, modules
from runtime.manifest import file_facts
from runtime.pooling import MODES
from tests.runtime.test_modules import dense, layer_norm
from tests.tiny import seal
from tests.trust.texts import long_text, short_texts


@pytest.fixture(scope="module")
def declared(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with every pooling mode, four modules, and prompts that are not pooled."""
    folder = tmp_path_factory.mktemp("declared") / "model"
    folder.mkdir()
    document = json.loads((embedded / "manifest.json").read_text(encoding="utf-8"))
    for name in document["files"]:
        (folder / name).write_bytes((embedded / name).read_bytes())
    size = len(MODES) * document["hidden_size"]
    chain = [
        modules.Module("normalize", size, size),
        dense(size, 200, activation="tanh"),
        layer_norm(200),
        dense(200, 96, activation="gelu", use_residual=True),
    ]
    (folder / modules.MODULES_DATA).write_bytes(modules.pack(chain))
    document["files"][modules.MODULES_DATA] = file_facts(folder / modules.MODULES_DATA)._asdict()
    document |= {
        "pooling": {"modes": list(MODES), "include_prompt": False},
        "modules": [modules.describe(module) for module in chain],
        "dimension": 96,
        "normalize": False,
        "prompts": {"query": "Represent this question: "},
        "default_prompt_name": "query",
    }
    seal(folder, document)
    return folder


@pytest.fixture(scope="module")
def two_threads(declared: Path) -> Iterator[Embedder]:
    with Embedder(declared, threads=2) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def texts(two_threads: Embedder) -> list[str]:
    tokenizer = two_threads.tokenizer
    return [
        "",
        "hello",
        *short_texts(tokenizer, 12),
        *(long_text(tokenizer, n) for n in (63, 64, 257, 700, 1100)),
    ]


@pytest.fixture(scope="module")
def alone(two_threads: Embedder, texts: list[str]) -> NDArray[np.float32]:
    return np.stack([two_threads.encode(text) for text in texts])


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_batch(
    two_threads: Embedder, texts: list[str], alone: NDArray[np.float32], data: st.DataObject
) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=12))
    tokens, size = data.draw(st.sampled_from([1, 500, 50_000])), data.draw(st.sampled_from([None, 1, 3]))
    vectors = two_threads.encode([texts[number] for number in numbers], batch_tokens=tokens, batch_size=size)
    assert (vectors == alone[numbers]).all()


def test_any_number_of_threads(declared: Path, texts: list[str], alone: NDArray[np.float32]) -> None:
    with Embedder(declared, threads=1) as embedder:
        assert (embedder.encode(texts) == alone).all()


def test_one_chunk_over_the_whole_text_is_the_text(
    two_threads: Embedder, texts: list[str], alone: NDArray[np.float32]
) -> None:
    for text, vector in zip(texts, alone, strict=True):
        if text:
            (chunk,) = two_threads.encode_chunks(text, 10_000)
            assert (chunk.vector == vector).all()
