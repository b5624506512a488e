"""The same behaviour of a model folder whatever its tokenizer: encode, tokens, late chunking, truncation, counting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime import Embedder
from runtime.errors import ModelError, TextTooLongError
from tests.tiny import make_model
from tests.tokenizer_kinds import TINY

KINDS = ("wordpiece", *TINY)
TEXTS = ["hello world", "", "the hello there", "a", "déjà vu 日本語!", "hello <mask> </s> x", "\ud800 hello"]
LONG = "hello there, the world is in there. " * 6


@pytest.fixture(params=KINDS)
def embedder(request: pytest.FixtureRequest, tmp_path: Path) -> Embedder:
    return Embedder(make_model(tmp_path / "model", kind=request.param))


def test_vectors_do_not_depend_on_the_batch(embedder: Embedder) -> None:
    together = embedder.encode(TEXTS)
    assert together.shape == (len(TEXTS), embedder.dimension)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(embedder.encode(text), vector, atol=1e-5)


def test_tokens_average_to_the_vector_and_stand_in_the_text(embedder: Embedder) -> None:
    for text in TEXTS:
        tokens = embedder.encode_tokens(text)
        assert len(tokens.ids) == embedder.count_tokens(text) == len(tokens.offsets) == len(tokens.vectors)
        mean = tokens.vectors.mean(axis=0)
        np.testing.assert_allclose(embedder.encode(text, normalize=False), mean, atol=1e-5)
        assert ((tokens.offsets >= 0) & (tokens.offsets <= len(text))).all()
    ids, offsets, _ = embedder.encode_tokens("hello there")
    covered = {place for start, stop in offsets for place in range(start, stop)}
    assert covered >= set(range(len("hello"))) | set(range(len("hello "), len("hello there")))
    assert len(ids) > embedder.tokenizer.added_count


def test_a_text_cut_keeps_the_special_tokens(embedder: Embedder) -> None:
    tokenizer = embedder.tokenizer
    whole, cut = embedder.encode_tokens(LONG, max_length=500), embedder.encode_tokens(LONG, max_length=10)
    assert len(cut.ids) == 10
    kept = 10 - len(tokenizer.suffix)
    assert cut.ids[:kept].tolist() == whole.ids[:kept].tolist()
    assert cut.ids[kept:].tolist() == list(tokenizer.suffix)
    assert cut.ids[: len(tokenizer.prefix)].tolist() == list(tokenizer.prefix)
    np.testing.assert_allclose(
        embedder.encode(LONG, max_length=10, normalize=False), cut.vectors.mean(axis=0), atol=1e-5
    )
    vectors, stats = embedder.encode([LONG, "a"], max_length=10, return_stats=True)
    assert vectors.shape[0] == 2
    assert (stats.truncated_texts, stats.cut_tokens) == (1, len(whole.ids) - 10)
    with pytest.raises(TextTooLongError):
        embedder.encode(LONG, max_length=10, overflow="error")


def test_one_chunk_over_the_whole_text_has_its_vector(embedder: Embedder) -> None:
    for text in ("hello there the world", "a", "déjà vu 日本語"):
        (chunk,) = embedder.encode_chunks(text, chunk_tokens=1000)
        np.testing.assert_allclose(chunk.vector, embedder.encode(text), atol=1e-5)
        assert chunk.tokens == embedder.count_tokens(text)


def test_chunks_cover_the_text_in_order(embedder: Embedder) -> None:
    chunks = embedder.encode_chunks(LONG, chunk_tokens=7, overlap=2, max_length=24)
    assert sum(chunk.tokens for chunk in chunks) >= embedder.count_tokens(LONG)
    assert [chunk.start for chunk in chunks] == sorted(chunk.start for chunk in chunks)
    assert chunks[-1].end >= len(LONG.rstrip())
    (one,) = embedder.encode_chunks(LONG, spans=[(6, 11)])
    assert one.text == "there"


def test_similarity_and_counts(embedder: Embedder) -> None:
    assert embedder.similarity("hello", "hello") == pytest.approx(1, abs=1e-5)
    assert embedder.count_tokens(TEXTS) == [embedder.count_tokens(text) for text in TEXTS]
    assert embedder.count_tokens("") == embedder.tokenizer.added_count


@pytest.mark.parametrize("kind", TINY)
def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, kind: str) -> None:
    folder = make_model(tmp_path / "model", kind=kind, vocabulary=7)
    with pytest.raises(
        ModelError, match=r"tokenizer\.bin: [\d,]+ tokens where the model has 7: .* put the right"
    ):
        Embedder(folder)


@pytest.mark.parametrize("kind", TINY)
def test_the_file_of_the_tokenizer_must_be_listed(tmp_path: Path, kind: str) -> None:
    folder = make_model(tmp_path / "model", kind=kind, files={})
    with pytest.raises(ModelError, match="files does not list model.onnx"):
        Embedder(folder)
    folder = make_model(tmp_path / "other", tokenizer={"type": kind})
    with pytest.raises(ModelError, match=r"files does not list tokenizer\.bin"):
        Embedder(folder)
