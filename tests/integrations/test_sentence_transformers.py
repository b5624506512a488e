"""The surface of SentenceTransformer, and its quantised vectors number for number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Embedder, InputError
from runtime.integrations.sentence_transformers import SentenceTransformer, quantize_embeddings
from tests.tiny import make_model

TEXTS = ["hello world", "a b c", "x y z, hello"]


@pytest.fixture
def model(tiny_folder: Path) -> SentenceTransformer:
    return SentenceTransformer(tiny_folder, threads=1)


def test_vectors_are_the_embedders(model: SentenceTransformer, tiny: Embedder) -> None:
    expected = tiny.encode(TEXTS)
    assert np.array_equal(model.encode(TEXTS), expected)
    assert np.array_equal(model.encode(TEXTS[1]), expected[1])
    assert np.array_equal(model.encode(iter(TEXTS), batch_size=1, show_progress_bar=False), expected)
    assert np.array_equal(
        model.encode(TEXTS, normalize_embeddings=False), tiny.encode(TEXTS, normalize=False)
    )
    rows = model.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(rows, list)
    assert np.array_equal(rows, expected)
    assert model.encode([]).shape == (0, 16)
    assert model.get_sentence_embedding_dimension() == model.get_embedding_dimension() == 16
    assert np.array_equal(model.encode(TEXTS, truncate_dim=16), expected)


def test_prompts_are_put_before_each_text(tiny_folder: Path, tiny: Embedder) -> None:
    model = SentenceTransformer(
        tiny_folder, threads=1, prompts={"query": "a, ", "passage": "b, ", "other": "c "}
    )
    plain = [tiny.encode([before + text for text in TEXTS]) for before in ("", "a, ", "b, ", "c ", "d ")]
    assert np.array_equal(model.encode(TEXTS), plain[0])
    assert np.array_equal(model.encode_query(TEXTS), plain[1])
    assert np.array_equal(model.encode_document(TEXTS), plain[2])
    assert np.array_equal(model.encode(TEXTS, prompt_name="other"), plain[3])
    assert np.array_equal(model.encode(TEXTS, "other", "d "), plain[4])  # the prompt itself wins
    assert np.array_equal(model.encode_query("hello"), tiny.encode("a, hello"))
    named = SentenceTransformer(tiny_folder, threads=1, prompts={"other": "c "}, default_prompt_name="other")
    assert np.array_equal(named.encode(TEXTS), plain[3])
    with pytest.raises(InputError, match="prompt_name='nobody': 'query', 'document'"):
        model.encode(TEXTS, prompt_name="nobody")
    with pytest.raises(TypeError, match=r"texts\[1\] is int"):
        model.encode_query(["a", 7])


def test_without_prompts_queries_and_documents_are_embedded_alike(model: SentenceTransformer) -> None:
    assert np.array_equal(model.encode_query(TEXTS), model.encode(TEXTS))
    assert np.array_equal(model.encode_document(TEXTS), model.encode(TEXTS))


def test_token_vectors_and_both(model: SentenceTransformer, tiny: Embedder) -> None:
    tokens = model.encode(TEXTS, output_value="token_embeddings")
    assert [rows.shape for rows in tokens] == [(4, 16), (5, 16), (7, 16)]
    assert np.array_equal(tokens[1], tiny.encode_tokens("a b c").vectors)
    both = model.encode("a b c", output_value=None)
    assert np.array_equal(both["token_embeddings"], tokens[1])
    assert np.array_equal(both["sentence_embedding"], tiny.encode("a b c"))
    assert both["input_ids"].shape == (5,)


def test_the_length_limit_can_be_set(model: SentenceTransformer, tiny: Embedder) -> None:
    assert model.max_seq_length == model.get_max_seq_length() == 32
    model.max_seq_length = 4
    assert np.array_equal(model.encode("a b c d"), tiny.encode("a b"))
    assert model.encode("a b c d", output_value="token_embeddings").shape == (4, 16)
    found = model.tokenize(["hello", "a b c d", "a"])
    ids = [tiny.tokenizer.encode(text) for text in ("hello", "a b", "a")]
    assert found["input_ids"].tolist() == [[*row, *[tiny.tokenizer.pad_id] * (4 - len(row))] for row in ids]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 0]]
    assert model.tokenize([])["input_ids"].shape == (0, 0)


@pytest.mark.parametrize("name", ["cosine", "dot"])
def test_similarities(tiny_folder: Path, name: str) -> None:
    model = SentenceTransformer(tiny_folder, threads=1, similarity_fn_name=name)
    vectors = model.encode(TEXTS, normalize_embeddings=False)
    expected = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    if name == "cosine":
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        expected /= np.outer(lengths, lengths)
    found = model.similarity(vectors, vectors)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(
        model.similarity_pairwise(vectors, vectors[::-1]), expected[[0, 1, 2], [2, 1, 0]], 1e-5
    )
    np.testing.assert_allclose(model.similarity(vectors[0], vectors), expected[:1], rtol=1e-5)
    with pytest.raises(InputError, match="3 vectors and 2"):
        model.similarity_pairwise(vectors, vectors[:2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convert_to_tensor": True}, "there is no torch here; torch.from_numpy"),
        ({"truncate_dim": 8}, r"dimensions=8: .* cannot be cut"),
        ({"precision": "int4"}, "one of float32, int8, uint8, binary, ubinary"),
        ({"output_value": "pooler"}, "output_value='pooler'"),
        ({"output_value": None, "precision": "int8"}, "only sentence embeddings"),
        ({"device": "cuda"}, "device='cuda'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"precision": "int8", "ranges": np.zeros((2, 3))}, r"ranges of shape \[2, 3\]: expected \[2, 16\]"),
    ],
)
def test_what_cannot_be_had_says_why(
    model: SentenceTransformer, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        model.encode(TEXTS, **options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"device": "cuda"}, "device"),
        ({"truncate_dim": 8}, "dimensions"),
        ({"similarity_fn_name": "x"}, "similarity_fn_name"),
        ({"default_prompt_name": "x"}, "prompt_name"),
    ],
)
def test_so_does_the_constructor(tiny_folder: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        SentenceTransformer(tiny_folder, threads=1, **options)


# Made with sentence_transformers 6.2.0: quantize_embeddings(GIVEN, precision, ranges=RANGES)
GIVEN = np.array(
    [[-1.5, -0.5, 0.0, 0.24, 0.25, 0.6, 0.99, 1.2], [0.1, 0.2, -0.3, -0.001, 0.5, -2.0, 1.0, -1.0]],
    np.float32,
)
RANGES = np.array([[-1.0] * 7 + [0.5], [1.0] * 7 + [0.5]], np.float32)
GOLDEN = {
    "int8": [[-128, -65, -1, 30, 31, 75, 125, -128], [12, 25, -39, -1, 63, -128, 126, -128]],
    "uint8": [[0, 63, 127, 158, 159, 203, 253, 0], [140, 153, 89, 127, 191, 0, 254, 0]],
    "binary": [[-97], [74]],
    "ubinary": [[31], [202]],
}


@pytest.mark.parametrize("precision", GOLDEN)
def test_quantised_vectors_are_sentence_transformers(precision: str) -> None:
    found = quantize_embeddings(GIVEN, precision, ranges=RANGES)
    assert found.dtype == (np.uint8 if precision.startswith("u") else np.int8)
    assert found.tolist() == GOLDEN[precision]


def test_calibration_vectors_give_the_ranges() -> None:
    sample = np.random.default_rng(3).standard_normal((200, 8)).astype(np.float32)
    ranges = np.stack([sample.min(axis=0), sample.max(axis=0)])
    found = quantize_embeddings(GIVEN, "int8", calibration_embeddings=sample)
    assert np.array_equal(found, quantize_embeddings(GIVEN, "int8", ranges=ranges))
    assert np.array_equal(quantize_embeddings(sample, "uint8"), quantize_embeddings(sample, "uint8", ranges))
    assert quantize_embeddings(GIVEN, "float32").dtype == np.float32


def test_encode_quantises(model: SentenceTransformer) -> None:
    texts = [" ".join(chr(97 + (n * k) % 26) for k in range(1, 9)) for n in range(1, 150)]
    vectors = model.encode(texts)
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    for precision, width in (("int8", 16), ("uint8", 16), ("binary", 2), ("ubinary", 2)):
        found = model.encode(texts, precision=precision)
        assert found.shape == (149, width)
        assert np.array_equal(found, quantize_embeddings(vectors, precision, ranges))
        if precision.endswith("binary"):
            assert np.array_equal(model.encode(texts[5], precision=precision), found[5])
        assert np.array_equal(model.encode(texts[5], precision=precision, ranges=ranges), found[5])
    # int8 keeps the order of neighbours, nearly
    rough = (
        model.encode(texts, precision="uint8").astype(np.float64) / 255 * (ranges[1] - ranges[0]) + ranges[0]
    )
    assert model.similarity_pairwise(rough, vectors).min() > 0.999


def test_ranges_from_few_vectors_are_warned_of_and_from_one_refused(model: SentenceTransformer) -> None:
    with pytest.warns(UserWarning, match="int8 ranges from 3 vectors, fewer than 100"):
        model.encode(TEXTS, precision="int8")
    with pytest.raises(InputError, match="precision='uint8' takes .* there are 1: pass ranges="):
        model.encode("hello", precision="uint8")


@pytest.mark.parametrize("wrong", [np.zeros(8, np.float32), np.zeros((2, 8), np.int8)])
def test_only_float_vectors_are_quantised(wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"expected floats \[n, D\]"):
        quantize_embeddings(wrong, "binary")


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    prompts = {"query": "q ", "passage": "p ", "other": "a "}
    changes = {
        "prompts": prompts,
        "default_prompt_name": "other",
        "normalize": False,
        "similarity": "euclidean",
    }
    return SentenceTransformer(make_model(tmp_path_factory.mktemp("st") / "m", **changes), threads=1)


def test_what_the_model_folder_declares(prompted: SentenceTransformer) -> None:
    plain = prompted.encode(["q b", "p b", "a b", "b"], prompt="")
    assert (prompted.encode("b") == plain[2]).all()
    assert (prompted.encode("b", "query") == plain[0]).all()
    assert (prompted.encode("b", "query", prompt="p ") == plain[1]).all()
    assert (prompted.encode_query("b") == plain[0]).all()
    assert (prompted.encode_document("b") == plain[1]).all()
    assert not np.allclose(np.linalg.norm(plain, axis=1), 1)
    assert np.allclose(np.linalg.norm(prompted.encode("b", normalize_embeddings=True)), 1)
    assert prompted.encode("b", output_value="token_embeddings").shape == (4, 16)
    distances = np.linalg.norm(plain[:, None] - plain[None], axis=2)
    assert np.allclose(prompted.similarity(plain, plain), -distances, atol=1e-5)
    assert np.allclose(
        prompted.similarity_pairwise(plain[:2], plain[2:]), -np.diag(distances[:2, 2:]), atol=1e-5
    )


def test_arguments_win_over_the_folder(prompted: SentenceTransformer) -> None:
    folder = prompted.embedder.model.folder
    model = SentenceTransformer(
        folder,
        prompts={"query": "a "},
        default_prompt_name="query",
        similarity_fn_name="manhattan",
        threads=1,
    )
    plain = prompted.encode(["a b", "c"], prompt="")
    assert (model.encode("b") == plain[0]).all()
    expected = -np.abs(plain[0] - plain[1]).sum()
    assert np.allclose(model.similarity(plain[0], plain[1]), expected)
    assert np.allclose(model.similarity_pairwise(plain[0], plain[1]), expected)


def test_queries_have_no_default_prompt(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", prompts={"other": "a "}, default_prompt_name="other")
    model = SentenceTransformer(folder, threads=1)
    assert (model.encode_query("b") == model.encode("b", prompt="")).all()
    assert (model.encode_document("b") == model.encode("b", prompt="")).all()
