"""--filter: a condition on columns, as pyarrow evaluates it on rows and on the statistics of Parquet row groups.

    year >= 2020 and language in ("en", "de") and not (title is None)

It is read with Python's own parser, and only comparisons, and, or, not, in and is None are let through.
"""

from __future__ import annotations

import ast
from functools import reduce
from operator import and_, or_
from typing import Any

import pyarrow.compute as pc

from runtime.errors import InputError

EXAMPLE = """write it like year >= 2020 and language in ("en", "de")"""
COMPARISONS: dict[type[ast.cmpop], Any] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}


def parse(text: str) -> tuple[Any, list[str]]:
    """A condition and the columns it names.

    :param text: a Python expression of the kinds above; field("a name") for a column whose name is no identifier.
    :return: pyarrow.compute.Expression, names of columns.
    :raises InputError: anything else.
    """
    names: list[str] = []
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return _condition(tree.body, names), list(dict.fromkeys(names))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise InputError(f"--filter {text!r}: {reason}: {EXAMPLE}") from None


def _condition(node: ast.expr, names: list[str]) -> Any:
    match node:
        case ast.BoolOp(op=op, values=values):
            return reduce(
                and_ if isinstance(op, ast.And) else or_, (_condition(value, names) for value in values)
            )
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_condition(operand, names)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [left, *comparators]
            return reduce(and_, (_compare(sides[n], op, sides[n + 1], names) for n, op in enumerate(ops)))
        case _:
            column = _column(node, names)
            if column is None:
                raise ValueError(f"{ast.unparse(node)} is no comparison")
            return column == pc.scalar(True)


def _compare(left: ast.expr, op: ast.cmpop, right: ast.expr, names: list[str]) -> Any:
    if isinstance(op, (ast.In, ast.NotIn)):
        column = _column(left, names)
        if column is None or not isinstance(right, (ast.Tuple, ast.List, ast.Set)):
            raise ValueError(f"{ast.unparse(left)} in {ast.unparse(right)}: a column and a list wanted")
        found = column.isin([_constant(item) for item in right.elts])
        return found if isinstance(op, ast.In) else ~found
    if isinstance(op, (ast.Is, ast.IsNot)):
        column = _column(left, names)
        if column is None or not (isinstance(right, ast.Constant) and right.value is None):
            raise ValueError("is: only COLUMN is None and COLUMN is not None are understood")
        return column.is_null() if isinstance(op, ast.Is) else column.is_valid()
    a, b = _column(left, names), _column(right, names)
    if a is None and b is None:
        raise ValueError(f"{ast.unparse(left)} and {ast.unparse(right)}: neither is a column")
    return COMPARISONS[type(op)](
        a if a is not None else pc.scalar(_constant(left)),
        b if b is not None else pc.scalar(_constant(right)),
    )


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
    if not isinstance(value, (str, int, float, bool)):
        raise ValueError(f"{ast.unparse(node)}: a text or a number wanted")
    return value
