"""Rows of the input, read once and in order, cut into units of work.

A unit is some thousand rows, of one file or of several small ones, which go to the workers and come back together.
Units make parts, the files of the output. Where they begin and end follows from the input and --shard-rows alone, so
that a resumed job makes the same files, and each unit knows the place where the next one begins, so that nothing before
it is read again (a compressed file, and one that is not UTF-8, is unpacked from its beginning).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from runtime.cli.sources import ReadOptions, Source, field_of, has_field, missing, text_of, too_large
from runtime.cli.streams import DamagedError
from runtime.errors import InputError

from . import columns
from .arrow import column_of, texts_of
from .parquet import batches_of, by_statistics, fragment_of
from .storage import reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .columns import Column
    from .inputs import Files

UNIT_ROWS = 8192
UNIT_CHARACTERS = 1 << 20
SHARD_ROWS = 8192
SHARD_CHARACTERS = 4 << 20  # minutes of work for a CPU core
FIRST_ROWS, FIRST_CHARACTERS = 512, 32 << 10  # of the first part, and twice as many of each after it
MOST_BYTES = 64 << 20  # of a row
ROW, FILE = "row", "file"  # columns of the output where there is no id


class Place(NamedTuple):
    """Where a row begins."""

    file: int = 0  # its number
    end: int = 0  # Source.rows' own; Parquet: row of the file, from 0
    line: int = 0  # the line there; 0 for the beginning of a file
    file_row: int = 1  # in its file
    row: int = 1  # in the whole input


class Record(NamedTuple):
    """A row that was read."""

    text: str
    problem: str | None
    kept: Any  # values of the kept columns; of Parquet (table, number of the row in it)
    line: int | None
    end: int
    file_row: int = 0  # of Parquet


@dataclass
class Counts:
    """What is accounted for, of a unit, a part or a job: rows = vectors + rejected."""

    rows: int = 0  # of input, without those that --filter left out
    vectors: int = 0
    rejected: int = 0
    filtered: int = 0
    blank: int = 0  # blank lines that were skipped
    tokens: int = 0
    truncated_texts: int = 0
    cut_tokens: int = 0
    failed: list[str] = field(default_factory=list)  # files that could not be read to their end

    def add(self, other: Counts) -> None:
        """Count what another one counts."""
        for name in Counts.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def counts(self) -> dict[str, Any]:
        """By name."""
        return {name: getattr(self, name) for name in Counts.__dataclass_fields__}


@dataclass
class Unit(Counts):
    """Rows that are embedded together."""

    part: int = 0
    texts: list[str] = field(default_factory=list)
    places: list[tuple[int, str, int, int | None]] = field(default_factory=list)  # see reject
    kept: list[Any] = field(default_factory=list)  # of each text
    rejects: list[dict[str, Any]] = field(default_factory=list)
    end: Place = field(default_factory=Place)  # where the next unit begins
    bytes: int = 0  # of the input that lie before it
    last: bool = False  # of its part


class Reading(NamedTuple):
    """What to read, and how."""

    files: Files
    options: ReadOptions
    unit: str | None  # of text: "line", "file"
    id_column: Column | None
    kept: tuple[Column, ...]  # the id column first
    types: dict[str, Any]  # of the kept columns in the output
    partitions: dict[str, Any]  # types of the columns that names of folders make
    condition: str | None = None
    row_groups: dict[int, set[int]] | None = None  # by the file's number
    shard_rows: int | None = None
    smaller: int = 1  # units and parts by so many times, since their vectors are larger

    def units(self, start: Place, part: int) -> Iterator[Unit]:
        """Units from a place on, the first of a part."""
        unit, made, characters = Unit(part=part, end=start), 0, 0  # of the part: rows, characters
        most_rows, most_characters = self._limits(part)
        files = self.files.files
        before, size = sum(file.size for file in files[: start.file]), 0
        base = start.row - start.file_row  # rows in the files before
        for number in range(start.file, len(files)):
            file, opened = files[number], _Opened(self, number)
            place = start if number == start.file else Place()
            count = place.file_row - 1  # rows of this file until now
            try:
                for record in opened.records(place):
                    count = record.file_row or count + 1
                    at = (base + count, file.name, count, record.line)
                    if record.problem is not None:
                        unit.rejects.append(reject(at, record.problem))
                    else:
                        unit.texts.append(record.text)
                        unit.places.append(at)
                        unit.kept.append(record.kept)
                    length = len(record.text) + 1
                    unit.rows, made, characters = unit.rows + 1, made + 1, characters + length
                    size += length
                    unit.last = made >= most_rows or characters >= most_characters
                    full = unit.last or unit.rows >= UNIT_ROWS or size >= UNIT_CHARACTERS // self.smaller
                    if full and record.end >= 0:
                        unit.end = Place(number, record.end, opened.line, count + 1, base + count + 1)
                        unit.bytes = before + opened.consumed(record.end)
                        opened.count(unit)
                        yield unit
                        if unit.last:
                            made = characters = 0
                            most_rows, most_characters = self._limits(unit.part + 1)
                        unit, size = Unit(part=unit.part + unit.last), 0
            except (InputError, OSError, pa.ArrowException) as error:
                named = isinstance(error, InputError)
                unit.failed.append(str(error) if named else f"{file.name}: cannot be read ({reason(error)})")
            finally:
                opened.close()
            opened.count(unit)
            before, base = before + file.size, base + (opened.total or count)
        unit.last, unit.end, unit.bytes = True, Place(len(files), row=base + 1), before
        if unit.rows or unit.filtered or unit.blank or unit.failed or made:
            yield unit

    def _limits(self, part: int) -> tuple[int, int]:
        """Rows and characters of a part."""
        doubled = min(part, 20)
        rows = self.shard_rows or min(SHARD_ROWS, FIRST_ROWS << doubled)
        return rows, min(SHARD_CHARACTERS // self.smaller, FIRST_CHARACTERS << doubled)

    def table(self, unit: Unit, chosen: list[int]) -> Any:
        """The kept columns of some texts of a unit."""
        pieces: list[tuple[Any, list[Any]]] = []
        for number in chosen if self.kept else ():
            source, value = unit.kept[number]
            if not pieces or pieces[-1][0] is not source:
                pieces.append((source, []))
            pieces[-1][1].append(value)
        tables = []
        for source, values in pieces:
            if source is None:
                columns_of = zip(*values, strict=True)
                arrays = [
                    pa.array(found, kind) for found, kind in zip(columns_of, self.types.values(), strict=True)
                ]
                tables.append(pa.table(arrays, names=list(self.types)))
            else:
                tables.append(source.take(pa.array(values, pa.int64())))
        table = pa.concat_tables(tables).combine_chunks() if tables else None
        if self.id_column is not None:
            return table
        place = self.schema.field(0)
        numbers = pa.array([unit.places[number][place.name == FILE] for number in chosen], place.type)
        if table is None:
            return pa.table([numbers], names=[place.name])
        return table.add_column(0, place, numbers)

    @property
    def schema(self) -> Any:
        """Of the kept columns: the id, or the number of the row, or the name of a text's file, comes first."""
        own = (FILE, pa.string()) if self.unit == "file" else (ROW, pa.int64())
        return pa.schema([*([own] if self.id_column is None else []), *self.types.items()])


class _Opened:
    """A file while it is read."""

    def __init__(self, reading: Reading, number: int) -> None:
        self._reading, self._number = reading, number
        self._file = reading.files.files[number]
        self._stream: Any = None
        self._source: Source | None = None
        self._blank = self._filtered = 0  # that were counted already
        self.filtered = 0
        self.line = 0
        self.total = 0  # rows of Parquet

    def records(self, start: Place) -> Iterator[Record]:
        """Its rows from a place on."""
        reading, file = self._reading, self._file
        if (file.size, file.modified_ns) != file.facts:
            raise DamagedError(f"{file.name}: has changed since the job began")
        self._stream = file.storage.open(file.path)
        try:
            source = self._source = Source(self._stream, file.name, reading.options)
        except InputError as error:
            raise DamagedError(str(error)) from None
        if source.format == "parquet":
            yield from self._parquet(start)
        elif reading.unit == "file" and source.format == "text":
            if start.file_row == 1:  # else it was read
                text, problem = source.whole()
                yield Record(text, problem, (None, ()), None, 0)
        else:
            key = reading.options.key
            if source.columns and not has_field(source.columns, key):
                raise DamagedError(f"{file.name}: {missing(key, source.columns)}")
            partition, kept, id_column = file.partition, reading.kept, reading.id_column
            for row in source.rows((start.end, start.line) if start.line else None):
                text, problem = text_of(row, key)
                values: list[Any] = []
                if problem is None and kept:
                    values, problem = _values(row.value, kept, partition, id_column)
                self.line = row.after
                yield Record(text, problem, (None, values), row.line, row.end)
        if (file.size, file.modified_ns) != file.facts:
            raise DamagedError(f"{file.name}: has changed while it was read")

    def _parquet(self, start: Place) -> Iterator[Record]:
        reading, file = self._reading, self._file
        fragment = fragment_of(file)
        schema, self.total = fragment.physical_schema, fragment.metadata.num_rows
        key, names = reading.options.key, schema.names
        condition, tested = columns.parse_filter(reading.condition) if reading.condition else (None, [])
        if not has_field(names, key):
            raise DamagedError(f"{file.name}: {missing(key, names)}")
        wanted = [key, *(column.name for column in reading.kept), *tested]
        roots = {name if name in names else name.partition(".")[0] for name in wanted}
        chosen = by_statistics(fragment, condition)
        told = reading.row_groups.get(self._number, set()) if reading.row_groups is not None else None
        spans, first = {}, 0  # of the row groups to read: first row and row after the last
        for group in range(fragment.num_row_groups):
            stop = first + fragment.metadata.row_group(group).num_rows
            if stop > start.end and (told is None or group in told):
                spans[group] = (first, stop)
            first = stop
        for group, (first, stop) in spans.items():
            if group not in chosen:
                self.filtered += stop - first
                continue
            batches = batches_of(fragment, group, [name for name in names if name in roots])
            for batch in batches:
                skip = min(batch.num_rows, max(0, start.end - first))
                yield from self._batch(batch.slice(skip), first + skip, condition)
                first += batch.num_rows

    def _batch(self, batch: Any, first: int, condition: Any) -> Iterator[Record]:
        reading, partition = self._reading, self._file.partition
        table = pa.Table.from_batches([batch])
        for name, value in partition.items():
            if name not in table.schema.names:
                kind = reading.partitions[name]
                typed = int(value) if value is not None and pa.types.is_integer(kind) else value
                table = table.append_column(name, pa.array([typed] * table.num_rows, kind))
        ends = pa.array(range(first + 1, first + 1 + table.num_rows), pa.int64())
        table = table.append_column(NUMBER, ends)
        if condition is not None:
            table = table.filter(condition)
        key = reading.options.key
        texts, errors = texts_of(column_of(table, key), key)
        kept = pa.table(
            [_typed(table, column.name, reading.types[column.name]) for column in reading.kept],
            names=[column.name for column in reading.kept],
        )
        if reading.id_column is not None:
            name = reading.id_column.name
            for number, known in enumerate(kept.column(0).is_valid().to_pylist()):
                errors[number] = errors[number] or (None if known else f"id column {name!r} is null")
        ended = zip(texts, errors, table.column(NUMBER).to_pylist(), strict=True)
        stop, read = first + batch.num_rows, first
        for number, (text, error, end) in enumerate(ended):
            if len(text) > MOST_BYTES:
                text, error = "", too_large("text", len(text.encode()), MOST_BYTES)
            self.filtered, read = self.filtered + end - read - 1, end
            yield Record(text, error, (kept, number), None, end, end)
        self.filtered += stop - read

    def consumed(self, end: int) -> int:
        """About how many bytes of the file lie before a place."""
        if self._stream is None or self._source is None:
            return 0
        if self._source.format == "parquet":
            return self._file.size * end // max(1, self.total)
        within = self._source.seekable and self._source.format != "json"
        return min(self._file.size, end if within else int(self._stream.tell()))

    def count(self, unit: Unit) -> None:
        """Give a unit what was passed over since the last one."""
        blank = self._source.blank if self._source is not None else 0
        unit.blank, self._blank = unit.blank + blank - self._blank, blank
        unit.filtered, self._filtered = unit.filtered + self.filtered - self._filtered, self.filtered

    def close(self) -> None:
        """Close it."""
        if self._stream is not None:
            self._stream.close()


NUMBER = "\0number"  # of a row; no column is called so


def reject(place: tuple[int, str, int, int | None], why: str) -> dict[str, Any]:
    """A row without a vector; numbers count from 1."""
    row, file, file_row, line = place
    return {"row": row, "file": file, "file_row": file_row, "line": line, "reason": why}


def _typed(table: Any, name: str, kind: Any) -> Any:
    """A kept column as the type that it has in all files."""
    if not has_field(table.schema.names, name):
        return pa.nulls(table.num_rows, kind)
    return column_of(table, name).cast(kind)


def _values(
    value: Any, kept: tuple[Column, ...], partition: dict[str, str | None], id_column: Column | None
) -> tuple[list[Any], str | None]:
    document = value if isinstance(value, dict) else {}
    values: list[Any] = []
    try:
        for column in kept:
            found = field_of(document, column.name)
            if found is None and column.name in partition and column.name not in document:
                found = partition[column.name]
            values.append(columns.convert(column, found))
    except ValueError as error:
        return [], str(error)
    if id_column is not None and values[0] is None:
        return [], f"id column {id_column.name!r} is null"
    return values, None
