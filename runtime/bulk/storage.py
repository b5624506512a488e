"""Where input is read and output written: local folders, and what else pyarrow knows by its URI (s3://, gs://, hdfs://).

A file appears under its name only when it is whole: locally it is written beside its name, synced and renamed, and an
object store shows an object only after its upload has ended.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from pyarrow import fs

from runtime.errors import InputError
from runtime.files import PARTIAL, replacing
from runtime.manifest import sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

BUFFER_BYTES = 1 << 20


class Facts(NamedTuple):
    """What was written."""

    size: int  # bytes
    sha256: str  # 64 hex digits


class Draft:
    """A file being written: `stream` takes bytes, `facts` is there once it is whole."""

    def __init__(self, stream: BinaryIO) -> None:
        """Of a stream."""
        self.stream = stream
        self.facts = Facts(0, "")


class Storage:
    """A folder or file, by path or URI."""

    def __init__(self, place: str) -> None:
        """Find the file system.

        :param place: a local path, or a URI that pyarrow.fs.FileSystem.from_uri knows.
        :raises InputError: the URI is of no known kind, or not complete.
        """
        self.place = place
        if "://" in place:
            try:
                self.filesystem, self.path = fs.FileSystem.from_uri(place)
            except (ValueError, OSError, NotImplementedError) as error:
                raise InputError(f"{place!r}: no place that pyarrow can reach ({reason(error)})") from None
        else:
            self.filesystem, self.path = fs.LocalFileSystem(), os.path.abspath(place)
        self.local = isinstance(self.filesystem, fs.LocalFileSystem)

    def join(self, name: str) -> str:
        """Path of a file in this folder, for the file system."""
        return f"{self.path.rstrip('/')}/{name}"

    def open(self, path: str) -> Any:
        """A file to read bytes from, which can seek.

        :param path: for the file system.
        :raises OSError: it cannot be opened.
        """
        if self.local:
            return open(path, "rb", buffering=BUFFER_BYTES)
        return io.BufferedReader(self.filesystem.open_input_file(path), BUFFER_BYTES)

    def read(self, name: str) -> bytes | None:
        """The content of a file in this folder; None where there is none."""
        try:
            with self.open(self.join(name)) as file:
                data: bytes = file.read()
                return data
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """What lies in this folder; nothing where it does not exist."""
        selector = fs.FileSelector(self.path, recursive=False, allow_not_found=True)
        return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def make(self) -> None:
        """Create the folder.

        :raises OSError: it cannot be created there.
        """
        self.filesystem.create_dir(self.path, recursive=True)

    def same(self, name: str, facts: Facts) -> bool:
        """Whether a file here is as it was written; in an object store by its size, which needs no download."""
        info = self.filesystem.get_file_info(self.join(name))
        same = bool(info.type == fs.FileType.File and info.size == facts.size)
        if not same or not self.local:
            return same
        with self.open(self.join(name)) as file:
            return sha256(file) == facts.sha256

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[Draft]:
        """Write a file that is there whole, or not at all.

        :param name: in this folder, which exists.
        :raises OSError: it cannot be written; a file of that name is as it was.
        """
        if not self.local:
            with tempfile.TemporaryFile() as spool:
                draft = Draft(spool)
                yield draft
                draft.facts = _facts(spool)
                spool.seek(0)
                with self.filesystem.open_output_stream(self.join(name)) as target:
                    shutil.copyfileobj(spool, target, BUFFER_BYTES)
            return
        with replacing(self.join(name)) as partial, open(partial, "x+b") as stream:
            draft = Draft(stream)
            yield draft
            stream.flush()
            draft.facts = _facts(stream)

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, whole or not at all.

        :raises OSError: as create.
        """
        with self.create(name) as draft:
            draft.stream.write(data)

    def remove(self, name: str) -> None:
        """Remove a file of this folder, if it is there."""
        with contextlib.suppress(OSError):
            self.filesystem.delete_file(self.join(name))

    def sweep(self) -> None:
        """Remove what a killed run left unfinished."""
        for name in self.names() if self.local else ():
            if name.startswith(".") and name.endswith(f".{PARTIAL}"):
                self.remove(name)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs out of this folder, where there are locks (not on object stores and some network drives).

        :raises InputError: another run has it.
        """
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        if not self.local:
            yield
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(
                f"--output {self.place!r}: another run is writing there: wait for it, or stop it"
            ) from None
        except OSError:
            pass
        try:
            yield
        finally:
            os.close(descriptor)


def _facts(stream: BinaryIO) -> Facts:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return Facts(size, sha256(stream))


def reason(error: BaseException) -> str:
    """One line on what went wrong."""
    lines = (getattr(error, "strerror", None) or str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
