"""The plan: which rows of the input become which shard.

It follows from the input and --shard-rows alone, whatever the number of processes, so that a resumed run makes the same
shards. A shard ends at --shard-rows rows, or earlier at SHARD_BYTES of text, so that long documents are saved as often
as short ones. Parquet is planned from its footers, JSON lines and CSV by one pass over their lines, texts by their
sizes.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from runtime.errors import InputError

from . import filters
from .inputs import root
from .job import Shard, Span
from .lines import MAX_LINE_BYTES, Lines
from .schema import check_csv, check_jsonl, check_parquet
from .storage import Storage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .inputs import File, Files
    from .job import Job

SHARD_BYTES = 4 << 20  # of text: minutes of work for one processor
SHARD_ROWS = 8192


class Packer:
    """Puts spans together until a shard is full."""

    def __init__(self, shard_rows: int) -> None:
        self.shards: list[Shard] = []
        self._shard_rows = shard_rows
        self._spans: list[Span] = []
        self._rows = self._bytes = 0

    def room(self) -> tuple[int, int]:
        """Rows and bytes that still fit."""
        return self._shard_rows - self._rows, SHARD_BYTES - self._bytes

    def add(self, span: Span, text_bytes: int) -> None:
        """Take a span whole, and close the shard if that fills it."""
        self._spans.append(span)
        self._rows += span.rows
        self._bytes += text_bytes
        if self._rows >= self._shard_rows or self._bytes >= SHARD_BYTES:
            self.close()

    def close(self) -> None:
        """End the shard."""
        if self._spans:
            self.shards.append(Shard(len(self.shards), tuple(self._spans)))
        self._spans, self._rows, self._bytes = [], 0, 0


def plan(job: Job, files: Files) -> list[Shard]:
    """The shards of a job.

    :raises InputError: a file cannot be read, or has not the columns.
    """
    packer = Packer(job.shard_rows)
    storage = Storage(root(files.place))
    try:
        PLANS[files.kind](job, files, storage, packer)
    except OSError as error:
        raise InputError(f"{files.place!r}: cannot be read ({str(error).splitlines()[0]})") from None
    packer.close()
    return packer.shards


def _parquet(job: Job, files: Files, storage: Storage, packer: Packer) -> None:
    expression = filters.parse(job.condition)[0] if job.condition else None
    wanted = row_groups(job.row_groups) if job.row_groups is not None else None
    schema = None
    group_number = row = 0
    for file in files.files:
        metadata = footer(storage, file)
        schema = check_parquet(job, file.path, metadata.schema.to_arrow_schema(), schema)
        kept = _by_statistics(file, storage, expression) if expression is not None else None
        column = _text_column(metadata, job.text_column)
        in_file = 0
        for group in range(metadata.num_row_groups):
            facts = metadata.row_group(group)
            chosen = (wanted is None or group_number in wanted) and (kept is None or group in kept)
            if chosen and facts.num_rows:
                each = max(1.0, facts.column(column).total_uncompressed_size / facts.num_rows)
                start = 0
                while start < facts.num_rows:
                    rows, room = packer.room()
                    take = max(1, min(rows, int(room / each), facts.num_rows - start))
                    stop = start + take
                    span = Span(file.path, file.name, group, start, stop, take, row + start, in_file + start)
                    packer.add(span, int(take * each))
                    start = stop
            group_number += 1
            in_file += facts.num_rows
            row += facts.num_rows
    if wanted and max(wanted) >= group_number:
        raise InputError(
            f"--row-groups {job.row_groups}: the input has {group_number} row groups, numbered from 0"
        )


def footer(storage: Storage, file: File) -> Any:
    """pyarrow's metadata of a Parquet file.

    :raises InputError: it is none.
    """
    try:
        with storage.open(file.path) as stream:
            return pq.read_metadata(stream)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file.path}: no Parquet file ({str(error).splitlines()[0]})") from None


def row_groups(text: str) -> set[int]:
    """Numbers and ranges: 0-9,12.

    :raises InputError: anything else.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise InputError(f"--row-groups {text!r}: numbers and ranges wanted, as 0-9,12")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _by_statistics(file: File, storage: Storage, expression: Any) -> set[int]:
    """Row groups that may hold rows for which the condition holds."""
    fragment = ds.ParquetFileFormat().make_fragment(file.path, storage.filesystem)
    try:
        return {part.row_groups[0].id for part in fragment.split_by_row_group(expression)}
    except pa.ArrowException as error:
        raise InputError(f"--filter on {file.path}: {str(error).splitlines()[0]}") from None


def _text_column(metadata: Any, name: str) -> int:
    group = metadata.schema
    return next(number for number in range(len(group)) if group.column(number).path.split(".")[0] == name)


def _lines(job: Job, files: Files, storage: Storage, packer: Packer) -> None:
    row = 0
    for file in files.files:
        with storage.open(file.path) as stream:
            if file is files.files[0]:
                check_jsonl(job, file.path, stream)
                stream.seek(0)
            row += _pack_records(((size, 1) for size in _line_sizes(stream)), file, row, 0, packer)


def _line_sizes(stream: Any) -> Iterator[int]:
    while data := stream.readline(MAX_LINE_BYTES):
        size = len(data)
        while len(data) == MAX_LINE_BYTES and not data.endswith(b"\n"):
            data = stream.readline(MAX_LINE_BYTES)
            size += len(data)
        yield size


def _csv(job: Job, files: Files, storage: Storage, packer: Packer) -> None:
    row = 0
    for file in files.files:
        with storage.open(file.path) as stream:
            check_csv(job, file.path, stream)
            stream.seek(0)
            records = _record_sizes(stream, job.delimiter)
            header = next(records, (0, 0))[0]
            row += _pack_records(records, file, row, header, packer)


def _record_sizes(stream: Any, delimiter: str) -> Iterator[tuple[int, int]]:
    """Bytes of each record of CSV, the header first, and 1: blank lines belong to the record after them."""
    source = Lines(stream)
    records = csv.reader(source, delimiter=delimiter, strict=False)
    before = 0
    while True:
        try:
            record = next(records)
        except StopIteration:
            break
        except csv.Error:  # reported when it is read
            record = [""]
        if record:
            yield source.bytes - before, 1
            before = source.bytes
    if source.bytes > before:
        yield source.bytes - before, 0


def _pack_records(
    records: Iterator[tuple[int, int]], file: File, first_row: int, offset: int, packer: Packer
) -> int:
    """Spans of whole records; :return: their number."""
    start, rows, in_file = offset, 0, 0
    room_rows, room_bytes = packer.room()

    def flush() -> None:
        nonlocal start, rows, in_file, room_rows, room_bytes
        if rows:
            span = Span(file.path, file.name, 0, start, offset, rows, first_row + in_file, in_file)
            packer.add(span, offset - start)
        in_file += rows
        start, rows = offset, 0
        room_rows, room_bytes = packer.room()

    for size, count in records:
        offset += size
        rows += count
        if rows >= room_rows or offset - start >= room_bytes:
            flush()
    flush()
    return in_file


def _texts(job: Job, files: Files, storage: Storage, packer: Packer) -> None:
    for number, file in enumerate(files.files):
        packer.add(Span(file.path, file.name, 0, 0, file.size, 1, number, 0), file.size)


PLANS = {"parquet": _parquet, "jsonl": _lines, "csv": _csv, "text": _texts}
