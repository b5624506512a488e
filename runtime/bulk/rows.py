"""Rows of a span: texts that can be embedded with the columns kept beside them, and rejects with the reason why not."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from . import columns, filters
from .job import FILE, ROW
from .lines import MAX_LINE_BYTES, Lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .job import Job, Span
    from .storage import Storage

WINDOW_ROWS = 2048  # that are in memory at once, encoded together, and a row group of the output
WINDOW_BYTES = 4 << 20
UTF8_MARK = b"\xef\xbb\xbf"


class Reject(NamedTuple):
    """A row without a vector."""

    row: int  # in the whole input, from 0
    file: str
    file_row: int  # in its file, from 0
    reason: str

    def line(self) -> str:
        """As a line of JSON."""
        return json.dumps(self._asdict()) + "\n"


class Window(NamedTuple):
    """Some rows in the order of the input."""

    texts: list[str]
    places: list[tuple[int, str, int]]  # of each text: its row in the input, its file, its row there
    table: Any  # pyarrow.Table of what is kept, a row for each text
    rejects: list[Reject]
    rows: int  # of input that it took, filtered ones included

    def take(self, kept: list[int], rejects: list[Reject]) -> Window:
        """The rows of these numbers, and more rejects."""
        return Window(
            [self.texts[number] for number in kept],
            [self.places[number] for number in kept],
            self.table.take(pa.array(kept, pa.int64())),
            sorted(self.rejects + rejects),
            self.rows,
        )


def windows(job: Job, spans: Sequence[Span], storage: Storage) -> Iterator[Window]:
    """The rows of spans, those of small ones together.

    :raises OSError: a file cannot be read.
    """
    held: list[Window] = []
    rows = size = 0
    for span in spans:
        for window in READERS[job.kind](job, span, storage):
            held.append(window)
            rows += window.rows
            size += sum(map(len, window.texts))
            if rows >= WINDOW_ROWS or size >= WINDOW_BYTES:
                yield _together(held)
                held, rows, size = [], 0, 0
    if held:
        yield _together(held)


def _together(held: list[Window]) -> Window:
    if len(held) == 1:
        return held[0]
    return Window(
        [text for window in held for text in window.texts],
        [place for window in held for place in window.places],
        pa.concat_tables([window.table for window in held]).combine_chunks(),
        [reject for window in held for reject in window.rejects],
        sum(window.rows for window in held),
    )


class Builder:
    """Collects the rows of JSON lines, CSV or texts until they make a window."""

    def __init__(self, job: Job, span: Span) -> None:
        self._job, self._span = job, span
        self._number = 0  # of the next row within the span
        self._bytes = 0
        self._start()

    def _start(self) -> None:
        self.texts: list[str] = []
        self.places: list[tuple[int, str, int]] = []
        self.values: list[list[Any]] = [[] for _ in self._job.columns]
        self.rejects: list[Reject] = []
        self._bytes = 0

    def good(self, text: str, values: list[Any], size: int) -> None:
        """Take the next row."""
        for column, value in zip(self.values, values, strict=True):
            column.append(value)
        self.texts.append(text)
        span, number = self._span, self._number
        self.places.append((span.first_row + number, span.name, span.first_in_file + number))
        self._number += 1
        self._bytes += size

    def bad(self, reason: str) -> None:
        """Refuse the next row."""
        span, number = self._span, self._number
        self.rejects.append(Reject(span.first_row + number, span.name, span.first_in_file + number, reason))
        self._number += 1

    def full(self) -> bool:
        """Whether it is time for a window."""
        return len(self.texts) + len(self.rejects) >= WINDOW_ROWS or self._bytes >= WINDOW_BYTES

    def window(self) -> Window:
        """What was collected; the next one begins."""
        arrays = [
            pa.array(values, columns.arrow_type(column))
            for values, column in zip(self.values, self._job.columns, strict=True)
        ]
        names = [column.name for column in self._job.columns]
        if self._job.id_column is None:
            if self._job.kind == "text":
                names.insert(0, FILE)
                arrays.insert(0, pa.array([self._span.name] * len(self.texts), pa.string()))
            else:
                names.insert(0, ROW)
                arrays.insert(0, pa.array([place[0] for place in self.places], pa.int64()))
        rows = len(self.texts) + len(self.rejects)
        window = Window(self.texts, self.places, pa.table(arrays, names=names), self.rejects, rows)
        self._start()
        return window


def _jsonl(job: Job, span: Span, storage: Storage) -> Iterator[Window]:
    builder = Builder(job, span)
    with storage.open(span.path) as stream:
        stream.seek(span.start)
        left = span.stop - span.start
        while left > 0:
            data = stream.readline(min(left, MAX_LINE_BYTES))
            if not data:
                raise OSError(f"{span.path}: ends before byte {span.stop}: it has changed")
            left -= len(data)
            if len(data) == MAX_LINE_BYTES and not data.endswith(b"\n"):
                while left > 0 and not data.endswith(b"\n"):
                    data = stream.readline(min(left, MAX_LINE_BYTES))
                    left -= len(data)
                builder.bad(f"line of more than {MAX_LINE_BYTES >> 20} MiB")
            else:
                _json_row(job, data, builder)
            if builder.full():
                yield builder.window()
    yield builder.window()


def _json_row(job: Job, data: bytes, builder: Builder) -> None:
    try:
        line = data.removeprefix(UTF8_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        builder.bad(f"not UTF-8: byte {error.start + 1} of the line ({error.reason})")
        return
    if not line.strip():
        builder.bad("empty line")
        return
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        builder.bad(f"not JSON ({str(error).splitlines()[0]})")
        return
    if not isinstance(document, dict):
        builder.bad(f"{_kind(document)}, not a JSON object")
        return
    if job.text_column not in document:
        builder.bad(f"no field {job.text_column!r}")
        return
    text = document[job.text_column]
    if not isinstance(text, str):
        builder.bad(f"field {job.text_column!r} is {_kind(text)}, not a string")
        return
    try:
        values = [_named(columns.from_json, column, document.get(column.name)) for column in job.columns]
    except ValueError as error:
        builder.bad(str(error))
        return
    builder.good(text, values, len(data))


def _csv(job: Job, span: Span, storage: Storage) -> Iterator[Window]:
    csv.field_size_limit(MAX_LINE_BYTES)
    builder = Builder(job, span)
    with storage.open(span.path) as stream:
        header = csv_header(stream, job.delimiter)
        text_place = header.index(job.text_column)
        places = [header.index(column.name) for column in job.columns]
        stream.seek(span.start)
        source = Lines(stream, span.stop - span.start)
        records = csv.reader(source, delimiter=job.delimiter)
        while True:
            try:
                record = next(records)
            except StopIteration:
                break
            except csv.Error as error:
                builder.bad(f"not CSV ({error})")
                continue
            if record:
                _csv_row(job, record, len(header), text_place, places, builder)
            if builder.full():
                yield builder.window()
    yield builder.window()


def _csv_row(
    job: Job, record: list[str], fields: int, text_place: int, places: list[int], builder: Builder
) -> None:
    if len(record) != fields:
        builder.bad(f"{len(record)} fields where the header has {fields}")
        return
    text = record[text_place]
    try:
        text.encode()
        values = [
            _named(columns.from_csv, column, record[place])
            for column, place in zip(job.columns, places, strict=True)
        ]
    except UnicodeEncodeError:  # surrogateescape of lines.py
        builder.bad(f"field {job.text_column!r} is not UTF-8")
        return
    except ValueError as error:
        builder.bad(str(error))
        return
    builder.good(text, values, len(text))


def csv_header(stream: Any, delimiter: str) -> list[str]:
    """The first record of CSV.

    :param stream: binary, at its start; left anywhere.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    try:
        header = next(csv.reader(Lines(stream), delimiter=delimiter), [])
    except csv.Error:
        return []
    return [name.removeprefix("\ufeff") if number == 0 else name for number, name in enumerate(header)]


def _text(job: Job, span: Span, storage: Storage) -> Iterator[Window]:
    builder = Builder(job, span)
    if span.stop > MAX_LINE_BYTES:
        builder.bad(f"file of more than {MAX_LINE_BYTES >> 20} MiB")
    else:
        with storage.open(span.path) as stream:
            data = stream.read()
        try:
            builder.good(data.removeprefix(UTF8_MARK).decode("utf-8"), [], len(data))
        except UnicodeDecodeError as error:
            builder.bad(f"not UTF-8: byte {error.start + 1} ({error.reason})")
    yield builder.window()


def _parquet(job: Job, span: Span, storage: Storage) -> Iterator[Window]:
    expression, tested = filters.parse(job.condition) if job.condition else (None, [])
    names = [column.name for column in job.columns]
    with storage.open(span.path) as stream:
        file = pq.ParquetFile(stream, buffer_size=1 << 20)
        wanted = list(dict.fromkeys([job.text_column, *names, *tested]))
        start = 0
        for batch in file.iter_batches(_batch_rows(file, span), row_groups=[span.group], columns=wanted):
            first, stop = max(start, span.start), min(start + batch.num_rows, span.stop)
            if first < stop:
                part = pa.Table.from_batches([batch.slice(first - start, stop - first)])
                offsets = pa.array(range(first - span.start, stop - span.start), pa.int64())
                part = part.append_column(_unused(wanted), offsets)
                if expression is not None:
                    part = part.filter(expression)
                yield _parquet_window(job, span, part, names, stop - first)
            start += batch.num_rows
            if start >= span.stop:
                break


def _batch_rows(file: Any, span: Span) -> int:
    """Rows at a time, so that long documents come in smaller batches."""
    group = file.metadata.row_group(span.group)
    size = max(1, group.total_byte_size // max(1, group.num_rows))
    return int(max(1, min(WINDOW_ROWS, WINDOW_BYTES // size)))


def _unused(names: list[str]) -> str:
    name = "offset"
    while name in names:
        name += "_"
    return name


def _parquet_window(job: Job, span: Span, part: Any, names: list[str], rows: int) -> Window:
    offsets = part.column(part.num_columns - 1).to_pylist()
    texts, places, kept, rejects = [], [], [], []
    for number, (offset, value) in enumerate(
        zip(offsets, _strings(part.column(job.text_column)), strict=True)
    ):
        row, file_row = span.first_row + offset, span.first_in_file + offset
        if isinstance(value, str):
            texts.append(value)
            places.append((row, span.name, file_row))
            kept.append(number)
        else:
            reason = "null" if value is None else f"not UTF-8: byte {value.start + 1} ({value.reason})"
            rejects.append(Reject(row, span.name, file_row, f"field {job.text_column!r} is {reason}"))
    table = part.select(names)
    if len(kept) < part.num_rows:
        table = table.take(pa.array(kept, pa.int64()))
    if job.id_column is None:
        table = table.add_column(0, ROW, pa.array([place[0] for place in places], pa.int64()))
    return Window(texts, places, table.replace_schema_metadata(None), rejects, rows)


def _strings(column: Any) -> list[str | UnicodeDecodeError | None]:
    """Values of a column of strings or bytes; of those that are no UTF-8, the error."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        large = pa.types.is_large_string(column.type)
        values = column.cast(pa.large_binary() if large else pa.binary()).to_pylist()
    return [_decoded(value) if isinstance(value, bytes) else value for value in values]


def _decoded(data: bytes) -> str | UnicodeDecodeError:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error


def _named(convert: Any, column: columns.Column, value: Any) -> Any:
    try:
        return convert(column, value)
    except ValueError as error:
        reason = str(error)
        raise ValueError(
            reason if reason.startswith("column") else f"column {column.name!r} {reason}"
        ) from None


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


READERS = {"parquet": _parquet, "jsonl": _jsonl, "csv": _csv, "text": _text}
