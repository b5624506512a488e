"""Columns that travel beside the text: which are wanted, of which type, and how a value of JSON or CSV becomes one.

Parquet has types of its own. A column of JSON lines or CSV is a string unless NAME:TYPE says otherwise.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pyarrow as pa

from runtime.errors import InputError

TYPES = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


class Column(NamedTuple):
    """A wanted column; `type` is a key of TYPES, or None where it was not given."""

    name: str
    type: str | None = None

    @property
    def label(self) -> str:
        """As on the command line."""
        return self.name if self.type is None else f"{self.name}:{self.type}"


def parse(word: str) -> Column:
    """NAME or NAME:TYPE.

    :raises InputError: no name.
    """
    name, _, kind = word.rpartition(":")
    column = Column(name, kind) if name and kind in TYPES else Column(word)
    if not column.name:
        raise InputError(f"column {word!r}: a name is missing")
    return column


def arrow_type(column: Column) -> Any:
    """pyarrow's type of a column of JSON lines or CSV."""
    return TYPES[column.type or "string"]


def from_json(column: Column, value: Any) -> Any:
    """A JSON value as the column's type.

    :return: what pyarrow.array takes; None for null.
    :raises ValueError: it is of another type.
    """
    kind = column.type or "string"
    if value is None:
        return None
    if kind == "string":
        return storable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "int64" and type(value) is int and -(1 << 63) <= value < 1 << 63:
        return value
    if kind == "float64" and type(value) in (int, float):
        return float(value)
    raise ValueError(f"column {column.name!r} is {shown(value)}, not {kind}")


def from_csv(column: Column, value: str) -> Any:
    """A field of CSV as the column's type; an empty field that is no string is null.

    :raises ValueError: it cannot be read as that.
    """
    kind = column.type or "string"
    if kind == "string":
        return storable(value)
    word = value.strip()
    if not word:
        return None
    try:
        if kind == "bool":
            return BOOLEANS[word.lower()]
        if kind == "float64":
            return float(word)
        number = int(word)
        if -(1 << 63) <= number < 1 << 63:
            return number
    except (ValueError, KeyError):
        pass
    raise ValueError(f"column {column.name!r} is {shown(value)}, not {kind}")


def storable(text: str) -> str:
    """The text, if Arrow can hold it.

    :raises ValueError: it has half a surrogate pair, as JSON can write it and lines.py marks what is no UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("cannot be written as UTF-8") from None
    return text


def shown(value: object) -> str:
    """A value for a message."""
    text = json.dumps(value) if not isinstance(value, bytes) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
