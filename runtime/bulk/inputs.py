"""Which files INPUT means, what they are, and a fingerprint by which a resumed run knows them again.

INPUT is a file, a folder, or a pattern with * or ?; local, or a URI that pyarrow knows. A folder holds files of one
kind, looked for in its sub-folders too; names that begin with a dot or an underscore are passed over, as is the output.
"""

from __future__ import annotations

import fnmatch
import hashlib
import posixpath
from typing import TYPE_CHECKING, Any, NamedTuple

from pyarrow import fs

from runtime.errors import InputError
from runtime.manifest import checksum

from .storage import Storage

if TYPE_CHECKING:
    from collections.abc import Sequence

SUFFIXES = {
    "parquet": (".parquet", ".pq"),
    "jsonl": (".jsonl", ".ndjson"),
    "csv": (".csv", ".tsv"),
    "text": (".txt", ".text", ".md"),
}
PATTERN = set("*?[")


class File(NamedTuple):
    """A file of the input."""

    path: str  # for the file system
    name: str  # below INPUT, with slashes: what messages and the fingerprint call it
    size: int  # bytes
    modified_ns: int  # where the store does not hold it: 0


class Files(NamedTuple):
    """The input: files of one kind, in the order of their names."""

    place: str  # of a Storage that opens them
    kind: str  # key of SUFFIXES
    files: tuple[File, ...]


def find(place: str, kind: str | None, output: str) -> Files:
    """The files of INPUT.

    :param place: as on the command line.
    :param kind: key of SUFFIXES; None to tell it by the files' names.
    :param output: place of the output, whose files are no input.
    :raises InputError: there are none, of no known kind, or of several.
    """
    files = _listed(place, output)
    if kind is None:
        kind = _kind(place, files)
    found = [
        file
        for file in files
        if len(files) == 1 or kind == "text" or file.name.lower().endswith(SUFFIXES[kind])
    ]
    if not found:
        raise InputError(f"{place!r}: no {kind} files ({', '.join(SUFFIXES[kind])}) there")
    return Files(place, kind, tuple(found))


def _listed(place: str, output: str) -> list[File]:
    root, pattern = _split(place)
    storage, exclude = Storage(root), Storage(output)
    below = exclude.path.rstrip("/") + "/" if type(exclude.filesystem) is type(storage.filesystem) else None
    try:
        info = storage.filesystem.get_file_info(storage.path)
        if info.type == fs.FileType.NotFound:
            raise InputError(f"{place!r}: there is no such file or folder")
        if info.type == fs.FileType.File:
            return [File(info.path, info.base_name, info.size, _modified(info))]
        if info.type != fs.FileType.Directory:
            raise InputError(f"{place!r}: neither a file nor a folder")
        listing = storage.filesystem.get_file_info(fs.FileSelector(storage.path, recursive=True))
    except OSError as error:
        raise InputError(f"{place!r}: cannot be read ({_reason(error)})") from None
    files = []
    for info in listing:
        name = posixpath.relpath(info.path, storage.path)
        hidden = any(part.startswith((".", "_")) for part in name.split("/"))
        if info.type != fs.FileType.File or hidden or (below and info.path.startswith(below)):
            continue
        if pattern is None or _matches(name, pattern):
            files.append(File(info.path, name, info.size, _modified(info)))
    if not files:
        raise InputError(f"{place!r}: no files there")
    return sorted(files, key=lambda file: file.name)


def _split(place: str) -> tuple[str, str | None]:
    """The folder before the first part with a wildcard, and the pattern below it; ? in a URI begins its options."""
    head, separator, rest = place.partition("://") if "://" in place else ("", "", place)
    rest, mark, query = rest.partition("?") if separator else (rest, "", "")
    parts = rest.split("/")
    first = next((n for n, part in enumerate(parts) if PATTERN & set(part)), None)
    if first is None:
        return place, None
    folder = "/".join(parts[:first]) or ("/" if rest.startswith("/") else ".")
    return f"{head}{separator}{folder}{mark}{query}", "/".join(parts[first:])


def _matches(name: str, pattern: str) -> bool:
    names, patterns = name.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatch.fnmatchcase, names, patterns))


def _kind(place: str, files: Sequence[File]) -> str:
    kinds: dict[str, str] = {}
    for file in files:
        for kind, suffixes in SUFFIXES.items():
            if file.name.lower().endswith(suffixes):
                kinds.setdefault(kind, file.name)
    if not kinds:
        raise InputError(
            f"{place!r}: {files[0].name!r} tells no format by its name: say --input-format parquet, jsonl, csv or text"
        )
    if len(kinds) > 1:
        raise InputError(
            f"{place!r} holds {' and '.join(map(repr, kinds.values()))}: choose with --input-format "
            + " or ".join(kinds)
        )
    return next(iter(kinds))


def fingerprint(files: Files) -> dict[str, Any]:
    """What a resumed run compares: number of files, bytes, and a digest of their names and contents.

    Local files are read once, at the speed of the disk; of an object store the times of change stand for contents.

    :raises InputError: a file cannot be read.
    """
    storage = Storage(root(files.place))
    digest = hashlib.sha256()
    for file in files.files:
        try:
            if storage.local:
                with open(file.path, "rb", buffering=0) as stream:
                    content = checksum(stream)
            else:
                content = str(file.modified_ns)
        except OSError as error:
            raise InputError(f"{file.path}: cannot be read ({_reason(error)})") from None
        digest.update(f"{file.name}\0{file.size}\0{content}\0".encode(errors="surrogateescape"))
    return {
        "format": files.kind,
        "files": len(files.files),
        "bytes": sum(file.size for file in files.files),
        "digest": digest.hexdigest(),
    }


def root(place: str) -> str:
    """The place below which INPUT's files are: a Storage of it opens them."""
    return _split(place)[0]


def _modified(info: Any) -> int:
    return int(info.mtime_ns or 0)


def _reason(error: OSError) -> str:
    lines = (error.strerror or str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
