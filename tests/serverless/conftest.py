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
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From wheels of the index: needs a network, as installing what these tests need does."""
    folder = tmp_path_factory.mktemp("wheels")
    fetch(ARCH, PYTHON, {}, folder)
    return folder


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Package:
    """Of the bundled model."""
    work = tmp_path_factory.mktemp("package")
    result = Package(wheels, work / "function.zip", work / "task")
    command = ["--target", "lambda", "--arch", ARCH, "--python", PYTHON, "--wheels", str(result.wheels)]
    assert main([*command, "--output", str(result.zip)]) == 0
    with zipfile.ZipFile(result.zip) as archive:
        archive.extractall(result.folder)
    return result
