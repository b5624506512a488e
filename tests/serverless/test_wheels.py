"""Wheels are fetched by whatever pip there is, and what hinders it is named."""

from __future__ import annotations

import shutil
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from export.errors import ExportError
from export.package import wheels


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A folder of two wheels that hold nothing."""
    folder = tmp_path / "local"
    folder.mkdir()
    for name in wheels.PACKAGES:
        about = f"{name}-9.9.dist-info"
        with zipfile.ZipFile(folder / f"{name}-9.9-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
            archive.writestr(
                f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{about}/RECORD", "")
    (tmp_path / "constraints.txt").write_text("numpy==1.0\n")
    (tmp_path / "fetched").mkdir()
    return folder


def without(*names: str) -> Any:
    return lambda name: None if name in names else find_spec(name)


@pytest.mark.parametrize("setting", ["", "PIP_CONSTRAINT", "PIP_REQUIRE_HASHES", "PIP_NO_INDEX"])
def test_named_wheels_are_taken_whatever_pip_is_told(
    local: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    if setting:
        value = str(local.parent / "constraints.txt") if setting == "PIP_CONSTRAINT" else "1"
        monkeypatch.setenv(setting, value)
    found = wheels.fetch("x86_64", "3.12", {}, local.parent / "fetched", local=local)
    assert [wheels.version_of(wheel) for wheel in found] == ["9.9", "9.9"]


@pytest.mark.parametrize(
    "setting", ["PIP_CONSTRAINT", "PIP_REQUIRE_HASHES", "PIP_NO_INDEX", "PIP_CONFIG_FILE"]
)
def test_settings_of_pip_that_hinder_are_named(
    local: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    settings = local.parent / "pip.conf"
    settings.write_text("[global]\nno-index = true\nindex-url = https://user:password@127.0.0.1:9/simple\n")
    values = {
        "PIP_CONSTRAINT": str(local.parent / "constraints.txt"),
        "PIP_REQUIRE_HASHES": "1",
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": str(settings),
    }
    monkeypatch.setenv("PIP_INDEX_URL", local.as_uri())  # no index at all: nothing is looked up elsewhere
    monkeypatch.setenv(setting, values[setting])
    expected = "setting global.no-index" if setting == "PIP_CONFIG_FILE" else setting
    with pytest.raises(ExportError, match=f"unset pip's .*{expected}") as caught:
        wheels.fetch("x86_64", "3.12", {}, local.parent / "fetched")
    assert "password" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_pip_that_python_brings_is_used_where_none_is_installed(
    local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "find_spec", without("pip"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert wheels._pip()[1].endswith(".whl/pip")
    assert wheels.fetch("x86_64", "3.12", {}, local.parent / "fetched", local=local)


def test_uv_is_used_where_it_is(local: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program that takes uv's arguments and runs this environment's pip."""
    uv = tmp_path / "uv"
    uv.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        'assert sys.argv[1:4] == ["tool", "run", "--quiet"] and sys.argv[6] == "pip", sys.argv\n'
        'os.execv(sys.executable, [sys.executable, "-m", *sys.argv[6:]])\n'
    )
    uv.chmod(0o755)
    monkeypatch.setattr(wheels, "find_spec", without("pip"))
    monkeypatch.setattr(shutil, "which", lambda name: str(uv))
    assert wheels.fetch("x86_64", "3.12", {}, local.parent / "fetched", local=local)


def test_an_index_that_uv_knows_is_told_to_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://index.example/simple")
    assert wheels._environment()["PIP_INDEX_URL"] == "https://index.example/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://other.example/simple")
    assert wheels._environment()["PIP_INDEX_URL"] == "https://other.example/simple"


def test_no_pip_at_all_is_said(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "find_spec", without("pip", "ensurepip"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ExportError, match="neither pip nor uv is here"):
        wheels.fetch("x86_64", "3.12", {}, local.parent / "fetched", local=local)
