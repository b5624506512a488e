"""Texts in the containers of other libraries: embedded as a list of the same texts is, or refused with what to pass."""

from __future__ import annotations

import collections
import configparser
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from runtime import Embedder
from runtime.integrations.cross_encoder import CrossEncoder
from runtime.integrations.sentence_transformers import SentenceTransformer

TEXTS = ["penguins are birds", "", "bread rises", "penguins are birds"]
ROWS = {"body": TEXTS, "id": [1, 2, 3, 4]}

WORK: dict[str, Callable[[], Any]] = {
    "tuple": lambda: tuple(TEXTS),
    "generator": lambda: (text for text in TEXTS),
    "deque": lambda: collections.deque(TEXTS),
    "dict values": lambda: dict(enumerate(TEXTS)).values(),
    "pandas object": lambda: pd.Series(TEXTS, dtype=object, index=[7, 5, 3, 1]),
    "pandas string": lambda: pd.Series(TEXTS, dtype="string"),
    "pandas categories": lambda: pd.Series(TEXTS, dtype="category"),
    "pandas pyarrow": lambda: pd.Series(TEXTS, dtype=pd.ArrowDtype(pa.string())),
    "pandas array": lambda: pd.Series(TEXTS, dtype="string").array,
    "pandas index": lambda: pd.Index(TEXTS),
    "pandas column": lambda: pd.DataFrame(ROWS)["body"],
    "pandas labels": lambda: pd.Series(TEXTS, index=["columns", "keys", "column_names", "values"]),
    "polars": lambda: pl.Series(TEXTS),
    "polars categories": lambda: pl.Series(TEXTS, dtype=pl.Categorical),
    "pyarrow": lambda: pa.array(TEXTS),
    "pyarrow large": lambda: pa.array(TEXTS, pa.large_string()),
    "pyarrow view": lambda: pa.array(TEXTS, pa.string_view()),
    "pyarrow dictionary": lambda: pa.array(TEXTS).dictionary_encode(),
    "pyarrow chunks": lambda: pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
    "numpy U": lambda: np.array(TEXTS),
    "numpy object": lambda: np.array(TEXTS, object),
    "numpy StringDType": lambda: np.array(TEXTS, np.dtypes.StringDType()),
    "numpy str": lambda: list(map(np.str_, TEXTS)),
    "datasets column": lambda: datasets.Dataset.from_dict(ROWS)["body"],
}


@pytest.mark.parametrize("kind", WORK)
def test_containers_of_texts_are_lists_of_texts(tiny: Embedder, tiny_folder: Path, kind: str) -> None:
    make, expected = WORK[kind], tiny.encode(TEXTS)
    assert np.array_equal(tiny.encode(make()), expected)
    assert tiny.count_tokens(make()) == tiny.count_tokens(TEXTS)
    assert tiny.rerank("bread", make()) == tiny.rerank("bread", TEXTS)
    assert np.allclose(tiny.similarity(make(), make()), tiny.similarity(TEXTS, TEXTS))
    surface = SentenceTransformer(tiny_folder)
    assert np.array_equal(surface.encode(make()), expected)
    assert len(surface.encode(make(), output_value="token_embeddings")) == len(TEXTS)
    ranker = CrossEncoder(tiny_folder)
    assert ranker.rank("bread", make()) == ranker.rank("bread", TEXTS)


def test_a_text_of_numpy_is_a_text(tiny: Embedder) -> None:
    assert np.array_equal(tiny.encode(np.str_("bread rises")), tiny.encode("bread rises"))


class Keyed(collections.UserDict):  # type: ignore[type-arg]
    """A mapping that is no dict."""


class Group:
    """A mapping by its methods alone, as files of HDF5 are."""

    def keys(self) -> list[str]:
        return ["a"]

    values = items = keys

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())


async def later() -> Any:
    yield "a"


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "pandas table": (lambda: pd.DataFrame(ROWS), r'NAME is DataFrame: a table, .* NAME\["text"\]'),
    "polars table": (lambda: pl.DataFrame(ROWS), r"NAME is DataFrame: a table"),
    "polars plan": (lambda: pl.DataFrame(ROWS).lazy(), r"NAME is LazyFrame: a table"),
    "pyarrow table": (lambda: pa.table(ROWS), r"NAME is Table: a table"),
    "pyarrow batch": (lambda: pa.record_batch(ROWS), r"NAME is RecordBatch: a table"),
    "datasets table": (lambda: datasets.Dataset.from_dict(ROWS), r"NAME is Dataset: a table"),
    "dict": (lambda: {"a": "b"}, r"NAME is dict: a mapping .* list\(NAME\.values\(\)\)"),
    "mapping": (lambda: Keyed(a="b"), "NAME is Keyed: a mapping"),
    "counter": (lambda: collections.Counter("ab"), "NAME is Counter: a mapping"),
    "environment": (lambda: os.environ, "NAME is _Environ: a mapping"),
    "settings": (configparser.ConfigParser, "NAME is ConfigParser: a mapping"),
    "group": (Group, "NAME is Group: a mapping"),
    "set": (lambda: {"a", "b"}, r"NAME is set: a set has no order.* sorted\(NAME\)"),
    "frozenset": (lambda: frozenset("ab"), "NAME is frozenset: a set"),
    "bytes": (lambda: b"abc", r'NAME is bytes: .* \[NAME\.decode\("utf-8"\)\]'),
    "bytearray": (lambda: bytearray(b"abc"), "NAME is bytearray"),
    "memoryview": (lambda: memoryview(b"abc"), "NAME is memoryview"),
    "user string": (lambda: collections.UserString("abc"), r"NAME is UserString: .* \[str\(NAME\)\]"),
    "pyarrow value": (lambda: pa.scalar("abc"), r"NAME is StringScalar: .* \[NAME\.as_py\(\)\]"),
    "no axis": (lambda: np.array("abc"), r"NAME is ndarray: an array of shape \[\].* NAME\.ravel\(\)"),
    "two axes": (lambda: np.array([["a", "b"]]), r"NAME is ndarray: an array of shape \[1, 2\]"),
    "path": (lambda: Path("texts.txt"), r"NAME is \w+Path: the path of a file"),
    "asynchronous": (later, "NAME is async_generator: an asynchronous iterator"),
    "number": (lambda: 3, "NAME is int: expected a list of str"),
    "missing in pandas": (
        lambda: pd.Series(["a", None]),
        r"NAME\[1\] is (NoneType|float), not str: convert or drop",
    ),
    "missing in polars": (lambda: pl.Series(["a", None]), r"NAME\[1\] is NoneType"),
    "missing in pyarrow": (lambda: pa.array(["a", None]), r"NAME\[1\] is NoneType"),
    "masked": (lambda: np.ma.array(["a", "b"], mask=[0, 1]), r"NAME\[1\] is MaskedConstant"),
    "numbers": (lambda: np.zeros(2), r"NAME\[0\] is float64"),
    "records": (lambda: np.array([("a", 1)], "U1,i4"), r"NAME\[0\] is void"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_containers_of_something_else_are_refused(tiny: Embedder, tiny_folder: Path, kind: str) -> None:
    make, message = REFUSED[kind]
    texts = message.replace("NAME", "texts")
    for method in (
        tiny.encode,
        tiny.encode_query,
        tiny.count_tokens,
        tiny.encode_multivector,
        tiny.token_weights,
    ):
        with pytest.raises(TypeError, match=texts):
            method(make())
    with pytest.raises(TypeError, match=message.replace("NAME", "documents")):
        tiny.rerank("a", make())
    with pytest.raises(TypeError, match=texts):
        SentenceTransformer(tiny_folder).encode(make())
    with pytest.raises(TypeError, match=message.replace("NAME", "documents")):
        CrossEncoder(tiny_folder).rank("a", make())


def test_a_corpus_is_no_single_text(tiny: Embedder) -> None:
    for method in (tiny.token_weights, tiny.encode_multivector):
        with pytest.raises(TypeError, match=r"texts is str: expected a list of str, such as \[texts\]"):
            method("a text")


def test_a_table_of_vectors_or_texts_is_not_compared_by_its_column_names(tiny: Embedder) -> None:
    with pytest.raises(TypeError, match="b is DataFrame: a table"):
        tiny.similarity(["a"], pd.DataFrame(ROWS))


@pytest.mark.parametrize(
    "make", [lambda: pd.DataFrame({"ab": ["x"], "cd": ["y"]}), lambda: {("a", "b"), ("c", "d")}]
)
def test_pairs_are_no_table_and_no_set(tiny_folder: Path, make: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="sentences is (DataFrame: a table|set: a set)"):
        CrossEncoder(tiny_folder).predict(make())


def test_pairs_may_be_an_array(tiny_folder: Path) -> None:
    ranker, pairs = CrossEncoder(tiny_folder), [("bread", "bread rises"), ("bread", "penguins")]
    assert np.array_equal(ranker.predict(np.array(pairs)), ranker.predict(pairs))
    assert ranker.predict(np.array(pairs[0])) == ranker.predict(pairs[0])


@pytest.mark.parametrize("model", [3, 1.5, ["a text"], {"a": 1}, object(), np.array(3)])
def test_what_is_no_model_folder_is_called_model(model: Any) -> None:
    for make in (Embedder, SentenceTransformer, CrossEncoder):
        with pytest.raises(TypeError, match=rf"model=.* is {type(model).__name__}: expected the path"):
            make(model)
