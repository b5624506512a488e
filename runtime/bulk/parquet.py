"""Parquet files of the input: their schemas and row groups, and batches of their rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from runtime.errors import InputError

from .storage import reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .inputs import File

BATCH_ROWS = 1024
BATCH_BYTES = 4 << 20


def fragment_of(file: File) -> Any:
    """pyarrow.dataset's fragment of a file."""
    import pyarrow.dataset as ds  # it brings pandas, where that is installed

    # Column chunks are read piece by piece: a row group of gigabytes takes no more memory than a small one.
    scan = ds.ParquetFragmentScanOptions(use_buffered_stream=True, buffer_size=1 << 20, pre_buffer=False)
    kind = ds.ParquetFileFormat(default_fragment_scan_options=scan)
    return kind.make_fragment(file.path, file.storage.filesystem)


def batches_of(fragment: Any, group: int, names: list[str]) -> Iterator[Any]:
    """The rows of a row group, in their order.

    :param names: columns.
    """
    info = fragment.metadata.row_group(group)
    size = BATCH_BYTES // max(1, info.total_byte_size // max(1, info.num_rows))
    one = fragment.subset(row_group_ids=[group])
    return iter(
        one.to_batches(
            schema=fragment.physical_schema,
            columns={name: pc.field(name) for name in names},
            batch_size=max(1, min(BATCH_ROWS, size)),
            batch_readahead=1,
            use_threads=False,
        )
    )


def by_statistics(fragment: Any, condition: Any) -> set[int]:
    """Row groups that may hold rows for which a condition holds."""
    if condition is not None:
        try:
            return {part.row_groups[0].id for part in fragment.split_by_row_group(condition)}
        except pa.ArrowException:  # it names a column that is no part of the file: Hive's
            pass
    return set(range(fragment.num_row_groups))


def schemas_of(files: Sequence[File]) -> list[Any]:
    """pyarrow.Schema of each file that has one, read from their footers; of one that has none, reading tells.

    :raises InputError: none has one.
    """
    from concurrent.futures import ThreadPoolExecutor

    def schema(file: File) -> Any:
        try:
            return fragment_of(file).physical_schema
        except (OSError, pa.ArrowException) as error:
            return error

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(schema, files))
    schemas = [one for one in found if not isinstance(one, Exception)]
    if not schemas:
        raise InputError(f"{files[0].path}: cannot be read ({reason(found[0])})")
    return schemas


def row_groups(text: str, files: Iterable[File]) -> dict[int, set[int]]:
    """Numbers and ranges of row groups, 0-9,12, counted through all files: which of each file.

    :raises InputError: anything else, or there are not so many.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise InputError(f"--row-groups {text!r}: expected numbers and ranges, as 0-9,12")
        found.update(range(int(first), int(last or first) + 1))
    count, chosen = 0, {}
    for number, file in enumerate(files):
        groups = fragment_of(file).num_row_groups
        chosen[number] = {group for group in range(groups) if count + group in found}
        count += groups
    if max(found) >= count:
        raise InputError(f"--row-groups {text}: the input has {count} row groups, numbered from 0")
    return chosen
