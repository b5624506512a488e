"""Vectors for Arrow data, in this process; the engines that use it are tried by test_readme.py."""

from __future__ import annotations

import copy
import itertools
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Embedder, InputError, maxsim
from tests.bulk.conftest import texts

pa = pytest.importorskip("pyarrow", reason='needs pip install "jinabert-runtime[bulk]"')
pq = pytest.importorskip("pyarrow.parquet")

from runtime.bulk import multivectors  # noqa: E402
from runtime.multivector import best_window  # noqa: E402


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
    from runtime.bulk import embedding

    embed, data = make(), pa.table({"text": texts(10)})
    expected = embed(data)
    embedding._loaded.clear()
    twins = [pickle.loads(pickle.dumps(embed)), copy.deepcopy(embed), embed]
    assert len(pickle.dumps(embed)) < 1000
    found: list[Any] = []
    threads = [threading.Thread(target=lambda twin=twin: found.append(twin(data))) for twin in twins * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 9
    assert len(embedding._loaded) == 1
    assert embed.schema.names == ["embedding", "embedding_error"]
    assert next(embed.map(data.to_batches())).num_rows == 10


def test_token_vectors_are_those_of_encode_multivector_and_score_the_same(make: Any, tiny: Embedder) -> None:
    found = [*texts(9), "", "hello"]
    data = pa.table({"id": range(11), "text": [*found[:-1], None]})
    query = tiny.encode_multivector(["hello world"], query=True)[0]
    for dtype, fixed_size in itertools.product(("int8", "float16", "float32"), (True, False)):
        embed = make(token_vectors=dtype, fixed_size=fixed_size)
        table = embed(pa.concat_tables([data.slice(0, 4), data.slice(4)]))
        assert table.schema == embed.schema_of(data.schema)
        item = pa.from_numpy_dtype(dtype)
        inner = pa.list_(item, tiny.manifest.hidden_size) if fixed_size else pa.list_(item)
        assert table.schema.field("token_vectors").type == pa.list_(inner)
        expected = tiny.encode_multivector(found[:-1], dtype=dtype)
        sink = pa.BufferOutputStream()
        pq.write_table(table.slice(0, 10), sink)
        for stored in (table.slice(0, 10), pq.read_table(pa.BufferReader(sink.getvalue()))):
            documents = multivectors(stored)
            for own, other in zip(documents, expected, strict=True):
                assert own.vectors.dtype == dtype
                assert np.array_equal(own.vectors, other.vectors)
                assert np.array_equal(own.special, other.special)
                assert np.array_equal(own.pooled, other.pooled)
                assert best_window(query, own) == best_window(query, other)
            assert np.array_equal(maxsim(query, documents), maxsim(query, expected))
        batch = table.combine_chunks().to_batches()[0].slice(3, 4)  # offsets that do not begin at 0
        assert np.array_equal(maxsim(query, multivectors(batch)), maxsim(query, expected[3:7]))
        assert table["token_vectors"].to_pylist()[10] is None
        with pytest.raises(InputError, match="a row has no vectors"):
            multivectors(table)
    float16 = make(token_vectors="int8", dtype="float16")(data.slice(0, 3))
    assert float16.schema.field("embedding").type.value_type == pa.float16()
    assert make(token_vectors="int8")(data.slice(0, 0)).num_rows == 0


def test_token_vectors_of_options_that_exclude_them(make: Any) -> None:
    for options, message in {
        ("token_vectors", "int4"): "must be one of float32, float16, int8",
        ("dimensions", 8): "token_vectors with dimensions",
        ("prompt", "x: "): "token_vectors with prompt",
        ("normalize", False): "token_vectors with normalize=False",
        ("token_dimensions", 99): "token_dimensions=99: must be ",
    }.items():
        with pytest.raises(InputError, match=message):
            print(make(**{"token_vectors": "int8", options[0]: options[1]}).schema)
    with pytest.raises(InputError, match="token_dimensions: is for token_vectors"):
        make(token_dimensions=8)


def test_rotated_token_vectors_of_the_bundled_model() -> None:
    from runtime.bulk import ArrowEmbedder

    found = ["The cat sat on the mat.", "Interest rates rose again."]
    with Embedder(threads=1) as embedder:
        (query,) = embedder.encode_multivector(["a cat"], query=True, dimensions=64)
        expected = embedder.encode_multivector(found, dimensions=64, dtype="int8")
        embed = ArrowEmbedder(token_vectors="int8", token_dimensions=64, threads=1)
        scores = maxsim(query, multivectors(embed(pa.table({"text": found}))))
        assert np.array_equal(scores, maxsim(query, expected))
        assert scores[0] > scores[1]
