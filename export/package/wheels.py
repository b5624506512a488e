"""The wheels of another platform, fetched by pip."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from export.errors import ExportError

PACKAGES = ("numpy", "onnxruntime")
# What Amazon Linux 2023 (glibc 2.34: Lambda's Python 3.12 and later) and Debian 12 (2.36) can load.
GLIBC = (34, 31, 28, 27, 26, 24, 17)
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
    :raises ExportError: pip finds none, or there is no network.
    """
    machine = MACHINES[arch]
    wanted = [f"{name}=={versions[name]}" if name in versions else name for name in PACKAGES]
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in GLIBC]
    platforms.append(f"--platform=manylinux2014_{machine}")
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--disable-pip-version-check", "--no-input", "--implementation=cp", f"--python-version={python}"),
        *platforms,
        *(() if local is None else ("--no-index", f"--find-links={local}")),
        *("--dest", str(folder)),
        *wanted,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reasons = [
            line for line in done.stderr.splitlines() if line.startswith("ERROR")
        ] or done.stderr.splitlines()
        reason = reasons[-1].removeprefix("ERROR: ") if reasons else "no message"
        raise ExportError(
            f"pip has no wheels of {', '.join(wanted)} for Python {python} on {arch} ({reason}): choose another "
            "--python, --numpy or --onnxruntime, or name a folder of wheels with --wheels"
        )
    return [_only(folder, name) for name in PACKAGES]


def _only(folder: Path, name: str) -> Path:
    (wheel,) = folder.glob(f"{name}-*.whl")
    return wheel


def version_of(wheel: Path) -> str:
    """Return the version in a wheel's name."""
    return wheel.name.split("-")[1]
