"""The wheels of another platform, fetched by pip: this environment's, uv's or the one that Python brings."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from export.errors import ExportError

PACKAGES = ("numpy", "onnxruntime")
# What Amazon Linux 2023 (glibc 2.34: Lambda's Python 3.12 and later) and Debian 12 (2.36) can load.
GLIBC = (34, 31, 28, 27, 26, 24, 17)
# Settings of pip, of its environment variables and its files, that can leave no wheel to choose.
NARROWING = (
    "constraint",
    "find-links",
    "index-url",
    "no-binary",
    "no-index",
    "require-hashes",
    "requirement",
)
MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}  # our name -> Linux's


def fetch(
    arch: str, python: str, versions: Mapping[str, str], folder: Path, *, local: Path | None = None
) -> list[Path]:
    """Download the wheels of PACKAGES, without their dependencies: onnxruntime's are for tools that are left out.

    :param arch: a key of MACHINES.
    :param python: such as ``3.12``.
    :param versions: package -> version; the newest of those that are missing.
    :param folder: where to.
    :param local: a folder of wheels to take them from, instead of the index.
    :return: one file per package.
    :raises ExportError: pip finds none, there is no network, or no pip.
    """
    machine = MACHINES[arch]
    wanted = [f"{name}=={versions[name]}" if name in versions else name for name in PACKAGES]
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in GLIBC]
    platforms.append(f"--platform=manylinux2014_{machine}")
    pip = _pip()
    command = [
        *pip,
        # Files that are named are wanted, whatever holds for an index.
        *(() if local is None else ("--isolated",)),
        *("download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--disable-pip-version-check", "--no-input", "--implementation=cp", f"--python-version={python}"),
        *platforms,
        *(() if local is None else ("--no-index", f"--find-links={local}")),
        *("--dest", str(folder)),
        *wanted,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode:
        reasons = [
            line for line in done.stderr.splitlines() if line.startswith("ERROR")
        ] or done.stderr.splitlines()
        reason = reasons[-1].removeprefix("ERROR: ") if reasons else "no message"
        set_here = [] if local else _narrowing(pip)
        remedy = f"unset pip's {' and '.join(set_here)}, which may leave none, " if set_here else ""
        raise ExportError(
            f"pip has no wheels of {', '.join(wanted)} for Python {python} on {arch} ({reason}): {remedy}choose "
            "another --python, --numpy or --onnxruntime, or name a folder of wheels with --wheels"
        )
    return [_only(folder, name) for name in PACKAGES]


def _pip() -> list[str]:
    """Return the command of a pip: this environment's; else uv's, which puts none in its environments; else Python's.

    :raises ExportError: there is none.
    """
    if find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "--quiet", "--python", sys.executable, "pip"]
    bundled = find_spec("ensurepip")
    for place in bundled.submodule_search_locations or () if bundled else ():
        for wheel in sorted(Path(place, "_bundled").glob("pip-*.whl")):
            return [sys.executable, f"{wheel}/pip"]
    raise ExportError(
        "neither pip nor uv is here, and one of them fetches the wheels: install one (python -m ensurepip)"
    )


def _environment() -> dict[str, str]:
    """Return this process's environment; where only uv was told of an index, pip is told too."""
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL")
    return {**({"PIP_INDEX_URL": index} if index else {}), **os.environ}


def _narrowing(pip: Sequence[str]) -> list[str]:
    """Return the names of settings that can leave no wheel; never their values, which may hold a password."""
    done = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False)
    found = []
    for line in done.stdout.splitlines():
        section, _, name = line.partition("=")[0].rpartition(".")
        if name.removeprefix("extra-") in NARROWING:
            found.append(
                "PIP_" + name.upper().replace("-", "_") if section == ":env:" else f"setting {section}.{name}"
            )
    return found


def _only(folder: Path, name: str) -> Path:
    (wheel,) = folder.glob(f"{name}-*.whl")
    return wheel


def version_of(wheel: Path) -> str:
    """Return the version in a wheel's name."""
    return wheel.name.split("-")[1]
