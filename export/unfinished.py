"""What an export has finished, kept beside its target until the model folder is there: NAME.unfinished.

An export that is cut off, by Ctrl-C or by kill, goes on from there when the same command is given again. A
fingerprint says what the work was made from: files of the checkpoint, settings, texts, the export's own code,
libraries, processor. Work of another fingerprint is removed, never used. A refusal leaves nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import export
import runtime
from export.errors import ExportError
from runtime import files

__all__ = ["NOTHING_KEPT", "Stages", "Unfinished", "code_fingerprint", "open_unfinished", "processor"]

FINGERPRINT = "fingerprint.json"
WORK = "work"
Arrays = Mapping[str, NDArray[Any]]


class Stages:
    """Stages of an export, made whenever they are asked for."""

    work: Path | None = None  # a folder for what no later run can use; None for the system's

    def figures(self, stage: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Take the figures of a stage, or make them.

        :param stage: its name.
        :param make: makes what JSON can hold.
        :return: the figures.
        """
        return make()

    def arrays(self, stage: str, make: Callable[[], Arrays]) -> Arrays:
        """Take the arrays of a stage, or make them.

        :param stage: its name.
        :param make: makes them, by name.
        :return: the arrays.
        """
        return make()


NOTHING_KEPT = Stages()


class Unfinished(Stages):
    """The folder of an export that is not finished. Each finished stage is a file in it, whole or not there."""

    work: Path

    def __init__(self, folder: Path, progress: Callable[[str], None]) -> None:
        self.folder, self.work = folder, folder / WORK
        self._progress = progress

    def figures(self, stage: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """As in Stages; what was made is kept."""
        path = self.folder / f"{stage}.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = make()
            self._write(path, lambda partial: partial.write_text(json.dumps(found), encoding="utf-8"))
            return found
        self._say(stage)
        return found

    def arrays(self, stage: str, make: Callable[[], Arrays]) -> Arrays:
        """As in Stages; what was made is kept."""
        path = self.folder / f"{stage}.npz"
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                found = dict(stored)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            made = make()

            def write(partial: Path) -> None:
                with partial.open("wb") as file:
                    np.savez(file, **made)  # type: ignore[arg-type]  # a name is never one of savez's own

            self._write(path, write)
            return made
        self._say(stage)
        return found

    def file(self, name: str, make: Callable[[Path], object]) -> Path:
        """Take a file, or make it.

        :param name: of the file.
        :param make: writes it to the path that it is given.
        :return: the file.
        """
        path = self.folder / name
        if path.is_file():
            self._say(path.stem)
        else:
            self._write(path, make)
        return path

    @property
    def stages(self) -> list[Path]:
        """The files of finished stages."""
        return [path for path in self.folder.iterdir() if path.is_file() and path.name != FINGERPRINT]

    def _write(self, path: Path, write: Callable[[Path], object]) -> None:
        with files.replacing(path) as partial:
            write(Path(partial))

    def _say(self, stage: str) -> None:
        self._progress(f"{stage}: taken from {self.folder}")


@contextlib.contextmanager
def open_unfinished(
    output: Path, fingerprint: Mapping[str, Any], progress: Callable[[str], None]
) -> Iterator[Unfinished]:
    """Take up what an earlier run left, or begin.

    :param output: the model folder to be made.
    :param fingerprint: what the work is made from, as JSON can hold it.
    :param progress: gets a line for what is taken up and what is left.
    :return: the folder; it stays where the work is cut off, and is gone after anything else.
    :raises ExportError: another export is at work there, or the place cannot be written.
    """
    target = Path(os.path.realpath(output))
    folder = target.with_name(target.name + ".unfinished")
    made = [parent for parent in folder.parents if not parent.exists()]
    with _locked(folder, output):
        kept, unfinished = False, Unfinished(folder, progress)
        try:
            _begin(folder, json.loads(json.dumps(fingerprint)), progress)
            yield unfinished
        except BaseException as error:
            # Ctrl-C, SIGTERM, too little memory: not a refusal.
            cut_off = isinstance(error, MemoryError) or not isinstance(error, Exception)
            kept = cut_off and bool(unfinished.stages)
            raise
        finally:
            shutil.rmtree(folder / WORK if kept else folder, ignore_errors=True)
            if kept:
                progress(f"what is finished is kept in {folder}: the same command goes on from there")
            for parent in () if kept else made:
                with contextlib.suppress(OSError):  # the finished folder is inside
                    parent.rmdir()


def _begin(folder: Path, fingerprint: dict[str, Any], progress: Callable[[str], None]) -> None:
    """Make the folder ready: with the stages of the same work, or empty."""
    try:
        before = json.loads((folder / FINGERPRINT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if before is not None and before != fingerprint:
        changed = [name for name in fingerprint if before.get(name) != fingerprint[name]]
        progress(f"{folder} is not used, since it was made from other {', '.join(changed)}: starting anew")
    for path in folder.iterdir():
        if before != fingerprint or path.is_dir() or path.name.endswith(files.PARTIAL):
            files.remove(str(path))
    with files.replacing(folder / FINGERPRINT) as partial:
        Path(partial).write_text(json.dumps(fingerprint, indent=2), encoding="utf-8")
    (folder / WORK).mkdir()


@contextlib.contextmanager
def _locked(folder: Path, output: Path) -> Iterator[None]:
    """Have the folder, made if it is not there, for this process alone, where there are locks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strange = [path for path in folder.iterdir() if not path.name.endswith(files.PARTIAL)]
        descriptor = os.open(folder, os.O_RDONLY) if os.name != "nt" else None
    except OSError as error:
        raise ExportError(f"cannot write {output}: {files.explain(error)}") from None
    try:
        if strange and not (folder / FINGERPRINT).is_file():
            raise ExportError(
                f"{folder} is in the way: the export keeps unfinished work under that name; move it, or choose another "
                "--output"
            )
        if descriptor is not None:
            import fcntl

            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ExportError(
                    f"another export to {output} is at work: wait for it, or choose another --output"
                ) from None
            except OSError:  # a network drive without locks
                pass
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def code_fingerprint() -> str:
    """Hash the code of the export and of the runtime."""
    digest = hashlib.sha256()
    for package in (export, runtime):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{root.name}/{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def processor() -> str:
    """Name the processor, as far as the system tells: vectors differ in their last digits between processors."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
