"""A package built once for the tests that need one."""

from __future__ import annotations

import platform
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from export.package.__main__ import main
from export.package.wheels import MACHINES, fetch

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
ARCH = next((arch for arch, machine in MACHINES.items() if machine == platform.machine()), "x86_64")


class Package(NamedTuple):
    """A function's package for this very Python and processor."""

    wheels: Path
    zip: Path
    folder: Path  # unpacked


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """From wheels of the index: needs a network, as installing what these tests need does."""
    work = tmp_path_factory.mktemp("package")
    result = Package(work / "wheels", work / "function.zip", work / "task")
    result.wheels.mkdir()
    fetch(ARCH, PYTHON, {}, result.wheels)
    command = ["--target", "lambda", "--arch", ARCH, "--python", PYTHON, "--wheels", str(result.wheels)]
    assert main([*command, "--output", str(result.zip)]) == 0
    with zipfile.ZipFile(result.zip) as archive:
        archive.extractall(result.folder)
    return result
