"""Vectors for Arrow data, in this process; the engines that use it are tried by test_readme.py."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Embedder, InputError
from tests.bulk.conftest import texts

pa = pytest.importorskip("pyarrow", reason='needs pip install "jinabert-runtime[bulk]"')


@pytest.fixture
def make(tiny_folder: Path) -> Any:
    from runtime.bulk import ArrowEmbedder

    return lambda **options: ArrowEmbedder(str(tiny_folder), threads=1, **options)


def vectors(column: Any) -> np.ndarray:
    return np.array([row for row in column.to_pylist() if row is not None], np.float32)


@pytest.mark.parametrize("kind", ["batch", "table", "chunked"])
@pytest.mark.parametrize("fixed_size", [True, False])
def test_a_batch_keeps_its_rows_and_gets_vectors(
    kind: str, fixed_size: bool, make: Any, tiny: Embedder
) -> None:
    found = texts(20)
    data = pa.table({"id": range(20), "text": found}, metadata={"by": "me"})
    if kind == "batch":
        data = data.to_batches()[0]
    if kind == "chunked":
        data = pa.concat_tables([data.slice(0, 7), data.slice(7)])
    embed = make(fixed_size=fixed_size)
    result = embed(data)
    assert type(result) is type(data)
    assert result.schema == embed.schema_of(data.schema)
    assert result.schema.metadata == {b"by": b"me"}
    assert result.column("id").to_pylist() == list(range(20))
    assert np.array_equal(vectors(result.column("embedding")), tiny.encode(found))
    assert result.column("embedding_error").null_count == 20


def test_a_row_without_a_text_keeps_its_place_and_says_why(make: Any, tiny: Embedder) -> None:
    data = pa.table({"text": ["hello", None, "world " * 50, "", b"caf\xe9"[:0].decode()]})
    result = make(overflow="error", max_length=8)(data)
    assert [vector is None for vector in result["embedding"].to_pylist()] == [False, True, True, False, False]
    assert result["embedding_error"].to_pylist() == [
        None,
        "field 'text' is null",
        "52 tokens, more than --max-length 8",
        None,
        None,
    ]
    assert np.array_equal(vectors(result["embedding"]), tiny.encode(["hello", "", ""]))
    nothing = make()(pa.table({"text": pa.nulls(2)}))
    assert nothing["embedding"].null_count == 2
    assert make()(pa.table({"text": pa.array([], pa.string())})).num_rows == 0


@pytest.mark.parametrize("kind", ["large_string", "string_view", "binary", "large_binary", "dictionary"])
def test_types_of_text(kind: str, make: Any, tiny: Embedder) -> None:
    column = pa.array(["hello", None, "wörld"])
    column = column.dictionary_encode() if kind == "dictionary" else column.cast(getattr(pa, kind)())
    result = make()(pa.table({"text": column}))
    assert np.array_equal(vectors(result["embedding"]), tiny.encode(["hello", "wörld"]))
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9"]).buffers())
    assert "not UTF-8: byte 4" in make()(pa.table({"text": bad}))["embedding_error"].to_pylist()[0]


def test_columns_with_dots_and_columns_that_are_wrong(make: Any, tiny: Embedder) -> None:
    nested = pa.table({"doc": [{"text": "hello", "n": 1}, None]})
    assert make(field="doc.text")(nested)["embedding_error"].to_pylist() == [None, "field 'doc.text' is null"]
    flat = nested.append_column("doc.text", pa.array(["world", "abc"]))
    assert np.array_equal(vectors(make(field="doc.text")(flat)["embedding"]), tiny.encode(["world", "abc"]))
    for field, message in {
        "doc.n": "column 'doc.n' is int64, not strings",
        "doc.body": "with no field 'doc.body'",
        "body": r"no column 'body' \(it has: doc\)",
    }.items():
        with pytest.raises(InputError, match=message):
            make(field=field)(nested)
    with pytest.raises(InputError, match="two columns are called 'text'"):
        make()(pa.table([["a"], ["b"]], names=["text", "text"]))
    with pytest.raises(InputError, match="there is a column 'embedding' already"):
        make()(pa.table({"text": ["a"], "embedding": ["b"]}))
    with pytest.raises(InputError, match="must be float32 or float16"):
        make(dtype="int8")


def test_float16_and_length(make: Any, tiny: Embedder) -> None:
    result = make(dtype="float16", normalize=False, vector_column="v", error_column="e")(
        pa.table({"text": ["hello"]})
    )
    assert result.schema.field("v").type == pa.list_(pa.float16(), 16)
    expected = tiny.encode(["hello"], normalize=False).astype(np.float16)
    assert result["v"].combine_chunks().flatten().to_numpy().tolist() == expected[0].tolist()


def test_it_travels_without_its_model_and_each_process_loads_one(make: Any) -> None:
    from runtime.bulk import arrow

    embed, data = make(), pa.table({"text": texts(10)})
    expected = embed(data)
    arrow._loaded.clear()
    twins = [pickle.loads(pickle.dumps(embed)), copy.deepcopy(embed), embed]
    assert len(pickle.dumps(embed)) < 1000
    found: list[Any] = []
    threads = [threading.Thread(target=lambda twin=twin: found.append(twin(data))) for twin in twins * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 9
    assert len(arrow._loaded) == 1
    assert embed.schema.names == ["embedding", "embedding_error"]
    assert next(embed.map(data.to_batches())).num_rows == 10
