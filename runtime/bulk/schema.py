"""Whether the input has the columns that the job wants, asked before any work."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from runtime.errors import InputError

from . import filters
from .columns import Column
from .job import ROW
from .lines import MAX_LINE_BYTES
from .rows import csv_header

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .job import Job

MOST_LISTED = 12
FIRST_LINES = 100
TEXT_TYPES = (
    "is_string",
    "is_large_string",
    "is_string_view",
    "is_binary",
    "is_large_binary",
)  # of pyarrow.types


def check_names(job: Job) -> None:
    """Names that do not depend on the input.

    :raises InputError: two columns of the output would have one name, or cannot be had.
    """
    if job.kind == "text" and (job.id_column or job.keep):
        raise InputError(
            "--id-column and --keep: a folder of texts has no columns; its output has the names of the files"
        )
    if job.format == "npy" and job.keep:
        raise InputError("--keep with --format npy: npy holds vectors and ids only: use --format parquet")
    if job.kind != "parquet" and (job.condition or job.row_groups is not None):
        raise InputError(f"--filter and --row-groups are for Parquet, the input is {job.kind}")
    names = [column.name for column in job.columns]
    if job.format == "parquet":
        names.append(job.vector_column)
    if job.id_column is None and job.kind != "text":
        names.append(ROW)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"two columns of the output would be called {twice!r}: leave one out, or choose another --id-column or "
            "--vector-column"
        )


def check_csv(job: Job, path: str, stream: Any) -> None:
    """Whether a CSV file has the columns.

    :raises InputError: it has not, or has one twice.
    """
    header = csv_header(stream, job.delimiter)
    wanted = [job.text_column, *(column.name for column in job.columns)]
    _check(path, wanted, header)
    twice = next((name for name in wanted if header.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}: two columns are called {twice!r}: rename one")


def check_jsonl(job: Job, path: str, stream: Any) -> None:
    """Whether the field with the text is in any of the first lines: a wrong name would reject every row.

    :raises InputError: it is in none of them.
    """
    fields: list[str] = []
    for _ in range(FIRST_LINES):
        try:
            document = json.loads(stream.readline(MAX_LINE_BYTES))
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict):
            if job.text_column in document:
                return
            fields = fields or sorted(document)
    if fields:
        _check(path, [job.text_column], fields)


def check_parquet(job: Job, path: str, schema: Any, expected: Any) -> Any:
    """Whether a Parquet file has the columns, of the same types as the files before it.

    :param schema: of the file.
    :param expected: what this returned for the first file; None for the first.
    :return: schema of what goes to the output.
    :raises InputError: it has not.
    """
    tested = filters.parse(job.condition)[1] if job.condition else []
    _check(path, [job.text_column, *(column.name for column in job.columns), *tested], schema.names)
    kind = schema.field(job.text_column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (getattr(pa.types, name, None) for name in TEXT_TYPES)
    if not any(test is not None and test(kind) for test in tests):
        raise InputError(
            f"{path}: column {job.text_column!r} is {kind}, not strings: choose another --text-column"
        )
    typed = next((column for column in job.columns if column.type is not None), None)
    if typed is not None:
        raise InputError(
            f"{typed.label!r}: a column of Parquet has a type of its own: leave :{typed.type} out"
        )
    found = pa.schema([schema.field(column.name) for column in job.columns]).remove_metadata()
    if expected is not None and not found.equals(expected):
        raise InputError(
            f"{path}: its columns have other types than those of the first file: {found} against {expected}".replace(
                "\n", ", "
            )
        )
    return found


def all_columns(job: Job, names: Iterable[str]) -> tuple[Column, ...]:
    """What --keep '*' means."""
    taken = {job.text_column, job.id_column.name if job.id_column else None}
    return tuple(Column(name) for name in names if name not in taken)


def _check(path: str, wanted: Iterable[str], present: list[str]) -> None:
    missing = next((name for name in wanted if name not in present), None)
    if missing is not None:
        listed = ", ".join(present[:MOST_LISTED]) + (", ..." if len(present) > MOST_LISTED else "")
        raise InputError(f"{path}: no column {missing!r} (it has: {listed or 'none'})")
