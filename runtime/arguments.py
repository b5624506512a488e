"""Arguments of the public methods: what is out of range is refused by name."""

from __future__ import annotations

import operator

from .errors import InputError


def as_int(value: object) -> int | None:
    """Take what counts as an integer: an int or a number of numpy, not a bool or a float.

    :param value: anything.
    :return: None for what is none.
    """
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def check_int(name: str, value: object, *, least: int) -> int:
    """Refuse what is no integer or out of range.

    :param name: of the argument, for the message.
    :param value: what was given.
    :param least: smallest value allowed.
    :raises InputError: naming the argument, the value and what is expected.
    """
    number = as_int(value)
    if number is None:
        raise InputError(f"{name}={value!r}: expected an integer")
    if not least <= number < 1 << 31:
        raise InputError(f"{name}={value!r}: must be from {least:,} to {(1 << 31) - 1:,}")
    return number


def check_overflow(overflow: object) -> None:
    """Refuse what says nothing about texts that are too long.

    :param overflow: the argument of that name.
    :raises InputError: it is neither "truncate" nor "error".
    """
    if overflow not in ("truncate", "error"):
        raise InputError(f"overflow={overflow!r}: must be 'truncate' or 'error'")
