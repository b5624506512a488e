"""Vectors for Arrow data: a function from a RecordBatch or Table to the same rows with a column of vectors.

    embed = ArrowEmbedder(field="body")
    table = embed(table)                                             # pyarrow.Table or RecordBatch

It fits wherever an engine hands over Arrow: Ray Data's map_batches, Spark's mapInArrow, datasets.map, Dask, Daft, Lance
(README.md of this folder has an example of each), and the workers of `python -m runtime.bulk`. It can be pickled: what
travels is the model's folder and the options, and each process loads the model once, at its first batch.

A row without a text that can be embedded keeps its place: its vector is null, and the column of errors says why.
"""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runtime.cli.sources import missing
from runtime.errors import InputError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from runtime import Embedder
    from runtime.manifest import Manifest

DTYPES = {"float32": pa.float32(), "float16": pa.float16()}
_loaded: dict[tuple[str | None, int | None], Embedder] = {}  # of this process
_loading = threading.Lock()


class Embedded(NamedTuple):
    """What was made of some texts."""

    vectors: NDArray[Any]  # [n, D]; a row of zeros where there is an error
    errors: list[str | None]
    tokens: int
    truncated_texts: int
    cut_tokens: int


class ArrowEmbedder:
    """Appends vectors, and reasons why there are none, to Arrow data."""

    def __init__(
        self,
        model: str | None = None,
        *,
        field: str = "text",
        vector_column: str = "embedding",
        error_column: str = "embedding_error",
        max_length: int | None = None,
        overflow: str = "truncate",
        normalize: bool | None = None,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dtype: str = "float32",
        fixed_size: bool = True,
        threads: int | None = None,
    ) -> None:
        """Take the options; no model is loaded yet.

        :param model: model folder that each machine has; None for the bundled model.
        :param field: column with the texts; doc.text for a field of a struct. A column of that very name comes first.
        :param vector_column: name of the new column.
        :param error_column: name of the other one: null, or why the row has no vector.
        :param max_length: most tokens of a text; None for the model's.
        :param overflow: "truncate" cuts a longer text, "error" gives it no vector.
        :param normalize: vectors of length 1; None for what the model folder says.
        :param dimensions: numbers of a vector, of a model that can be cut; None for all.
        :param prompt_name: prompt of the model folder to put before each text; None for its default, if any.
        :param prompt: text to put before each text instead.
        :param dtype: "float32" or "float16".
        :param fixed_size: FixedSizeList; False for List, which is all that Spark has.
        :param threads: None for as many as this process may use; 1 where an engine runs a process for each core.
        :raises InputError: an option that does not exist.
        """
        if dtype not in DTYPES or overflow not in ("truncate", "error"):
            raise InputError(
                f"dtype={dtype!r}, overflow={overflow!r}: must be float32 or float16, and truncate or error"
            )
        self.model, self.field, self.threads = model, field, threads
        self.vector_column, self.error_column = vector_column, error_column
        self.max_length, self.overflow, self.normalize = max_length, overflow, normalize
        self.dimensions, self.prompt_name, self.prompt = dimensions, prompt_name, prompt
        self.dtype, self.fixed_size = dtype, fixed_size

    def __call__(self, data: Any) -> Any:
        """The same rows with both columns appended.

        :param data: pyarrow.RecordBatch or pyarrow.Table.
        :return: of the same type.
        :raises InputError: it has no column with texts, or one of the new names already.
        """
        names = data.schema.names
        taken = next((name for name in (self.vector_column, self.error_column) if name in names), None)
        if taken is not None:
            raise InputError(
                f"there is a column {taken!r} already: choose another vector_column or error_column"
            )
        new = self.columns(data)
        if isinstance(data, pa.Table):
            for name, column in zip(new.schema.names, new.columns, strict=True):
                data = data.append_column(name, column)
            return data
        return pa.RecordBatch.from_arrays([*data.columns, *new.columns], schema=self.schema_of(data.schema))

    def columns(self, data: Any) -> Any:
        """The two new columns alone, as Lance's batch UDF gives them.

        :param data: as for calling it.
        :return: pyarrow.RecordBatch.
        """
        texts, errors = texts_of(column_of(data, self.field), self.field)
        found = self.embed(texts, errors)
        kind = self.schema.field(0).type
        flat = pa.array(found.vectors.reshape(-1))
        mask = pa.array([error is not None for error in found.errors], pa.bool_())
        if self.fixed_size:
            vectors = pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=mask)
        else:
            offsets = np.arange(len(texts) + 1, dtype=np.int32) * self.dimension
            vectors = pa.ListArray.from_arrays(pa.array(offsets), flat, type=kind, mask=mask)
        return pa.RecordBatch.from_arrays([vectors, pa.array(found.errors, pa.string())], schema=self.schema)

    def map(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Batch after batch, as Spark's mapInArrow wants it."""
        for batch in batches:
            yield self(batch)

    def embed(self, texts: list[str], errors: list[str | None] | None = None) -> Embedded:
        """Vectors of texts.

        :param errors: of each text, why it is none, or None; those with an error are passed over.
        :raises OutputError: a vector is out of the range of dtype, or not finite.
        """
        embedder = load(self.model, self.threads)
        errors = [None] * len(texts) if errors is None else list(errors)
        if self.overflow == "error":
            limit = self.max_length or embedder.max_tokens
            prompt = embedder.choose_prompt(self.prompt_name, self.prompt).text
            for number, count in enumerate(embedder.count_tokens([prompt + text for text in texts])):
                if errors[number] is None and count > limit:
                    errors[number] = f"{count:,} tokens, more than --max-length {limit:,}"
        good = [number for number, error in enumerate(errors) if error is None]
        vectors, stats = embedder.encode(
            [texts[number] for number in good],
            max_length=self.max_length,
            normalize=self.normalize,
            dimensions=self.dimensions,
            prompt_name=self.prompt_name,
            prompt=self.prompt,
            return_stats=True,
        )
        if self.dtype == "float16":
            with np.errstate(over="ignore"):  # told as what it is
                vectors = vectors.astype(np.float16)
            if not np.isfinite(vectors).all():
                raise OutputError(
                    "a vector is out of the range of float16: leave out --no-normalize, or use --dtype float32"
                )
        if len(good) < len(texts):
            every = np.zeros((len(texts), self.dimension), vectors.dtype)
            every[good] = vectors
            vectors = every
        return Embedded(vectors, errors, stats.tokens, stats.truncated_texts, stats.cut_tokens)

    @property
    def manifest(self) -> Manifest:
        """Of the model, which need not be loaded for it."""
        from runtime.bundled import bundled_model
        from runtime.manifest import load_manifest

        return load_manifest(self.model or bundled_model())

    @cached_property
    def dimension(self) -> int:
        """D, the length of a vector."""
        from runtime.manifest import check_dimensions

        return check_dimensions(self.manifest, self.dimensions)

    @property
    def schema(self) -> Any:
        """pyarrow.Schema of the two new columns."""
        item = DTYPES[self.dtype]
        vectors = pa.list_(item, self.dimension) if self.fixed_size else pa.list_(item)
        return pa.schema([(self.vector_column, vectors), (self.error_column, pa.string())])

    def schema_of(self, schema: Any) -> Any:
        """pyarrow.Schema of the result for data of a schema."""
        return pa.schema([*schema, *self.schema], metadata=schema.metadata)

    def spark_schema(self, schema: Any) -> Any:
        """The same for a pyspark StructType, as mapInArrow wants it; needs fixed_size=False."""
        from pyspark.sql.types import ArrayType, FloatType, StringType, StructType

        vectors = ArrayType(FloatType(), containsNull=True)
        return (
            StructType([*schema.fields]).add(self.vector_column, vectors).add(self.error_column, StringType())
        )


def load(model: str | None, threads: int | None) -> Embedder:
    """The model of this process, loaded at the first call."""
    with _loading:
        if (model, threads) not in _loaded:
            from runtime import Embedder

            _loaded[model, threads] = Embedder(model, threads=threads)
        return _loaded[model, threads]


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
    if not (is_text(kind) or pa.types.is_null(kind)):
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


def is_text(kind: Any) -> bool:
    """Whether a pyarrow type is one of strings or bytes."""
    tests = (
        "is_string",
        "is_large_string",
        "is_string_view",
        "is_binary",
        "is_large_binary",
        "is_binary_view",
    )
    return any(getattr(pa.types, name)(kind) for name in tests if hasattr(pa.types, name))
