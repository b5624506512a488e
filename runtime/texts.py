"""What counts as texts: anything that iterates over str.

Containers that iterate over something else (a table over its columns, a mapping over its keys, bytes over numbers) are
refused with what to pass instead. Those of other libraries are known by their attributes, so that none is imported.
"""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, Mapping, Set

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

EXPECTED = "expected a list of str"


def iterate(texts: object, name: str = "texts") -> Iterator[str]:
    """Iterate over texts, and check each.

    :param texts: any iterable of str, such as a list, a generator, a Series of pandas or polars, an array of pyarrow,
        or an array of numpy with one axis.
    :param name: what messages call it.
    :return: the texts, in order.
    :raises TypeError: at once for what is no iterable of texts, else at the first item that is no str; the message
        says what to pass.
    """
    return _checked(iter_items(texts, name), name)


def iter_items(items: object, name: str, axes: int = 1) -> Iterator[Any]:
    """Iterate over a container that is not one of those that iterate over something else.

    :param items: the container.
    :param name: what messages call it.
    :param axes: that an array must have.
    :return: its items, unchecked.
    :raises TypeError: it is no iterable, or one of something else than its items.
    """
    if remedy := _remedy(items, name, axes):
        raise TypeError(f"{name} is {type(items).__name__}: {remedy}")
    try:
        return iter(items)  # type: ignore[call-overload, no-any-return]
    except TypeError:
        raise TypeError(f"{name} is {type(items).__name__}: {EXPECTED}") from None


def check_text(text: object, name: str = "text") -> None:
    """Refuse what is no str.

    :param text: to look at.
    :param name: what the message calls it.
    :raises TypeError: naming the type and what to do.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} is {type(text).__name__}, not str: convert or drop it")


def _checked(items: Iterator[Any], name: str) -> Iterator[str]:
    for number, text in enumerate(items):
        if not isinstance(text, str):
            if hasattr(text, "as_py"):  # a value of pyarrow
                text = text.as_py()
            check_text(text, f"{name}[{number}]")
        yield text


def _remedy(items: Any, name: str, axes: int) -> str | None:
    """What to pass instead, or None."""
    if isinstance(items, (list, tuple)):
        return None
    axis_count = getattr(items, "ndim", None)
    if isinstance(items, str):
        return f"{EXPECTED}, such as [{name}]"
    if isinstance(items, (bytes, bytearray, memoryview)):
        return f'{EXPECTED}, such as [{name}.decode("utf-8")]'
    if hasattr(items, "as_py"):
        return f"{EXPECTED}, such as [{name}.as_py()]"
    if _is_table(type(items), axis_count):
        return f'a table, which is no list of texts: pass one column, such as {name}["text"]'
    if axis_count is None and (
        isinstance(items, Mapping) or (hasattr(items, "keys") and hasattr(items, "values"))
    ):
        return f"a mapping iterates over its keys: pass list({name}.values()), or its keys as a list"
    if isinstance(items, Set) and not isinstance(items, (KeysView, ItemsView)):
        return (
            f"a set has no order, so nobody could tell which vector is whose: pass sorted({name}) or a list"
        )
    if isinstance(axis_count, int) and axis_count != axes:
        shape = list(getattr(items, "shape", ()))
        kept = f"{name}.ravel()" if axes == 1 else f"one of shape [n, {axes}]"
        return f"an array of shape {shape}: expected {axes} {'axis' if axes == 1 else 'axes'}, such as {kept}"
    if type(items).__module__ in ("array", "mmap"):
        return f"it holds no texts: {EXPECTED}"
    if hasattr(items, "__aiter__"):
        return f"an asynchronous iterator: pass [text async for text in {name}]"
    if hasattr(items, "__fspath__"):
        return f"the path of a file: {EXPECTED}, such as its lines"
    if type(items).__name__ == "UserString":
        return f"{EXPECTED}, such as [str({name})]"
    return None


def _is_table(kind: type, axis_count: object) -> bool:
    """Whether it is a table of pandas, polars, dask, Spark (`columns`), or of pyarrow or datasets (`column_names`)."""
    return axis_count in (None, 2) and (hasattr(kind, "columns") or hasattr(kind, "column_names"))
