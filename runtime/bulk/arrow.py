"""Vectors for Arrow data: a function from a RecordBatch or Table to the same rows with a column of vectors.

    embed = ArrowEmbedder(field="body")
    table = embed(table)                                             # pyarrow.Table or RecordBatch

It fits wherever an engine hands over Arrow: Ray Data's map_batches, Spark's mapInArrow, datasets.map, Dask, Daft, Lance
(README.md of this folder has an example of each).

A row without a text that can be embedded keeps its place: its vector is null, and the column of errors says why.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runtime.cli.sources import missing
from runtime.errors import InputError

from .embedding import TextEmbedder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from runtime.multivector import Multivector

    from .embedding import Embedded

TEXTS = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "null")
TEXT_TYPES = [getattr(pa, name)() for name in TEXTS if hasattr(pa, name)]  # views are pyarrow's from 16 on
ABOUT_TOKENS = b"jinabert-runtime"  # key of a column's metadata


class ArrowEmbedder(TextEmbedder):
    """Appends vectors, and reasons why there are none, to Arrow data."""

    def __call__(self, data: Any) -> Any:
        """The same rows with the new columns appended.

        :param data: pyarrow.RecordBatch or pyarrow.Table.
        :return: of the same type.
        :raises InputError: it has no column with texts, or one of the new names already.
        """
        names = data.schema.names
        taken = next((name for name in self.schema.names if name in names), None)
        if taken is not None:
            raise InputError(
                f"there is a column {taken!r} already: choose another vector_column, error_column or token_column"
            )
        new = self.columns(data)
        if isinstance(data, pa.Table):
            for field, column in zip(new.schema, new.columns, strict=True):
                data = data.append_column(field, column)
            return data
        return pa.RecordBatch.from_arrays([*data.columns, *new.columns], schema=self.schema_of(data.schema))

    def columns(self, data: Any) -> Any:
        """The new columns alone, as Lance's batch UDF gives them.

        :param data: as for calling it.
        :return: pyarrow.RecordBatch.
        """
        texts, errors = texts_of(column_of(data, self.field), self.field)
        return pa.RecordBatch.from_arrays(self.arrays(self.embed(texts, errors)), schema=self.schema)

    def arrays(self, found: Embedded) -> list[Any]:
        """What was made of texts, as an array for each new column."""
        missing = pa.array([error is not None for error in found.errors], pa.bool_())
        kinds = [field.type for field in self.schema]
        arrays = [_lists(found.vectors, kinds[0], missing), pa.array(found.errors, pa.string())]
        if found.token_vectors is not None:
            ends = np.cumsum([0, *map(len, found.token_vectors)], dtype=np.int32)
            flat = np.concatenate(
                [*found.token_vectors, np.empty((0, self.token_dimension), self.token_vectors)]
            )
            rows = _lists(flat, kinds[2].value_type, None)
            arrays.append(pa.ListArray.from_arrays(pa.array(ends), rows, type=kinds[2], mask=missing))
        return arrays

    def map(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Batch after batch, as Spark's mapInArrow wants it."""
        for batch in batches:
            yield self(batch)

    @property
    def schema(self) -> Any:
        """pyarrow.Schema of the new columns: vectors, errors and, if wanted, token vectors."""
        fields = [
            pa.field(self.vector_column, self._list(self.dtype, self.dimension)),
            pa.field(self.error_column, pa.string()),
        ]
        if self.token_vectors is not None:
            kind = pa.list_(self._list(self.token_vectors, self.token_dimension))
            before, after = self.special_tokens
            about = {"scale": 127 if self.token_vectors == "int8" else 1, "before": before, "after": after}
            fields.append(pa.field(self.token_column, kind, metadata={ABOUT_TOKENS: json.dumps(about)}))
        return pa.schema(fields)

    def _list(self, dtype: str, size: int) -> Any:
        item = pa.from_numpy_dtype(np.dtype(dtype))
        return pa.list_(item, size) if self.fixed_size else pa.list_(item)

    def schema_of(self, schema: Any) -> Any:
        """pyarrow.Schema of the result for data of a schema."""
        return pa.schema([*schema, *self.schema], metadata=schema.metadata)

    def spark_schema(self, schema: Any) -> Any:
        """The same for a pyspark StructType, as mapInArrow wants it; needs fixed_size=False."""
        from pyspark.sql.types import ArrayType, ByteType, FloatType, StringType, StructType

        found = StructType([*schema.fields]).add(self.vector_column, ArrayType(FloatType()))
        found = found.add(self.error_column, StringType())
        if self.token_vectors is not None:
            item = ByteType() if self.token_vectors == "int8" else FloatType()
            found = found.add(self.token_column, ArrayType(ArrayType(item)))
        return found


def _lists(rows: Any, kind: Any, mask: Any) -> Any:
    """Rows of numbers as an array of lists."""
    flat = pa.array(rows.reshape(-1))
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=mask)
    offsets = np.arange(len(rows) + 1, dtype=np.int64) * rows.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat, type=kind, mask=mask)


def multivectors(
    data: Any, vector_column: str = "embedding", token_column: str = "token_vectors"
) -> list[Multivector]:
    """Rows with token vectors as `runtime.maxsim` and `best_window` take documents; nothing is copied.

    :param data: pyarrow.RecordBatch or Table that a job or an ArrowEmbedder made.
    :param vector_column: its vectors, of length 1.
    :param token_column: its token vectors.
    :return: one a row; the ids of tokens were not stored and are -1, and weights are 0.
    :raises InputError: there is no such column, or a row has no vectors.
    """
    from runtime.multivector import Multivector

    schema, found = data.schema, []
    about = json.loads((schema.field(token_column).metadata or {}).get(ABOUT_TOKENS, b"{}"))
    before, after = about.get("before", 0), about.get("after", 0)
    for batch in data.to_batches() if isinstance(data, pa.Table) else [data]:
        means, tokens = column_of(batch, vector_column), column_of(batch, token_column)
        if means.null_count or tokens.null_count:
            raise InputError("a row has no vectors: leave out those with an error first")
        rows, ends = tokens.flatten(), tokens.offsets.to_numpy() - tokens.offsets[0].as_py()
        pooled = means.flatten().to_numpy().astype(np.float32, copy=False).reshape(len(batch), -1)
        vectors = rows.flatten().to_numpy().reshape(len(rows), -1)
        for mean, start, end in zip(pooled, ends[:-1], ends[1:], strict=True):
            special = np.zeros(end - start, np.bool_)
            special[:before] = special[end - start - after :] = True
            ids, weights = np.full(end - start, -1, np.int32), np.zeros(end - start, np.float32)
            found.append(Multivector(vectors[start:end], ids, special, weights, mean))
    return found


def column_of(data: Any, field: str) -> Any:
    """A column of a RecordBatch or Table: of that very name, or a.b as the field b of the struct a.

    :raises InputError: there is none, or there are two.
    """
    names = data.schema.names
    root = field if field in names else field.partition(".")[0]
    if names.count(root) > 1:
        raise InputError(f"two columns are called {root!r}: rename one")
    if root not in names:
        raise InputError(missing(field, names).replace("field", "column"))
    column = data.column(root)
    if root == field:
        return column
    try:
        return pc.struct_field(column, field.split(".")[1:])
    except (pa.ArrowException, TypeError):
        raise InputError(f"column {root!r} is {column.type}, with no field {field!r}") from None


def texts_of(column: Any, field: str) -> tuple[list[str], list[str | None]]:
    """Texts of a column of strings or UTF-8 bytes, and why a row has none.

    :raises InputError: it is of another type.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return texts_of(column.cast(kind.value_type), field)
    if kind not in TEXT_TYPES:
        raise InputError(f"column {field!r} is {kind}, not strings: choose another --field")
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:  # written by a program that did not check
        values = column.cast(pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()).to_pylist()
    texts, errors = [], []
    for value in values:
        text, error = "", None
        if isinstance(value, str):
            text = value
        elif value is None:
            error = f"field {field!r} is null"
        else:
            try:
                text = value.decode("utf-8")
            except UnicodeDecodeError as reason:
                error = f"field {field!r} is not UTF-8: byte {reason.start + 1} ({reason.reason})"
        texts.append(text)
        errors.append(error)
    return texts, errors
