"""Vectors to a stream as JSON lines, JSON, text or npy, and output files that are complete or absent.

Numbers are the shortest decimals that give the same float32 back.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

import numpy as np

from runtime import files
from runtime.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, BinaryIO

    from numpy.typing import NDArray

NPY_HEADER_BYTES = (
    128  # room for any shape, so that the header can be rewritten when the number of rows is known
)


def decimals(vectors: NDArray[np.float32]) -> list[str]:
    """Each row as its numbers with ", " between them.

    :param vectors: [n, D] float32, finite.
    :return: n strings; float32(number) gives each number back to the bit.
    """
    exact = vectors.astype(np.float64)
    magnitude = np.abs(exact)
    exponent = np.floor(np.log10(magnitude, where=magnitude > 0, out=np.zeros_like(exact)))
    shortest = exact.copy()
    for digits in (9, 8, 7, 6):
        # An integer below 2**53 over a power of ten up to 1e22 is rounded once: its repr is that decimal.
        scale = 10.0 ** np.clip(digits - 1 - exponent, 0, 22)
        rounded = np.rint(exact * scale) / scale
        same = rounded.astype(np.float32) == vectors
        shortest[same] = rounded[same]
    return [repr(row)[1:-1] for row in shortest.tolist()]


class JsonLines:
    """One compact object a line: {"index": 0, ..., "embedding": [...]}."""

    before, between, after = b"", b"\n", b"\n"

    def __init__(self, stream: BinaryIO, label: str = "embedding", columns: int = 0) -> None:
        """Write to `stream`; `label` is the name of the list of numbers."""
        self._stream = stream
        self._label = label
        self._rows = 0

    def write(self, vectors: NDArray[np.float32], extras: list[Mapping[str, object]] | None = None) -> None:
        """Append rows.

        :param vectors: [n, D] float32.
        :param extras: what each object holds before its numbers; None for {"index": number of the row}.
        """
        import json

        pieces = []
        for row, numbers in enumerate(decimals(vectors)):
            head = json.dumps(extras[row]) if extras is not None else f'{{"index": {self._rows}}}'
            start = self.before if self._rows == 0 else self.between
            pieces.append(start + f'{head[:-1]}, "{self._label}": [{numbers}]}}'.encode())
            self._rows += 1
        self._stream.write(b"".join(pieces))

    def close(self) -> None:
        """Finish the document."""
        if self._rows:
            self._stream.write(self.after)
        elif self.before:
            self._stream.write(self.before + self.after.lstrip())


class Json(JsonLines):
    """One array of the objects of JsonLines."""

    before, between, after = b"[\n", b",\n", b"\n]\n"


class Text:
    """One vector a line, its numbers separated by spaces."""

    def __init__(self, stream: BinaryIO, label: str = "", columns: int = 0) -> None:
        """Write to `stream`."""
        self._stream = stream

    def write(self, vectors: NDArray[np.float32], extras: list[Mapping[str, object]] | None = None) -> None:
        """Append rows; extras are not written."""
        self._stream.write(b"".join(row.replace(",", "").encode() + b"\n" for row in decimals(vectors)))

    def close(self) -> None:
        """Nothing to finish."""


class Npy:
    """numpy's file format, version 1.0: float32 [n, D], n written last."""

    def __init__(self, stream: BinaryIO, label: str = "", columns: int = 0) -> None:
        """Write to `stream`, which must be able to seek; `columns` is the D of an array without rows."""
        if not stream.seekable():
            raise InputError("--format npy needs an --output that is a regular file")
        self._stream = stream
        self._rows, self._columns = 0, columns
        self._stream.write(self._header())

    def _header(self) -> bytes:
        shape = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({self._rows}, {self._columns}), }}"
        start = b"\x93NUMPY\x01\x00" + (NPY_HEADER_BYTES - 10).to_bytes(2, "little")
        return start + shape.encode().ljust(NPY_HEADER_BYTES - 11) + b"\n"

    def write(self, vectors: NDArray[np.float32], extras: list[Mapping[str, object]] | None = None) -> None:
        """Append rows; extras are not written."""
        self._rows += len(vectors)
        self._columns = vectors.shape[1]
        self._stream.write(np.ascontiguousarray(vectors, "<f4").tobytes())

    def close(self) -> None:
        """Write the shape."""
        self._stream.seek(0)
        self._stream.write(self._header())


FORMATS: dict[str, Callable[..., Any]] = {"json": Json, "jsonl": JsonLines, "text": Text, "npy": Npy}


class OutputFile:
    """A file that appears under its name only when it is complete.

    It is written beside the target and renamed, so that being killed leaves the target as it was. What is not
    a regular file (/dev/stdout, a pipe) is written directly.
    """

    def __init__(self, path: str, force: bool) -> None:
        """Create the temporary file.

        :param path: target.
        :param force: replace an existing file.
        :raises InputError: it exists and force is not set, or it cannot be created there.
        """
        self.path = path
        self._force = force
        self._target = os.path.realpath(path)  # through a link: the link stays
        self._temporary: str | None = None
        try:
            if os.path.lexists(self._target) and not stat.S_ISREG(os.stat(self._target).st_mode):
                self.stream = open(self._target, "wb")  # noqa: SIM115
                return
            self._refuse_existing()
            temporary = files.beside(self._target)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            self.stream = os.fdopen(os.open(temporary, flags, 0o666), "wb")
            self._temporary = temporary
        except OSError as error:
            raise InputError(f"--output {path!r}: cannot be written ({error.strerror})") from None

    def _refuse_existing(self) -> None:
        if not self._force and os.path.lexists(self._target):
            raise InputError(f"--output {self.path!r} exists: name another file, or replace it with --force")

    def commit(self) -> None:
        """Flush to disk and give the file its name.

        :raises OSError: the disk is full or failed; the target is as it was.
        :raises InputError: the target has appeared in the meantime and force is not set.
        """
        self.stream.flush()
        if self._temporary is not None:
            self.stream.close()
            self._refuse_existing()
            files.replace(self._temporary, self._target)
            self._temporary = None
        else:
            self.stream.close()

    def discard(self) -> None:
        """Remove what was written, if commit was not reached."""
        with contextlib.suppress(OSError):  # a full disk: what was buffered is not wanted any more
            self.stream.close()
        if self._temporary is not None:
            files.remove(self._temporary)
            self._temporary = None
