"""Columns that travel beside the text, and --filter, a condition on columns as pyarrow evaluates it.

Parquet has types of its own. A column of JSON lines or CSV is a string unless NAME:TYPE says otherwise.
"""

from __future__ import annotations

import ast
import json
from functools import reduce
from operator import and_, eq, ge, gt, le, lt, ne, or_
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from runtime.errors import InputError

TYPES = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
EXAMPLE = """write it like year >= 2020 and language in ("en", "de")"""
COMPARISONS: dict[type[ast.cmpop], Any] = {
    ast.Eq: eq, ast.NotEq: ne, ast.Lt: lt, ast.LtE: le, ast.Gt: gt, ast.GtE: ge
}  # fmt: skip


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


def convert(column: Column, value: Any) -> Any:
    """A value of JSON, or a field of CSV, as the column's type; null and an empty field that is no string are null.

    :raises ValueError: it is of another type.
    """
    kind = column.type or "string"
    if value is None:
        return None
    if kind == "string":
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        try:
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, as JSON can write it
            raise ValueError(f"column {column.name!r} cannot be written as UTF-8") from None
        return text
    word = value.strip() if isinstance(value, str) else value
    try:
        if word == "":
            return None
        if kind == "bool" and (isinstance(word, bool) or isinstance(value, str)):
            return BOOLEANS[str(word).lower()]
        if kind == "float64" and not isinstance(word, bool):
            return float(word)
        number = int(word) if isinstance(word, str) or type(word) is int else None
        if kind == "int64" and number is not None and -(1 << 63) <= number < 1 << 63:
            return number
    except (ValueError, KeyError, TypeError):
        pass
    shown = json.dumps(value)
    raise ValueError(
        f"column {column.name!r} is {shown if len(shown) <= 60 else shown[:57] + '...'}, not {kind}"
    )


def parse_filter(text: str) -> tuple[Any, list[str]]:
    """A condition and the columns it names.

    It is read with Python's own parser, and only comparisons, and, or, not, in and is None are let through.

    :param text: as EXAMPLE; field("a name") for a column whose name is no identifier.
    :return: pyarrow.compute.Expression, names of columns.
    :raises InputError: anything else.
    """
    names: list[str] = []
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return _condition(tree.body, names), list(dict.fromkeys(names))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        words = error.msg if isinstance(error, SyntaxError) else str(error)
        raise InputError(f"--filter {text!r}: {words}: {EXAMPLE}") from None


def _condition(node: ast.expr, names: list[str]) -> Any:
    match node:
        case ast.BoolOp(op=op, values=values):
            join = and_ if isinstance(op, ast.And) else or_
            return reduce(join, (_condition(value, names) for value in values))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_condition(operand, names)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [left, *comparators]
            return reduce(and_, (_compare(sides[n], op, sides[n + 1], names) for n, op in enumerate(ops)))
    column = _column(node, names)
    if column is None:
        raise ValueError(f"{ast.unparse(node)} is no comparison")
    return column == pc.scalar(True)


def _compare(left: ast.expr, op: ast.cmpop, right: ast.expr, names: list[str]) -> Any:
    a, b = _column(left, names), _column(right, names)
    shown = ast.unparse(ast.Compare(left, [op], [right]))
    match op:
        case ast.In() | ast.NotIn() if a is not None and isinstance(right, ast.Tuple | ast.List | ast.Set):
            found = a.isin([_constant(item) for item in right.elts])
            return found if isinstance(op, ast.In) else ~found
        case ast.Is() | ast.IsNot() if (
            a is not None and isinstance(right, ast.Constant) and right.value is None
        ):
            return a.is_null() if isinstance(op, ast.Is) else a.is_valid()
        case ast.In() | ast.NotIn() | ast.Is() | ast.IsNot():
            raise ValueError(f"{shown}: expected a column in a list, or a column is None")
    if a is None and b is None:
        raise ValueError(f"{shown}: neither is a column")
    one, other = (
        pc.scalar(_constant(node)) if side is None else side for node, side in ((left, a), (right, b))
    )
    return COMPARISONS[type(op)](one, other)


def _column(node: ast.expr, names: list[str]) -> Any:
    match node:
        case (
            ast.Name(id=name)
            | ast.Call(func=ast.Name(id="field"), args=[ast.Constant(value=str(name))], keywords=[])
        ):
            names.append(name)
            return pc.field(name)
    return None


def _constant(node: ast.expr) -> Any:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{ast.unparse(node)} is no column and no value") from None
    if not isinstance(value, str | int | float | bool):
        raise ValueError(f"{ast.unparse(node)}: expected a text or a number")
    return value
