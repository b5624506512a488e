"""Contents on a disk, as a zip file or a folder.

Names are sorted, times and modes fixed, so that the same contents are the same bytes. It appears whole or not at all.
"""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

from export.errors import ExportError

TIME = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can say
MARK = "BUILD.json"  # a folder without it is not ours to replace
FILE, LIBRARY = 0o644, 0o755  # Lambda's user is not the owner: everyone must be able to read


def check_target(output: Path, *, force: bool) -> None:
    """Refuse a target that must not be replaced.

    :raises ExportError: the target exists and is not to be replaced, or never is.
    """
    if not os.path.lexists(output):
        return
    if not force:
        raise ExportError(f"{output} exists: pass --force to replace it, or choose another --output")
    if output.suffix == ".zip":
        if not output.is_file():
            raise ExportError(f"{output} is no file: choose another --output")
    elif not output.is_dir():
        raise ExportError(f"{output} is no folder: choose another --output, or one that ends in .zip")
    elif any(output.iterdir()) and not any((output / place / MARK).is_file() for place in ("", "python")):
        raise ExportError(
            f"{output} holds files but no {MARK}, so it was not made here: --force does not replace it"
        )


def write(made: Path, contents: Mapping[str, bytes | Path]) -> None:
    """Write the files of a package.

    :param made: where nothing is yet: a name that ends in .zip, or that of a folder.
    :param contents: name -> content, or the file that holds it.
    :raises OSError: the disk refuses.
    """
    if made.suffix == ".zip":
        _zip(made, contents)
    else:
        _folder(made, contents)


def _zip(target: Path, contents: Mapping[str, bytes | Path]) -> None:
    with zipfile.ZipFile(target, "x") as archive:
        for name in sorted(contents):
            info = zipfile.ZipInfo(name, TIME)
            info.create_system = 3  # Unix, whatever this is
            info.external_attr = (0o100000 | mode(name)) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, _bytes(contents[name]), compresslevel=9)


def _folder(target: Path, contents: Mapping[str, bytes | Path]) -> None:
    target.mkdir()
    for name in sorted(contents):
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_bytes(contents[name]))
        file.chmod(mode(name))


def mode(name: str) -> int:
    """Return the permissions of a file of this name."""
    return LIBRARY if ".so" in Path(name).suffixes else FILE


def _bytes(content: bytes | Path) -> bytes:
    return content.read_bytes() if isinstance(content, Path) else content
