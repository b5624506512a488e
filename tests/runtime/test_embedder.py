"""Embedder: shapes, order, truncation, refusals, threads."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import Embedder, InputError, ModelError, TextTooLongError
from runtime.bundled import bundled_model
from tests.paths import ROOT
from tests.tiny import make_model

WORDS = st.text(alphabet="abcde xyz,", max_size=60)


def test_a_str_gives_a_vector_and_an_iterable_gives_rows(tiny: Embedder) -> None:
    single = tiny.encode("hello world")
    assert (single.shape, single.dtype) == ((16,), np.float32)
    assert tiny.encode(["hello world"]).shape == (1, 16)
    assert tiny.encode(("a", "b")).shape == (2, 16)
    assert tiny.encode(text for text in ["a", "b", "c"]).shape == (3, 16)
    assert tiny.encode({"a": 1, "b": 2}.keys()).shape == (2, 16)
    assert tiny.encode(np.array(["a", "b"])).shape == (2, 16)
    empty = tiny.encode([])
    assert (empty.shape, empty.dtype) == ((0, 16), np.float32)
    assert np.array_equal(tiny.encode(["hello world"])[0], single)


def test_an_empty_text_has_the_vector_of_cls_and_sep(tiny: Embedder) -> None:
    tokens = tiny.encode_tokens("")
    assert tokens.ids.tolist() == [2, 3]
    assert tokens.offsets.tolist() == [[0, 0], [0, 0]]
    mean = tokens.vectors.mean(axis=0)
    np.testing.assert_allclose(tiny.encode(""), mean / np.linalg.norm(mean), atol=1e-6)


def test_vectors_have_length_one_unless_told_otherwise(tiny: Embedder) -> None:
    texts = ["hello", "a b c d e"]
    np.testing.assert_allclose(np.linalg.norm(tiny.encode(texts), axis=1), 1, atol=1e-6)
    raw = tiny.encode(texts, normalize=False)
    for row, text in zip(raw, texts, strict=True):
        np.testing.assert_allclose(row, tiny.encode_tokens(text).vectors.mean(axis=0), atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.lists(WORDS, max_size=12), st.integers(1, 300), st.none() | st.integers(1, 5))
def test_order_is_kept_and_a_vector_has_the_same_bits_in_every_batch(
    tiny: Embedder, texts: list[str], batch_tokens: int, batch_size: int | None
) -> None:
    together = tiny.encode(texts, batch_tokens=batch_tokens, batch_size=batch_size)
    assert together.shape == (len(texts), 16)
    for text, vector in zip(texts, together, strict=True):
        assert np.array_equal(tiny.encode(text), vector)


def test_truncation_keeps_the_beginning_and_sep(tiny: Embedder) -> None:
    tokens = tiny.encode_tokens("a b c d e f", max_length=5)
    assert tokens.ids.tolist() == [2, 5, 6, 7, 3]
    assert tokens.offsets.tolist() == [[0, 0], [0, 1], [2, 3], [4, 5], [0, 0]]
    assert np.array_equal(tiny.encode("a b c d e f", max_length=5), tiny.encode("a b c"))


def test_the_models_maximum_is_the_default_and_may_be_passed(tiny: Embedder) -> None:
    text = "a " * 100
    assert tiny.max_tokens == 32
    assert tiny.count_tokens(text) == 102
    assert np.array_equal(tiny.encode(text), tiny.encode("a " * 30))
    assert len(tiny.encode_tokens(text, max_length=1000).ids) == 102
    assert np.array_equal(tiny.encode(text, max_length=102), tiny.encode(text, max_length=10**6))


def test_overflow_error_names_text_and_tokens(tiny: Embedder) -> None:
    with pytest.raises(
        TextTooLongError, match=r"texts\[1\] has 102 tokens, more than max_length 32"
    ) as caught:
        tiny.encode(["a", "a " * 100], overflow="error")
    assert isinstance(caught.value, ValueError)
    assert (caught.value.index, caught.value.tokens) == (1, 102)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(TextTooLongError):
        tiny.encode_tokens("a " * 100, overflow="error")
    tiny.encode("a " * 30, overflow="error")


def test_stats_count_what_was_cut(tiny: Embedder) -> None:
    vectors, stats = tiny.encode(["a", "a " * 100, "b " * 50], return_stats=True)
    assert vectors.shape == (3, 16)
    assert stats[:4] == (3, 3 + 32 + 32, 2, 70 + 20)
    assert stats.seconds > 0
    vector, stats = tiny.encode("a", return_stats=True)
    assert (vector.shape, stats.texts, stats.tokens) == ((16,), 1, 3)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", 3], r"texts\[1\] is int"),
        (["a", None, "b"], r"texts\[1\] is NoneType"),
        ([b"a"], r"texts\[0\] is bytes"),
        ([["a"]], r"texts\[0\] is list"),
        (b"abc", "texts is bytes"),
        ({"a": 1}, "texts is dict"),
        ({"a", "b"}, "texts is set: a set has no order"),
        (np.array("a"), "texts is ndarray: an array of shape"),
        (None, "texts is NoneType"),
        (7, "texts is int"),
    ],
)
def test_what_is_no_text_is_a_type_error_with_its_place(tiny: Embedder, texts: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        tiny.encode(texts)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=message):
        tiny.count_tokens(texts)  # type: ignore[call-overload]


@pytest.mark.parametrize("method", ["encode_tokens", "encode_chunks"])
def test_methods_of_one_text_refuse_anything_else(tiny: Embedder, method: str) -> None:
    for value in (["a"], None, b"a"):
        with pytest.raises(TypeError, match="text is"):
            getattr(tiny, method)(value)


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 2},
        {"max_length": 0},
        {"max_length": -5},
        {"max_length": 512.0},
        {"max_length": "512"},
        {"max_length": True},
        {"max_length": 1 << 40},
        {"batch_tokens": 0},
        {"batch_size": 0},
        {"batch_size": "32"},
        {"overflow": "cut"},
        {"overflow": None},
        {"convert_to_numpy": False},
    ],
)
def test_options_out_of_range_are_named(tiny: Embedder, options: dict[str, object]) -> None:
    name = next(iter(options))
    with pytest.raises(InputError, match=name):
        tiny.encode(["a"], **options)  # type: ignore[call-overload]


def test_numpy_integers_are_numbers(tiny: Embedder) -> None:
    assert tiny.encode("a b c", max_length=np.int64(4)).shape == (16,)


def test_the_reference_works_names_are_understood(tiny: Embedder) -> None:
    texts = ["hello", "a b"]
    raw = tiny.encode(
        texts, normalize_embeddings=False, batch_size=1, convert_to_numpy=True, show_progress_bar=False
    )
    assert np.array_equal(raw, tiny.encode(texts, normalize=False))
    assert np.array_equal(tiny.encode(texts, normalize=False, normalize_embeddings=True), tiny.encode(texts))


def test_progress_goes_to_standard_error_only_when_asked(
    tiny: Embedder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.cli.progress.SECONDS_BETWEEN", 0)
    tiny.encode(["a", "b"])
    assert capsys.readouterr() == ("", "")
    tiny.encode(["a", "b c"], show_progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2 of 2 texts" in err
    assert err.endswith("\r")


def test_token_vectors_come_with_places_in_the_text(tiny: Embedder) -> None:
    text = "Hello,  world"
    tokens = tiny.encode_tokens(text)
    assert [text[start:end] for start, end in tokens.offsets] == ["", "Hello", ",", "world", ""]
    assert tokens.vectors.shape == (5, 16)
    assert (tokens.ids.dtype, tokens.vectors.dtype) == (np.int64, np.float32)


def test_count_tokens(tiny: Embedder) -> None:
    assert tiny.count_tokens("hello world") == 4
    assert tiny.count_tokens(["", "a b c"]) == [2, 5]
    assert tiny.count_tokens([]) == []


def test_similarity_takes_texts_and_vectors(tiny: Embedder) -> None:
    texts = ["hello", "a b", "c"]
    matrix = tiny.similarity(texts, texts)
    assert (matrix.shape, matrix.dtype) == ((3, 3), np.float32)
    np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-6)
    vectors = tiny.encode(texts, normalize=False)
    np.testing.assert_allclose(tiny.similarity(vectors * 100, list(vectors)), matrix, atol=1e-6)
    assert tiny.similarity("hello", texts).shape == (3,)
    assert tiny.similarity(texts, "hello").shape == (3,)
    assert tiny.similarity("hello", vectors[0]).shape == ()
    assert tiny.similarity([], texts).shape == (0, 3)
    with pytest.raises(InputError, match=r"\[16\]"):
        tiny.similarity(np.ones(5), texts)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_threads_that_are_no_number(tiny_folder: Path, threads: object) -> None:
    with pytest.raises(InputError, match="threads"):
        Embedder(tiny_folder, threads=threads)  # type: ignore[arg-type]


def test_warmup_and_facts(tiny: Embedder) -> None:
    tiny.warmup()
    assert (tiny.dimension, tiny.max_tokens, tiny.threads, tiny.manifest.name) == (16, 32, 1, "tiny")
    assert "tiny" in repr(tiny)


def test_eight_threads_get_what_one_gets(tiny: Embedder) -> None:
    texts = [f"{'a ' * (number % 17)}hello {'b' * (number % 5)}" for number in range(64)]
    expected = tiny.encode(texts)
    results: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        for _ in range(5):
            results[number] = tiny.encode(texts)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 8
    assert all(np.array_equal(result, expected) for result in results.values())


def test_an_iterables_own_error_passes_through(tiny: Embedder) -> None:
    def broken() -> Iterator[str]:
        yield "a"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        tiny.encode(broken())


def test_the_embedded_model_is_looked_for_in_the_package_then_beside_it(tmp_path: Path) -> None:
    package = tmp_path / "site" / "runtime"
    package.mkdir(parents=True)
    with pytest.raises(ModelError, match="no bundled model"):
        bundled_model(str(package))
    make_model(tmp_path / "site" / "models" / "beside")
    (tmp_path / "site" / "models" / "no-model").mkdir()
    assert bundled_model(str(package)) == str(tmp_path / "site" / "models" / "beside")
    make_model(package / "models" / "inside")
    assert bundled_model(str(package)) == str(package / "models" / "inside")
    make_model(package / "models" / "second")
    with pytest.raises(ModelError, match="several models"):
        bundled_model(str(package))


def test_a_vector_needs_onnxruntime_and_numpy_and_nothing_else(tiny_folder: Path) -> None:
    code = (
        "import sys, runtime\n"
        "assert not {'numpy', 'onnxruntime', 'json', 'pathlib'} & set(sys.modules), 'at import'\n"
        "runtime.Embedder(sys.argv[1]).encode(['hello'])\n"
        "print({'torch', 'transformers', 'tokenizers', 'onnx', 'export', 'asyncio', 'concurrent', 'logging',\n"
        "       'dataclasses', 'socket', 'ssl', 'hashlib'} & set(sys.modules) or 'slim')\n"
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}", str(tiny_folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "slim\n", result.stdout + result.stderr
