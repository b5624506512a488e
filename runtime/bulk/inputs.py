"""Which files the inputs mean, what they are, and by what a resumed job knows them again.

An input is a file, a folder, or a pattern with * or ?; local, or a URI that pyarrow knows. A name that exists is that
file, brackets and all. A folder holds files of one kind, looked for in its sub-folders too; names that begin with a dot
or an underscore are passed over, as is the output, and what else is passed over is told.
"""

from __future__ import annotations

import fnmatch
import hashlib
import posixpath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from runtime.cli.sources import ENDINGS, FORMAT_NAMES, ending
from runtime.errors import InputError
from runtime.manifest import checksum

from .storage import Storage, reason

if TYPE_CHECKING:
    from collections.abc import Sequence

PATTERN = set("*?[")
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


class File(NamedTuple):
    """A file of the input."""

    storage: Storage
    path: str  # for the file system
    name: str  # below the input, with slashes: what messages and the fingerprint call it
    size: int  # bytes
    modified_ns: int  # 0 where the store does not say
    partition: dict[str, str | None]  # year=2020 in the names of its folders

    @property
    def facts(self) -> tuple[int, int]:
        """Size and time of change now.

        :raises OSError: it is gone.
        """
        info = self.storage.filesystem.get_file_info(self.path)
        if info.type != fs.FileType.File:
            raise FileNotFoundError(2, "it is gone", self.path)
        return info.size, _modified(info)


class Files(NamedTuple):
    """The input: files of one kind, in the order of their names."""

    files: tuple[File, ...]
    kind: str | None  # by the names or as told; None where only the content says
    one: bool  # a file was named, not a folder or a pattern
    passed_over: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)

    def partitions(self) -> dict[str, Any]:
        """Columns that folders' names make (Hive's year=2020), and their types: int64 or string."""
        values: dict[str, list[str]] = {}
        for file in self.files:
            for name, value in file.partition.items():
                values.setdefault(name, []).extend([value] if value is not None else [])
        whole = {
            name: all(word.removeprefix("-").isdecimal() for word in found) for name, found in values.items()
        }
        return {name: pa.int64() if number else pa.string() for name, number in whole.items()}


def find(places: Sequence[str], kind: str | None, output: str) -> Files:
    """The files of the input.

    :param places: files, folders, patterns, URIs.
    :param kind: as told; None to see.
    :param output: place of the output, whose files are no input.
    :raises InputError: there are none, or of several kinds.
    """
    files: dict[tuple[str, str], File] = {}
    one = True
    for place in places:
        found, single = _listed(place, output)
        one = one and single and len(places) == 1
        for file in found:
            files[file.storage.place if not file.storage.local else "", file.path] = file
    if not files:
        raise InputError(f"{', '.join(map(repr, places))}: no files there")
    listed, shown = list(files.values()), ", ".join(places)
    kinds: dict[str, str] = {}
    for file in listed:
        if ending(file.name) in ENDINGS:
            kinds.setdefault(ENDINGS[ending(file.name)], file.name)
    if kind is None and len(kinds) > 1:
        names = " and ".join(map(repr, kinds.values()))
        raise InputError(f"{shown} holds {names}: choose with --input-format {' or '.join(kinds)}")
    wanted = kind or next(iter(kinds), None)
    same = "jsonl" if wanted == "json" else wanted
    kept = [
        file for file in listed if ENDINGS.get(ending(file.name), same if kind or not kinds else None) == same
    ]
    if one or not kept:
        kept = listed
    known = {id(file) for file in kept}
    others = tuple(file.name for file in listed if id(file) not in known)
    return Files(tuple(kept), wanted, one, others)


def describe(files: Files) -> str:
    """How many of which kind."""
    kind = FORMAT_NAMES.get(files.kind or "", "of a kind that their first bytes tell")
    return f"{files.files[0].name}" if len(files.files) == 1 else f"{len(files.files):,} files ({kind})"


def _listed(place: str, output: str) -> tuple[list[File], bool]:
    try:
        storage = Storage(place)
        info = storage.filesystem.get_file_info(storage.path)
        pattern = None
        if info.type == fs.FileType.NotFound and PATTERN & set(place):
            folder, pattern = _split(place)
            storage = Storage(folder)
            info = storage.filesystem.get_file_info(storage.path)
        if info.type == fs.FileType.NotFound:
            raise InputError(f"{place!r}: there is no such file or folder")
        if info.type == fs.FileType.File:
            return [
                File(storage, info.path, info.base_name, info.size, _modified(info), _hive(info.path))
            ], True
        if info.type != fs.FileType.Directory:
            raise InputError(f"{place!r}: neither a file nor a folder")
        listing = storage.filesystem.get_file_info(fs.FileSelector(storage.path, recursive=True))
    except OSError as error:
        raise InputError(f"{place!r}: cannot be read ({reason(error)})") from None
    exclude = Storage(output)
    below = exclude.path.rstrip("/") + "/" if type(exclude.filesystem) is type(storage.filesystem) else None
    files = []
    for info in listing:
        name = posixpath.relpath(info.path, storage.path)
        hidden = any(part.startswith((".", "_")) for part in name.split("/"))
        if info.type != fs.FileType.File or hidden or (below and info.path.startswith(below)):
            continue
        if pattern is None or _matches(name, pattern):
            files.append(File(storage, info.path, name, info.size, _modified(info), _hive(info.path)))
    if not files:
        raise InputError(f"{place!r}: no files there")
    return sorted(files, key=lambda file: file.name), False


def _split(place: str) -> tuple[str, str]:
    """The folder before the first part with a wildcard, and the pattern below it; ? in a URI begins its options."""
    head, separator, rest = place.partition("://") if "://" in place else ("", "", place)
    rest, mark, query = rest.partition("?") if separator else (rest, "", "")
    parts = rest.split("/")
    first = next((n for n, part in enumerate(parts) if PATTERN & set(part)), len(parts) - 1)
    folder = "/".join(parts[:first]) or ("/" if rest.startswith("/") else ".")
    return f"{head}{separator}{folder}{mark}{query}", "/".join(parts[first:])


def _matches(name: str, pattern: str) -> bool:
    names, patterns = name.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatch.fnmatchcase, names, patterns))


def _hive(path: str) -> dict[str, str | None]:
    pairs = [part.partition("=") for part in path.split("/")[:-1] if "=" in part]
    return {
        unquote(name): None if value == NULL_PARTITION else unquote(value) for name, _, value in pairs if name
    }


def fingerprint(files: Files, verify: bool) -> dict[str, Any]:
    """What a resumed job compares: number of files, bytes, and a digest of their names, sizes and times of change.

    :param verify: of their contents instead of the times, which reads all of them.
    :raises InputError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in files.files:
        content = str(file.modified_ns)
        if verify:
            try:
                with file.storage.open(file.path) as stream:
                    content = checksum(stream)
            except OSError as error:
                raise InputError(f"{file.path}: cannot be read ({reason(error)})") from None
        digest.update(f"{file.name}\0{file.size}\0{content}\0".encode(errors="surrogateescape"))
    return {
        "files": len(files.files),
        "bytes": files.bytes,
        "by": "content" if verify else "size and time of change",
        "digest": digest.hexdigest(),
    }


def _modified(info: Any) -> int:
    return int(info.mtime_ns or 0)
