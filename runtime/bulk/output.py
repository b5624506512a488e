"""The parts of the output, and the journal of those that are done.

part-00000.parquet and so on hold the vectors as FixedSizeList beside the kept columns, or part-00000.npy the vectors
and part-00000.ids.npy the ids. A part is there whole or not at all. Once it is, a line is added to _journal.jsonl (on
an object store: a file of its own), with its rows, sizes, SHA-256 and the place in the input where the next one
begins.
_manifest.json says what the job is made from, and at its end what it made; _rejects.jsonl lists the rejected rows.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runtime.errors import InputError

from .rows import Counts
from .storage import Facts, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .storage import Storage

MANIFEST, REJECTS, JOURNAL = "_manifest.json", "_rejects.jsonl", "_journal.jsonl"
SCHEMA_VERSION = 2
PART = "part-{:05d}"


@dataclass
class Part(Counts):
    """A part of the output, as the journal has it."""

    part: int = 0
    files: list[list[Any]] = field(default_factory=list)  # name, size, SHA-256
    end: list[int] = field(default_factory=list)  # Place
    rejects: list[dict[str, Any]] = field(default_factory=list)


class Journal:
    """The parts that are done."""

    def __init__(self, storage: Storage) -> None:
        """Of an output."""
        self._storage = storage
        self.ordered = True  # no part was done twice

    def load(self) -> dict[int, Part]:
        """The parts, without their rejects; a line that a crash cut off is dropped.

        :raises InputError: it is damaged otherwise.
        """
        parts: dict[int, Part] = {}
        try:
            for part in self._all():
                part.rejects = []
                self.ordered = self.ordered and part.part == len(parts)
                parts[part.part] = part
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{self._storage.join(JOURNAL)}: damaged ({error}): start over with --force, or name another --output"
            ) from None
        return parts

    def add(self, part: Part) -> None:
        """A part is done: from here on it is not done again.

        :raises OSError: it cannot be written.
        """
        line = json.dumps(asdict(part)).encode() + b"\n"
        if not self._storage.local:
            self._storage.write(f"_journal-{part.part:08d}.json", line)
            return
        with open(self._storage.join(JOURNAL), "ab") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    def finish(self) -> list[dict[str, Any]]:
        """Put the lines of parts that were done again where they belong, and write the rejects.

        :return: the first few of these.
        :raises OSError: a file cannot be written.
        """
        if not self.ordered and self._storage.local:
            lines = {part.part: json.dumps(asdict(part)) for part in self._all()}
            text = "".join(lines[number] + "\n" for number in sorted(lines))
            self._storage.write(JOURNAL, text.encode())
        first: list[dict[str, Any]] = []
        with contextlib.ExitStack() as stack:
            stream = None
            for part in self._all():
                for bad in part.rejects:
                    if stream is None:
                        stream = stack.enter_context(self._storage.create(REJECTS)).stream
                    stream.write(json.dumps(bad).encode() + b"\n")
                    if len(first) < 3:
                        first.append(bad)
        return first

    def _all(self) -> Iterator[Part]:
        if self._storage.local:
            path = self._storage.join(JOURNAL)
            if not os.path.exists(path):
                return
            with open(path, "rb+") as stream:
                for line in stream:
                    if not line.endswith(b"\n"):
                        stream.truncate(stream.tell() - len(line))
                        return
                    yield Part(**json.loads(line))
            return
        for name in self._storage.names():
            if name.startswith("_journal-"):
                yield Part(**json.loads(self._storage.read(name) or b""))


def load_manifest(storage: Storage) -> dict[str, Any] | None:
    """What the job in an output is made from; None where there is none.

    :raises InputError: it cannot be read, or is of another release.
    """
    where = storage.join(MANIFEST)
    try:
        data = storage.read(MANIFEST)
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({reason(error)})") from None
    if data is None:
        return None
    remedy = "start over with --force, or name another --output"
    try:
        document: dict[str, Any] = json.loads(data)
        if document["schema_version"] != SCHEMA_VERSION:
            raise InputError(
                f"{where}: of another release (version {document['schema_version']!r}): {remedy}"
            )
        for name in ("made_with", "input", "model", "options"):
            document[name].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{where}: no manifest of a job, or damaged: {remedy}") from None
    return document


def save_manifest(storage: Storage, document: dict[str, Any]) -> None:
    """Replace it.

    :raises OSError: it cannot be written.
    """
    storage.write(MANIFEST, (json.dumps(document, indent=1) + "\n").encode())


class ParquetWriter:
    """part-N.parquet: a row group for each unit."""

    def __init__(self, storage: Storage, number: int, made: Sequence[str], about: dict[str, Any]) -> None:
        """Of a part; the file begins with its first rows.

        :param made: names of the columns of vectors.
        :param about: the model, for the file's metadata.
        """
        self._storage, self._name = storage, PART.format(number) + ".parquet"
        self._made, self._about = made, {"jinabert-runtime": json.dumps(about)}
        self._stack = contextlib.ExitStack()
        self._draft: Any = None
        self._writer: Any = None

    def write(self, table: Any) -> None:
        """Append rows."""
        table = table.replace_schema_metadata(self._about)
        if self._writer is None:
            self._draft = self._stack.enter_context(self._storage.create(self._name))
            leaves = _leaves(table.schema)
            others = [leaf for leaf in leaves if leaf.partition(".list.element")[0] not in self._made]
            self._writer = pq.ParquetWriter(
                self._draft.stream,
                table.schema,
                # Vectors are noise to a compressor and to a dictionary; statistics of their numbers help nobody.
                compression={leaf: "zstd" if leaf in others else "none" for leaf in leaves},
                use_dictionary=others,
                write_statistics=others,
            )
        self._writer.write_table(table, row_group_size=table.num_rows)

    def close(self) -> list[tuple[str, Facts]]:
        """Finish the file; none where there were no rows."""
        if self._writer is None:
            return []
        self._writer.close()
        self._stack.close()
        return [(self._name, self._draft.facts)]

    def discard(self) -> None:
        """Leave no file."""
        error = InterruptedError()
        with contextlib.suppress(OSError, InterruptedError):
            self._stack.__exit__(InterruptedError, error, None)


class NpyWriter:
    """part-N.npy with the vectors and part-N.ids.npy with the ids, in memory until the part is done."""

    def __init__(self, storage: Storage, number: int, made: Sequence[str], about: dict[str, Any]) -> None:
        """Of a part."""
        self._storage, self._name = storage, PART.format(number)
        self._tables: list[Any] = []

    def write(self, table: Any) -> None:
        """Append rows: their ids come first, their vectors last."""
        self._tables.append(table)

    def close(self) -> list[tuple[str, Facts]]:
        """Write both files."""
        if not self._tables:
            return []
        table = pa.concat_tables(self._tables)
        ids, vectors = table.column(0), table.column(-1).combine_chunks()
        words = (
            ids.to_numpy()
            if pa.types.is_integer(ids.type)
            else np.array([*map(str, ids.to_pylist())], np.str_)
        )
        written = []
        for end, array in (
            (".ids.npy", words),
            (".npy", vectors.flatten().to_numpy().reshape(table.num_rows, -1)),
        ):
            with self._storage.create(self._name + end) as draft:
                np.save(draft.stream, array, allow_pickle=False)
            written.append((self._name + end, draft.facts))
        return written

    def discard(self) -> None:
        """Nothing is written before close."""


WRITERS: dict[str, Callable[..., Any]] = {"parquet": ParquetWriter, "npy": NpyWriter}


def clear(storage: Storage) -> None:
    """Remove the files of a job, and nothing else.

    :raises OSError: one cannot be removed.
    """
    for name in storage.names():
        ours = name.startswith(("part-", "_journal-")) and name.endswith((".parquet", ".npy", ".json"))
        if ours or name in (MANIFEST, REJECTS, JOURNAL):
            storage.remove(name)


def _leaves(schema: Any) -> list[str]:
    """Paths of the columns of a Parquet file with this schema."""
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, schema).close()
    found = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema
    return [found.column(number).path for number in range(len(found))]
