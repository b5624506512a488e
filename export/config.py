"""Reads JSON files of a checkpoint and checks their fields, by name and value."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from export.errors import ExportError

__all__ = ["CONFIG", "DEFAULT_MAX_TOKENS", "check_file", "fraction", "read_json", "require", "size"]

CONFIG = "config.json"
DEFAULT_MAX_TOKENS = 8192

# Far beyond any model; a size above is damage, and would end in an overflow or in hours of making layers.
_LARGEST_OTHER = 1 << 24
_LARGEST = {"num_hidden_layers": 1 << 10, "num_layers": 1 << 10}
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LFS_LARGEST = 1024  # bytes; a pointer has about 130


def check_file(path: Path) -> None:
    """Refuse what stands in a file's place and is not the file.

    :param path: a file that is to be read; it may be missing.
    :raises ExportError: it is a link to nothing, or a Git LFS pointer.
    """
    if path.is_symlink() and not path.exists():
        raise ExportError(
            f"{path} is a link to {str(path.readlink())!r}, which is not there: fetch the checkpoint again"
        )
    if not path.is_file() or path.stat().st_size > _LFS_LARGEST:
        return
    content = path.read_bytes()
    if content.startswith(_LFS_POINTER):
        size = re.search(rb"^size (\d+)", content, re.MULTILINE)
        told = f" (of {int(size[1]):,} bytes)" if size else ""
        raise ExportError(
            f"{path} is a Git LFS pointer in place of the file{told}: run `git lfs install` and `git lfs pull` in "
            f"{path.parent}, or fetch the file again"
        )


def read_json(path: Path, parse_float: Callable[[str], float] = float) -> dict[str, Any]:
    """Read a JSON object from a file.

    :param path: the file.
    :param parse_float: reads numbers with a point or an exponent.
    :return: the object.
    :raises ExportError: the file is missing, unreadable, not JSON or not an object.
    """
    check_file(path)
    try:
        # utf-8-sig: editors of Windows put a byte order mark before the text.
        value = json.loads(path.read_text(encoding="utf-8-sig"), parse_float=parse_float)
    except FileNotFoundError:
        raise ExportError(f"{path} is missing: give a folder in Hugging Face layout") from None
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is not valid JSON ({error}): fetch it again") from None
    if not isinstance(value, dict):
        raise ExportError(f"{path} holds a {type(value).__name__}, not a JSON object: fetch it again")
    return value


def require(
    path: Path,
    fields: dict[str, Any],
    name: str,
    allowed: tuple[str | bool | None, ...],
    missing: str | bool | None,
) -> None:
    """Refuse a value that is not implemented.

    :param path: the file, for the message.
    :param fields: its content.
    :param name: the field.
    :param allowed: the values that are implemented; None, where it may be null.
    :param missing: what the reference code assumes where the field is absent.
    :raises ExportError: the field has another value.
    """
    value = fields.get(name, missing)
    if value in allowed:
        return
    seen = (
        f"{name} is {value!r}"
        if name in fields
        else f"{name} is not set" + (f" (= {missing})" if missing else "")
    )
    expected = " or ".join(repr(choice) for choice in allowed if choice is not None)
    raise ExportError(
        f"{path}: {seen}, and only {expected} is implemented: export a checkpoint of this family"
    )


def size(path: Path, fields: dict[str, Any], name: str, missing: int | None = None) -> int:
    """Read a size.

    :param path: the file, for the message.
    :param fields: its content.
    :param name: the field.
    :param missing: what the reference code assumes where the field is absent.
    :return: an integer from 1 to a bound far beyond any model.
    :raises ExportError: the field has another value.
    """
    value = fields.get(name, missing)
    largest = _LARGEST.get(name, _LARGEST_OTHER)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        seen = f"is {value!r}" if name in fields else "is not set"
        raise ExportError(f"{path}: {name} {seen}, expected an integer from 1 to {largest:,}")
    return value


def fraction(path: Path, fields: dict[str, Any], name: str, missing: float) -> float:
    """Read a number between 0 and 1, both excluded; parameters and errors as those of :func:`size`."""
    value = fields.get(name, missing)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ExportError(f"{path}: {name} is {value!r}, expected a number between 0 and 1")
    return float(value)
