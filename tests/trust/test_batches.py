"""The vector of a text is the same to the last bit whatever runs with it, at any number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime import Embedder
from runtime.batching import plan
from tests.trust.texts import long_text, short_texts


@pytest.fixture(scope="module")
def texts(embedder: Embedder) -> list[str]:
    """Short ones, and one on each side of every boundary in the graph and in the plan of batches."""
    tokenizer = embedder.tokenizer
    alone = embedder.manifest.max_dense_tokens
    assert alone is not None
    lengths = (62, 63, 64, 65, 128, 257, 512, 700, alone, alone + 1, 2000)
    return ["", "hello", *short_texts(tokenizer, 18), *(long_text(tokenizer, length) for length in lengths)]


@pytest.fixture(scope="module")
def alone(embedder: Embedder, texts: list[str]) -> NDArray[np.float32]:
    """Each text's vector by itself."""
    return np.stack([embedder.encode(text) for text in texts])


@pytest.fixture(scope="module")
def one_thread(embedded: Path) -> Iterator[Embedder]:
    with Embedder(embedded, threads=1) as embedder:
        yield embedder


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_batch_any_order_any_padding(
    embedder: Embedder, texts: list[str], alone: NDArray[np.float32], data: st.DataObject
) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=16))
    tokens = data.draw(st.sampled_from([1, 64, 500, 4096, 50_000]))
    size = data.draw(st.sampled_from([None, None, 1, 2, 7]))
    vectors = embedder.encode([texts[number] for number in numbers], batch_tokens=tokens, batch_size=size)
    assert (vectors == alone[numbers]).all()


@pytest.mark.parametrize("longest", [62, 128, 700, None])
def test_the_most_padding_there_can_be(
    embedder: Embedder, texts: list[str], alone: NDArray[np.float32], longest: int | None
) -> None:
    """The plan avoids padding; here a batch has as much of it as the graph takes, up to max_dense_tokens (None)."""
    longest = longest or embedder.manifest.max_dense_tokens
    assert longest is not None
    ids = [embedder.tokenizer.encode(text) for text in texts]
    chosen = sorted((n for n in range(len(texts)) if len(ids[n]) <= longest), key=lambda n: -len(ids[n]))
    chosen = [chosen[0], *chosen[1::4], chosen[-1]]
    vectors = embedder.model.embed_batch([ids[number] for number in chosen])
    assert (vectors == alone[chosen]).all()


def test_threads_change_nothing(
    embedder: Embedder, one_thread: Embedder, texts: list[str], alone: NDArray[np.float32]
) -> None:
    vectors = one_thread.encode(texts)
    assert ((vectors.astype(np.float64) * alone).sum(axis=1) >= 0.9999).all()  # what is promised
    assert (vectors == alone).all()  # what is so


def test_texts_with_blockwise_attention_run_alone(embedder: Embedder) -> None:
    limit = embedder.manifest.max_dense_tokens
    assert limit is not None
    batches = plan([limit, limit, limit + 1, limit + 1, 5], batch_tokens=1 << 30, max_dense_tokens=limit)
    assert [2] in batches
    assert [3] in batches


def test_batches_in_parallel(
    embedder: Embedder, one_thread: Embedder, texts: list[str], alone: NDArray[np.float32]
) -> None:
    """Many tokens at once take the way through runtime/batching.py."""
    from runtime.model import PARALLEL_TOKENS

    numbers = np.random.default_rng(3).permutation(np.repeat(np.arange(len(texts)), 2))
    several = [texts[number] for number in numbers]
    assert sum(embedder.count_tokens(several)) > PARALLEL_TOKENS
    assert (embedder.encode(several) == alone[numbers]).all()
    assert (one_thread.encode(several) == alone[numbers]).all()
