"""Which files the inputs mean, what they are, and by what a resumed job knows them again.

An input is a file, a folder, or a pattern with * or ?; local, or a URI that pyarrow knows. A name that exists is that
file, brackets and all. A folder holds files of one kind, looked for in its sub-folders too; names that begin with a dot
or an underscore are passed over, as is the output, and what else is passed over is told.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from runtime.cli.sources import ENDINGS, FORMAT_NAMES, ending
from runtime.errors import InputError
from runtime.manifest import checksum

from .storage import Storage, reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    known: str  # where links lead: the same of a file that is met twice

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
    files: dict[str, File] = {}
    one, others = True, []
    for place in places:
        found, strange = _listed(place, output)
        one = one and strange is None and len(places) == 1
        others += strange or []
        for file in found:
            if files.setdefault(file.known, file) is not file:
                others.append(f"{file.name} again")
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
    for path in (file.path for file in kept):
        if path.encode(errors="replace").decode() != path:
            raise InputError(f"{path!r}: the name is no UTF-8: rename the file")
    known = {id(file) for file in kept}
    others += [file.name for file in listed if id(file) not in known]
    return Files(tuple(kept), wanted, one, tuple(others))


def describe(files: Files) -> str:
    """How many of which kind."""
    kind = FORMAT_NAMES.get(files.kind or "", "of a kind that their first bytes tell")
    return f"{files.files[0].name}" if len(files.files) == 1 else f"{len(files.files):,} files ({kind})"


def _below(storage: Storage) -> Iterator[tuple[str, str, int | None, int]]:
    """Path, where links lead, size and time of change of what lies below a folder; no size of what is no file."""
    if storage.local:
        yield from _walked(storage.path, set())
        return
    for info in storage.filesystem.get_file_info(fs.FileSelector(storage.path, recursive=True)):
        if info.type != fs.FileType.Directory:
            yield info.path, storage.place + info.path, info.size, _modified(info)


def _walked(folder: str, seen: set[str]) -> Iterator[tuple[str, str, int | None, int]]:
    """The same for a local folder, but of folders that were seen: a link may lead back, or nowhere."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walked(entry.path, seen)
                continue
            known = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)
            try:
                facts = entry.stat()
            except OSError:  # reading tells
                yield entry.path, known, 0, 0
                continue
            yield entry.path, known, facts.st_size if stat.S_ISREG(facts.st_mode) else None, facts.st_mtime_ns


def _listed(place: str, output: str) -> tuple[list[File], list[str] | None]:
    """Files of a place, and what else is there; None where it is itself a file."""
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
            known = os.path.realpath(info.path) if storage.local else storage.place + info.path
            one = File(
                storage, info.path, info.base_name, info.size, _modified(info), _hive(info.path), known
            )
            return [one], None
        if info.type != fs.FileType.Directory:
            raise InputError(f"{place!r}: neither a file nor a folder")
        listing = list(_below(storage))
    except OSError as error:
        raise InputError(f"{place!r}: cannot be read ({reason(error)})") from None
    except UnicodeError:
        raise InputError(f"{place!r}: the name is no UTF-8: rename it") from None
    exclude = Storage(output)
    below = exclude.path.rstrip("/") + "/" if type(exclude.filesystem) is type(storage.filesystem) else None
    files, strange = [], []
    for path, known, size, modified in listing:
        path = path.replace(os.sep, "/")
        name = path.removeprefix(storage.path.replace(os.sep, "/").rstrip("/") + "/")
        hidden = any(part.startswith((".", "_")) for part in name.split("/"))
        if hidden or (below and path.startswith(below)) or not (pattern is None or _matches(name, pattern)):
            continue
        if size is None:
            strange.append(name)
        else:
            files.append(File(storage, path, name, size, modified, _hive(path), known))
    if not files:
        raise InputError(f"{place!r}: no files there")
    return sorted(files, key=lambda file: file.name), strange


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
