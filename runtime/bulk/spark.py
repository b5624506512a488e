"""Vectors in Spark: a function for DataFrame.mapInArrow.

    from runtime.bulk.spark import embed, schema

    frame.mapInArrow(embed(text_column="body"), schema(frame))

Spark splits, spills and repeats; this only embeds. Each Python worker of an executor loads one model and keeps it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runtime import Embedder


@cache
def _embedder(model: str | None, threads: int) -> Embedder:
    from runtime import Embedder

    return Embedder(model, threads=threads)


def embed(
    *,
    text_column: str = "text",
    vector_column: str = "embedding",
    model: str | None = None,
    threads: int = 1,
    **options: Any,
) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """A function that appends a column of vectors.

    :param text_column: column with the texts; a null has a null for its vector.
    :param vector_column: name of the new column, list<float32>.
    :param model: model folder that each executor has; None for the bundled model.
    :param threads: of each Python worker; Spark runs one for each core of an executor (spark.task.cpus).
    :param options: of Embedder.encode, such as max_length and overflow.
    :return: RecordBatches in, RecordBatches out, row for row.
    """

    def batches(source: Iterator[Any]) -> Iterator[Any]:
        for batch in source:
            texts = batch.column(text_column).to_pylist()
            known = [text for text in texts if text is not None]
            rows = iter(_embedder(model, threads).encode(known, **options))
            vectors = [None if text is None else next(rows) for text in texts]
            arrays = [*batch.columns, pa.array(vectors, pa.list_(pa.float32()))]
            yield pa.RecordBatch.from_arrays(arrays, names=[*batch.schema.names, vector_column])

    return batches


def schema(frame: Any, vector_column: str = "embedding") -> Any:
    """The schema of what mapInArrow gives.

    :param frame: DataFrame that it is called on.
    :param vector_column: as given to embed.
    """
    from pyspark.sql.types import ArrayType, FloatType, StructType

    return StructType([*frame.schema.fields]).add(vector_column, ArrayType(FloatType(), containsNull=False))
