"""tokenizer.bin: what a tokenizer has learned, in a form that loads without parsing.

One line of JSON says what follows: for each table its name, type and number of bytes. Types are those of the array
module in little-endian order ("B", "H", "I", "Q", "d"), or "text" for UTF-8. export/tokenization/ writes it.
"""

from __future__ import annotations

import json
import os
import sys
from array import array
from collections.abc import Mapping
from typing import Any

from runtime.errors import ModelError

TABLES = "tokenizer.bin"
_FORMAT = 2
_MOST_HEADER_BYTES = 1 << 16
_EXPORT_AGAIN = "copy or export the model folder again"


def write_tables(tables: Mapping[str, array[Any] | str]) -> bytes:
    """Put tables into one file.

    :param tables: Name -> array or text.
    :return: The content of tokenizer.bin.
    """
    entries, parts = [], []
    for name, table in tables.items():
        if isinstance(table, str):
            kind, data = "text", table.encode()
        else:
            kind, data = table.typecode, little_endian(table).tobytes()
        entries.append([name, kind, len(data)])
        parts.append(data)
    header = json.dumps({"format": _FORMAT, "tables": entries})
    return header.encode() + b"\n" + b"".join(parts)


def read_tables(folder: str) -> dict[str, array[Any] | str]:
    """Read tokenizer.bin.

    :param folder: Model folder.
    :return: Name -> array or text.
    :raises ModelError: The file cannot be read or is not of this format.
    """
    path = os.path.join(folder, TABLES)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}): {_EXPORT_AGAIN}") from None
    end = data.find(b"\n", 0, _MOST_HEADER_BYTES)
    try:
        header = json.loads(data[: max(end, 0)])
        if header["format"] != _FORMAT:
            raise ModelError(
                f"{path}: format {header['format']!r:.20}, expected {_FORMAT}: export the model again"
            )
        tables: dict[str, array[Any] | str] = {}
        start = end + 1
        for name, kind, size in header["tables"]:
            part = data[start : start + size]
            start += size
            if len(part) != size:
                raise ValueError
            tables[name] = part.decode() if kind == "text" else little_endian(array(kind, part))
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{path}: damaged: {_EXPORT_AGAIN}") from None
    return tables


def little_endian(table: array[Any]) -> array[Any]:
    """Turn a table between this machine's order of bytes and little-endian.

    :param table: An array.
    :return: The array, a changed copy on big-endian machines.
    """
    if sys.byteorder == "big":  # pragma: no cover
        table = table[:]
        table.byteswap()
    return table
