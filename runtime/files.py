"""Files and folders that are there whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PARTIAL, OLD = "partial", "old"


def beside(path: str | os.PathLike[str], kind: str = PARTIAL) -> str:
    """Name a hidden file or folder of this process beside a path: `.NAME.PID.KIND`.

    :param path: file or folder to be made.
    :param kind: PARTIAL for what is being written, OLD for what is being replaced.
    """
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(folder, f".{name[:200]}.{os.getpid()}.{kind}")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """Have a file or folder appear under its name only when it is complete.

    :param path: file or folder to be made; one of that name is replaced. A link stays: what it leads to is replaced.
    :return: the name under which to write it, which is removed if the block fails.
    :raises OSError: the disk is full or failed; what was there is as it was.
    """
    target = os.path.realpath(path)
    partial = beside(target)
    try:
        yield partial
        replace(partial, target)
    except BaseException:
        remove(partial)
        raise


def replace(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Put a complete file or folder in its place, on the disk and not only in memory.

    :param source: on the same file system.
    :param target: what is there is replaced; a folder is put back if that fails.
    :raises OSError: the file system refuses.
    """
    sync(source)
    if os.path.isdir(target):  # a folder with files cannot be renamed over
        old = beside(target, OLD)
        os.rename(target, old)
        try:
            os.rename(source, target)
        except BaseException:
            os.rename(old, target)
            raise
        remove(old)
    else:
        os.replace(source, target)
    sync(os.path.dirname(os.path.abspath(target)))


def remove(path: str) -> None:
    """Remove a file or a folder, as far as that goes."""
    if os.path.isdir(path):
        import shutil

        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # not there, or the file system is gone
            os.unlink(path)


def sync(path: str | os.PathLike[str]) -> None:
    """Have a file or folder on the disk before anything that relies on it; not where a system cannot (Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain(error: OSError) -> str:
    """Say why a file operation failed, and what helps.

    :param error: what it raised.
    :return: the reason, with a remedy where there is one.
    """
    import errno

    elsewhere = "choose a place that you may write to"
    remedies = {
        errno.ENOSPC: "free some space, or choose another place",
        errno.EDQUOT: "free some space, or choose another place",
        errno.EFBIG: "a limit on file sizes is in force here (ulimit -f)",
        errno.EACCES: elsewhere,
        errno.EPERM: elsewhere,
        errno.EROFS: elsewhere,
    }
    reason = error.strerror or str(error)
    remedy = remedies.get(error.errno or 0)
    return f"{reason} ({remedy})" if remedy else reason
