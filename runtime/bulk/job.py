"""A job: what its vectors and files follow from, the same for every process, machine and engine that works on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from runtime.errors import JinaBertError

if TYPE_CHECKING:
    from .columns import Column

ROW = "row"  # name of the column of row numbers, where no column of ids is chosen
FILE = "file"  # and of the files' names, for a folder of texts


class JobError(JinaBertError):
    """A worker or the machine failed; what is done is kept."""


class Span(NamedTuple):
    """A piece of an input file that is read in one go."""

    path: str  # for the file system
    name: str  # for messages
    group: int  # Parquet: the row group; else 0
    start: int  # Parquet: first row within the group; else first byte
    stop: int  # the row or byte after the last
    rows: int
    first_row: int  # number of its first row in the whole input, from 0
    first_in_file: int  # the same in its file


class Shard(NamedTuple):
    """What becomes one file of the output: what one worker does in one go."""

    number: int
    spans: tuple[Span, ...]

    @property
    def rows(self) -> int:
        """Rows of input, bad ones and filtered ones included."""
        return sum(span.rows for span in self.spans)

    @property
    def title(self) -> str:
        """For messages: number and place in the input."""
        last = self.spans[-1]
        first_row, last_row = self.spans[0].first_row, last.first_row + last.rows - 1
        return f"shard {self.number} (rows {first_row:,} to {last_row:,} of the input)"


@dataclass(frozen=True)
class Job:
    """Everything a worker must know."""

    # where from
    source: str
    kind: str  # parquet, jsonl, csv, text
    text_column: str
    id_column: Column | None
    keep: tuple[Column, ...]
    delimiter: str
    condition: str | None  # --filter
    row_groups: str | None  # as on the command line
    # how
    model: str | None  # folder; None for the embedded one
    model_checksum: str  # of its manifest
    max_length: int
    overflow: str
    normalize: bool
    dimensions: int  # numbers of a vector
    # where to
    output: str
    format: str  # parquet, npy
    dtype: str  # float32, float16
    vector_column: str
    shard_rows: int

    def options(self) -> dict[str, Any]:
        """What the output follows from besides input and model: a resumed run must have the same."""
        return {
            "text_column": self.text_column if self.kind != "text" else None,
            "id_column": self.id_column.label if self.id_column else None,
            "keep": [column.label for column in self.keep],
            "delimiter": self.delimiter if self.kind == "csv" else None,
            "filter": self.condition,
            "row_groups": self.row_groups,
            "max_length": self.max_length,
            "overflow": self.overflow,
            "normalize": self.normalize,
            "dimensions": self.dimensions,
            "format": self.format,
            "dtype": self.dtype,
            "vector_column": self.vector_column if self.format == "parquet" else None,
            "shard_rows": self.shard_rows,
        }

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of the input that go to the output."""
        return (*((self.id_column,) if self.id_column else ()), *self.keep)
