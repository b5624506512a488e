"""Processes under a real limit of memory or CPU time: a cgroup of their own, v1 or v2.

Needs the right to make groups (root, on most machines); `missing` says why it cannot.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["enter", "group", "killed", "missing"]

MOUNT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000


def _own(controller: str) -> tuple[Path, bool] | None:
    """Return our own group for a controller, and whether it is of version 2."""
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            folder = MOUNT / controllers / path.lstrip("/")
            return (folder if folder.is_dir() else MOUNT / controllers), False
    root = MOUNT / "cgroup.controllers"
    if root.exists() and controller in root.read_text(encoding="ascii").split():
        return MOUNT, True  # a process may not have its own children beside it, so they go to the root
    return None


def missing(controller: str) -> str | None:
    """Why a limit cannot be set here.

    :param controller: "memory" or "cpu".
    :return: a reason to skip, or None.
    """
    try:
        with group(controller, 1 << 30 if controller == "memory" else 1.0):
            return None
    except OSError as error:
        return f"no cgroup for {controller} can be made here: {error.strerror or error}"


@contextlib.contextmanager
def group(controller: str, limit: float) -> Iterator[Path]:
    """A new group, empty, gone afterwards.

    :param controller: "memory" or "cpu".
    :param limit: bytes, or CPU cores.
    :raises OSError: not allowed here.
    """
    place = _own(controller)
    if place is None:
        raise OSError(f"no {controller} controller is mounted")
    parent, unified = place
    folder = parent / f"jinabert-{os.getpid()}-{time.monotonic_ns()}"
    if unified:
        enabled = parent / "cgroup.subtree_control"
        if controller not in enabled.read_text(encoding="ascii").split():
            enabled.write_text(f"+{controller}", encoding="ascii")
    folder.mkdir()
    try:
        if controller == "memory":
            name = "memory.max" if unified else "memory.limit_in_bytes"
            (folder / name).write_text(str(int(limit)), encoding="ascii")
            with contextlib.suppress(OSError):  # no swap: what does not fit is killed, as on Lambda
                (folder / "memory.swap.max").write_text("0", encoding="ascii")
        elif unified:
            (folder / "cpu.max").write_text(f"{int(limit * PERIOD_US)} {PERIOD_US}", encoding="ascii")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US), encoding="ascii")
            (folder / "cpu.cfs_quota_us").write_text(str(int(limit * PERIOD_US)), encoding="ascii")
        yield folder
    finally:
        for _ in range(50):  # the last process may take a moment to leave
            try:
                folder.rmdir()
                break
            except OSError:
                time.sleep(0.05)


def enter(*groups: Path) -> Callable[[], None]:
    """Return a `preexec_fn` for subprocess, which puts the new process into the groups."""
    files = [str(folder / "cgroup.procs") for folder in groups]

    def move() -> None:
        for file in files:
            with open(file, "w", encoding="ascii") as procs:
                procs.write("0")

    return move


def killed(code: int) -> bool:
    """Return whether an exit code of subprocess is that of a process killed for memory."""
    return code == -9
