"""What a model folder declares: pooling modes, modules after pooling, prompts, and whether vectors have length 1."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime import Embedder, InputError, modules
from runtime.pooling import MODES, Pooling, pool
from tests.runtime.test_modules import dense, layer_norm
from tests.tiny import DIMENSION, make_model, write_manifest

TEXTS = ["hello world", "a", "", "c, d e f g", "hello " * 30]  # the last one is cut at 32 tokens
PROMPTS = {"query": "q: ", "document": "", "passage": "p p "}


def make(folder: Path, *chain: modules.Module, **changes: Any) -> Path:
    """A tiny model folder with modules."""
    make_model(folder)
    pooled = len(changes.get("pooling", {"modes": ["mean"]})["modes"]) * DIMENSION
    changes = {"modules": [modules.describe(module) for module in chain]} | changes
    if chain:
        (folder / modules.MODULES_DATA).write_bytes(modules.pack(chain))
    write_manifest(folder, **{"dimension": chain[-1].output_size if chain else pooled} | changes)
    return folder


def by_formula(rows: NDArray[np.float32], mode: str, skip: int = 0) -> NDArray[np.float64]:
    """One mode of sentence-transformers' Pooling over a text's token vectors, the first `skip` left out."""
    wide = rows.astype(np.float64)
    kept, places = wide[skip:], np.arange(1.0, len(rows) + 1)[skip:, None]
    return {
        "cls": kept[0],
        "max": kept.max(axis=0),
        "mean": kept.sum(axis=0) / len(kept),
        "mean_sqrt_len_tokens": kept.sum(axis=0) / np.sqrt(len(kept)),
        "weightedmean": (kept * places).sum(axis=0) / places.sum(),
        "lasttoken": kept[-1],
    }[mode]


@pytest.mark.parametrize(
    "modes", [*[(mode,) for mode in MODES], MODES, ("mean", "cls"), ("lasttoken", "max")]
)
def test_modes_are_their_formulas(tmp_path: Path, modes: tuple[str, ...]) -> None:
    folder = make(tmp_path / "m", pooling={"modes": list(modes), "include_prompt": True}, normalize=False)
    with Embedder(folder, threads=1) as embedder:
        vectors = embedder.encode(TEXTS)
        assert vectors.shape == (len(TEXTS), len(modes) * DIMENSION)
        for text, vector in zip(TEXTS, vectors, strict=True):
            rows = embedder.encode_tokens(text).vectors
            expected = np.concatenate([by_formula(rows, mode) for mode in modes])
            assert np.allclose(vector, expected, rtol=0, atol=2e-5)


@given(
    lengths=st.lists(st.integers(1, 600), min_size=1, max_size=6),
    modes=st.lists(st.sampled_from(MODES), min_size=1, max_size=6, unique=True),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_pooling_is_batch_invariant(lengths: list[int], modes: list[str], data: st.DataObject) -> None:
    hidden = (
        np.random.default_rng(len(lengths))
        .standard_normal((len(lengths), max(lengths), 5))
        .astype(np.float32)
    )
    skip = [data.draw(st.integers(0, length - 1)) for length in lengths]
    together = pool(hidden, np.array(lengths), modes, skip)
    for row, length in enumerate(lengths):
        alone = pool(hidden[row : row + 1, :length].copy(), np.array([length]), modes, skip[row : row + 1])
        assert alone.tobytes() == together[row : row + 1].tobytes()
        expected = np.concatenate([by_formula(hidden[row, :length], mode, skip[row]) for mode in modes])
        assert np.allclose(together[row], expected, rtol=0, atol=1e-5)


@given(cuts=st.sets(st.integers(1, 699), max_size=5), modes=st.permutations(MODES))
@settings(max_examples=30, deadline=None)
def test_pieces_are_pooled_as_the_whole(cuts: set[int], modes: list[str]) -> None:
    rows = np.random.default_rng(4).standard_normal((700, 3)).astype(np.float32)
    whole, pieces = Pooling(modes), Pooling(modes)
    whole.add(rows, 0)
    edges = [0, *sorted(cuts), 700]
    for start, end in pairwise(edges):
        pieces.add(rows[start:end], start)
    assert np.allclose(whole.vector(), pieces.vector(), rtol=0, atol=1e-5)


def test_modules_follow_pooling(tmp_path: Path) -> None:
    chain = [dense(2 * DIMENSION, 12, activation="tanh"), layer_norm(12), dense(12, 4, bias=False)]
    pooling = {"modes": ["cls", "max"], "include_prompt": True}
    folder = make(tmp_path / "m", *chain, pooling=pooling, normalize=True)
    with Embedder(folder, threads=1, verify=True) as embedder:
        assert embedder.dimension == 4
        vectors = embedder.encode(TEXTS)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
        raw = embedder.encode(TEXTS, normalize=False)
        assert np.allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), vectors, atol=1e-6)
        for text, vector in zip(TEXTS, raw, strict=True):
            rows = embedder.encode_tokens(text).vectors
            pooled = np.concatenate([by_formula(rows, "cls"), by_formula(rows, "max")])
            assert np.allclose(modules.apply(chain, pooled[None])[0], vector, rtol=0, atol=1e-5)
            assert embedder.encode(text).tobytes() == vectors[TEXTS.index(text)].tobytes()
        assert np.allclose(embedder.similarity(TEXTS, TEXTS), vectors @ vectors.T, atol=1e-6)


@pytest.mark.parametrize("declared", [True, False])
def test_the_folder_says_whether_vectors_have_length_1(tmp_path: Path, declared: bool) -> None:
    with Embedder(make(tmp_path / "m", normalize=declared), threads=1) as embedder:
        lengths = np.linalg.norm(embedder.encode(TEXTS), axis=1)
        assert np.allclose(lengths, 1) == declared
        assert np.allclose(np.linalg.norm(embedder.encode(TEXTS, normalize=True), axis=1), 1)
        assert np.allclose(embedder.similarity("a", "a"), 1)
        (chunk,) = embedder.encode_chunks("a b c")
        assert np.allclose(chunk.vector, embedder.encode("a b c"))


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return Embedder(
        make(tmp_path_factory.mktemp("p") / "m", prompts=PROMPTS, default_prompt_name="query"), threads=1
    )


@pytest.fixture(scope="module")
def not_pooled(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    pooling = {"modes": ["mean", "cls", "weightedmean"], "include_prompt": False}
    folder = make(tmp_path_factory.mktemp("p") / "m", prompts=PROMPTS, pooling=pooling)
    return Embedder(folder, threads=1)


def test_a_prompt_stands_before_the_text(prompted: Embedder) -> None:
    plain = prompted.encode(["q: a", "p p a", "a"], prompt="")
    assert (prompted.encode("a") == plain[0]).all()  # the default
    assert (prompted.encode("a", prompt_name="query") == plain[0]).all()
    assert (prompted.encode("a", prompt_name="passage") == plain[1]).all()
    assert (prompted.encode("a", prompt="p p ") == plain[1]).all()
    assert (prompted.encode("a", prompt_name="document") == plain[2]).all()
    assert (prompted.encode_query("a") == plain[0]).all()
    assert (prompted.encode_document("a") == plain[1]).all()  # "document" is empty
    assert (prompted.encode_document("a", prompt_name="query") == plain[0]).all()
    assert (prompted.encode_query(["a"], prompt="")[0] == plain[2]).all()


def test_stats_name_the_prompt(prompted: Embedder) -> None:
    assert prompted.encode(["a"], return_stats=True)[1].prompt == ("query", "q: ")
    assert prompted.encode(["a"], prompt="x ", return_stats=True)[1].prompt == (None, "x ")
    assert prompted.encode(["a"], prompt="", return_stats=True)[1].prompt == (None, "")


def test_query_and_document_never_fall_back_on_the_default(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", prompts={"other": "x "}, default_prompt_name="other")
    with Embedder(folder, threads=1) as embedder:
        plain = embedder.encode("a", prompt="")
        assert (embedder.encode_query("a") == plain).all()
        assert (embedder.encode_document("a") == plain).all()
        assert not (embedder.encode("a") == plain).all()


def test_bad_prompts(prompted: Embedder) -> None:
    with pytest.raises(InputError, match="prompt_name='clustering': .*'query', 'document', 'passage'"):
        prompted.encode("a", prompt_name="clustering")
    with pytest.raises(InputError, match="give one of them"):
        prompted.encode("a", prompt_name="query", prompt="x")
    with pytest.raises(InputError, match="expected a string"):
        prompted.encode("a", prompt=7)  # type: ignore[call-overload]
    with pytest.raises(InputError, match=r"max_length=4: the prompt 'q: ' alone has 4 tokens"):
        prompted.encode("a", max_length=4)


def test_tokens_of_a_prompt_are_left_out_where_the_folder_says_so(not_pooled: Embedder) -> None:
    for text in TEXTS:
        tokens = not_pooled.encode_tokens(text, prompt_name="query")
        skip = len(not_pooled.tokenizer.encode("q: ")) - 1
        parts = [by_formula(tokens.vectors, mode, skip) for mode in ("mean", "cls", "weightedmean")]
        expected = np.concatenate(parts)
        found = not_pooled.encode(text, prompt_name="query", normalize=False)
        assert np.allclose(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", [None, "query", "passage"])
@pytest.mark.parametrize("text", ["hello world, a b c", "a", "c d " * 40])
def test_late_chunking_with_a_prompt(
    prompted: Embedder, not_pooled: Embedder, name: str | None, text: str
) -> None:
    for embedder in (prompted, not_pooled):
        options: dict[str, Any] = {"max_length": 500} | (
            {"prompt": ""} if name is None else {"prompt_name": name}
        )
        (whole,) = embedder.encode_chunks(text, chunk_tokens=1000, **options)
        assert (whole.start, whole.end, whole.text) == (0, len(text.rstrip()), text.rstrip())
        assert np.allclose(whole.vector, embedder.encode(text, **options), rtol=0, atol=1e-6)
        (span,) = embedder.encode_chunks(text, spans=[(0, len(text))], **options)
        assert (span.vector == whole.vector).all()
        chunks = embedder.encode_chunks(text, chunk_tokens=2, **options)
        words = embedder.count_tokens(text) - 2
        assert len(chunks) == -(-words // 2)
        assert "".join(chunk.text.replace(" ", "") for chunk in chunks) == text.replace(" ", "")


def test_offsets_with_a_prompt(prompted: Embedder) -> None:
    with_prompt = prompted.encode_tokens("a, b")
    without = prompted.encode_tokens("a, b", prompt="")
    assert with_prompt.offsets[-4:].tolist() == without.offsets[-4:].tolist()
    assert not with_prompt.offsets[:-4].any()
