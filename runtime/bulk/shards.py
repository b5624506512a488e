"""One shard: its rows read, embedded, and written as one file with its rejects beside it."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runtime.errors import OutputError

from .inputs import root
from .rows import Reject, Window, windows
from .storage import Storage

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from runtime import Embedder

    from .job import Job, Shard

PART = "part-{:05d}"
REJECTS = "_rejects-{:05d}.jsonl"  # readers of a folder pass over names with an underscore


class Written(NamedTuple):
    """A file of a shard."""

    name: str
    size: int  # bytes
    sha256: str


class Done(NamedTuple):
    """A shard that is done."""

    number: int
    rows: int  # with a vector
    rejected: int
    tokens: int
    truncated_texts: int
    cut_tokens: int
    files: tuple[Written, ...]  # none for a shard without rows


class Totals:
    """What is counted over the windows of a shard."""

    def __init__(self) -> None:
        self.rows = self.tokens = self.truncated = self.cut = 0


def embed_shard(
    job: Job,
    shard: Shard,
    embedder: Embedder,
    progress: Callable[[int, int], None] = lambda rows, tokens: None,
) -> Done:
    """Read a shard's rows, embed them, write its files.

    :param progress: called with rows of input and tokens, each time some are done.
    :raises JinaBertError: the model failed.
    :raises OSError: the input cannot be read, or the output not written.
    """
    source, target = Storage(root(job.source)), Storage(job.output)
    totals, rejects, files = Totals(), [], []
    writer = WRITERS[job.format](job, shard, target, embedder)
    try:
        for window in windows(job, shard.spans, source):
            good = _refuse(job, window, embedder)
            rejects += good.rejects
            tokens = 0
            if good.texts:
                vectors, stats = embedder.encode(
                    good.texts,
                    max_length=job.max_length,
                    normalize=job.normalize,
                    dimensions=job.dimensions,
                    return_stats=True,
                )
                writer.write(_as(vectors, job.dtype), good.table)
                tokens = stats.tokens
                totals.rows += stats.texts
                totals.tokens += stats.tokens
                totals.truncated += stats.truncated_texts
                totals.cut += stats.cut_tokens
            progress(window.rows, tokens)
        files += writer.close()
    except BaseException:
        writer.discard()
        raise
    if rejects:
        name = REJECTS.format(shard.number)
        facts = target.write(name, "".join(reject.line() for reject in rejects).encode())
        files.append(Written(name, *facts))
    return Done(
        shard.number, totals.rows, len(rejects), totals.tokens, totals.truncated, totals.cut, tuple(files)
    )


def _refuse(job: Job, window: Window, embedder: Embedder) -> Window:
    """A window without rows that have no id or, with --overflow error, too many tokens."""
    reasons: dict[int, str] = {}
    if job.id_column is not None:
        for number, known in enumerate(window.table.column(job.id_column.name).is_valid().to_pylist()):
            if not known:
                reasons[number] = f"id column {job.id_column.name!r} is null"
    if job.overflow == "error":
        for number, tokens in enumerate(embedder.count_tokens(window.texts)):
            if tokens > job.max_length:
                reasons.setdefault(number, f"{tokens:,} tokens, more than --max-length {job.max_length:,}")
    if not reasons:
        return window
    rejects = [Reject(*window.places[n], reason) for n, reason in reasons.items()]
    return window.take([n for n in range(len(window.texts)) if n not in reasons], rejects)


def _as(vectors: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    if dtype == "float32":
        return vectors
    with np.errstate(over="ignore"):  # reported as what it is
        narrow = vectors.astype(np.float16)
    if not np.isfinite(narrow).all():
        raise OutputError(
            "a vector passes the range of float16: leave out --no-normalize, or use --dtype float32"
        )
    return narrow


def vector_type(dimension: int, dtype: str) -> Any:
    """pyarrow's type of the column of vectors: FixedSizeList."""
    return pa.list_(pa.float16() if dtype == "float16" else pa.float32(), dimension)


class ParquetWriter:
    """part-N.parquet: what is kept, and the vectors; a row group for each window."""

    def __init__(self, job: Job, shard: Shard, target: Storage, embedder: Embedder) -> None:
        self._job, self._target = job, target
        self._name = PART.format(shard.number) + ".parquet"
        self._dimension = job.dimensions
        about = {"model": embedder.manifest.name, "checksum": job.model_checksum, "normalize": job.normalize}
        self._about = {"jinabert-runtime": json.dumps(about)}
        self._context: Any = None
        self._draft: Any = None
        self._writer: Any = None

    def write(self, vectors: NDArray[Any], table: Any) -> None:
        """Append rows."""
        kind = vector_type(self._dimension, self._job.dtype)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=kind)
        name = self._job.vector_column
        if self._writer is None:
            schema = table.schema.append(pa.field(name, kind)).with_metadata(self._about)
            leaves = f"{name}.list.element"
            self._context = self._target.create(self._name)
            self._draft = self._context.__enter__()
            self._writer = pq.ParquetWriter(
                self._draft.stream,
                schema,
                # Vectors are noise to a compressor and to a dictionary; statistics of their numbers help nobody.
                compression={leaf: "none" if leaf == leaves else "zstd" for leaf in _leaves(schema)},
                use_dictionary=[leaf for leaf in _leaves(schema) if leaf != leaves],
                write_statistics=[leaf for leaf in _leaves(schema) if leaf != leaves],
            )
        self._writer.write_table(table.append_column(name, column), row_group_size=len(vectors))

    def close(self) -> list[Written]:
        """Finish the file; none where there were no rows."""
        if self._writer is None:
            return []
        self._writer.close()
        self._context.__exit__(None, None, None)
        return [Written(self._name, *self._draft.facts)]

    def discard(self) -> None:
        """Leave no file."""
        if self._context is not None:
            _cancel(self._context)


class NpyWriter:
    """part-N.npy with the vectors and part-N.ids.npy with the ids, in memory until the shard is done."""

    def __init__(self, job: Job, shard: Shard, target: Storage, embedder: Embedder) -> None:
        self._target = target
        self._name = PART.format(shard.number)
        self._vectors: list[NDArray[Any]] = []
        self._ids: list[Any] = []

    def write(self, vectors: NDArray[Any], table: Any) -> None:
        """Append rows."""
        self._vectors.append(vectors)
        self._ids.append(table.column(0))

    def close(self) -> list[Written]:
        """Write both files."""
        if not self._vectors:
            return []
        ids = pa.chunked_array([chunk for column in self._ids for chunk in column.chunks])
        pairs = {".ids.npy": _numpy(ids), ".npy": np.concatenate(self._vectors)}
        written = []
        for ending, array in pairs.items():
            with self._target.create(self._name + ending) as draft:
                np.save(draft.stream, array, allow_pickle=False)
            written.append(Written(self._name + ending, *draft.facts))
        return written

    def discard(self) -> None:
        """Nothing is written before close."""


WRITERS: dict[str, Any] = {"parquet": ParquetWriter, "npy": NpyWriter}


def _numpy(ids: Any) -> NDArray[Any]:
    """Ids as an array without objects: numbers as they are, everything else as fixed-width text."""
    if pa.types.is_integer(ids.type):
        numbers: NDArray[Any] = ids.to_numpy()
        return numbers
    return np.array([str(value) for value in ids.to_pylist()], np.str_)


def _leaves(schema: Any) -> list[str]:
    """Paths of the columns of a Parquet file with this schema."""
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, schema).close()
    found = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema
    return [found.column(number).path for number in range(len(found))]


def _cancel(context: Any) -> None:
    error = InterruptedError()
    with contextlib.suppress(OSError):
        context.__exit__(InterruptedError, error, None)
