"""python -m export.package: sizes, contents, the same bytes twice, refusals; the package run by awslambdaric."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from export.package.__main__ import main
from runtime import Embedder
from tests.serverless.conftest import ARCH, PYTHON, Package
from tests.serverless.runtime_api import Function

OTHER = {"x86_64": "arm64", "arm64": "x86_64"}[ARCH]
MEGABYTE = 1e6


def options(output: Path, package: Package | None = None, **changes: str) -> list[str]:
    values = {"target": "lambda", "arch": ARCH, "python": PYTHON, "output": str(output), **changes}
    if package:
        values["wheels"] = str(package.wheels)
    return [word for name, value in values.items() for word in (f"--{name}", value)]


def test_it_fits(package: Package) -> None:
    with zipfile.ZipFile(package.zip) as archive:
        assert sum(info.file_size for info in archive.infolist()) <= 120 * MEGABYTE
    assert package.zip.stat().st_size <= 60 * MEGABYTE


def test_what_is_in_it(package: Package) -> None:
    names = zipfile.ZipFile(package.zip).namelist()
    assert names == sorted(names)
    assert {"main.py", "LICENSE", "BUILD.json", "runtime/handlers/__init__.py"} <= set(names)
    assert [name for name in names if name.endswith("/manifest.json")] == [
        "runtime/models/jinabert-6l-distilled/manifest.json"
    ]
    for licence in ("onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"):
        assert licence in names
    assert any(name.startswith("numpy-") and "LICENSE" in name for name in names)
    unwanted = ("libonnxruntime.so", "/tests/", "/tools/", "/transformers/", "protobuf", ".pyi", "RECORD")
    assert [name for name in names if any(word in name for word in unwanted)] == []
    note = json.loads((package.folder / "BUILD.json").read_text(encoding="utf-8"))
    assert (note["arch"], note["python"], sorted(note["packages"])) == (
        ARCH,
        PYTHON,
        ["numpy", "onnxruntime"],
    )
    for info in zipfile.ZipFile(package.zip).infolist():
        assert info.date_time == (1980, 1, 1, 0, 0, 0)
        assert oct(info.external_attr >> 16) == ("0o100755" if ".so" in info.filename else "0o100644")


def test_the_same_bytes_again(package: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = tmp_path / "again.zip"
    assert main(options(again, package)) == 0
    assert again.read_bytes() == package.zip.read_bytes()
    assert "tried: a vector from the package alone" in capsys.readouterr().out


def test_a_layer_as_a_folder_for_another_processor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = tmp_path / "layer"
    assert main([*options(layer, arch=OTHER, python="3.12"), "--layer"]) == 0
    assert [entry.name for entry in layer.iterdir()] == ["python"]
    (library,) = (layer / "python" / "onnxruntime" / "capi").glob("onnxruntime_pybind11_state*.so")
    machine = int.from_bytes(library.read_bytes()[18:20], "little")  # e_machine of ELF
    assert machine == {"x86_64": 62, "arm64": 183}[OTHER]
    # Nothing here can run it, and it says so.
    assert f"NOT TRIED: there is no Python 3.12 for {OTHER} here" in capsys.readouterr().out


def test_awslambdaric_runs_the_package_alone(package: Package) -> None:
    pytest.importorskip("awslambdaric")
    # site-packages has onnxruntime too: the package comes first, as on Lambda.
    with Function(package.folder, python=sys.executable) as function:
        answer = function.invoke({"texts": ["How is the weather today?"]})
    with Embedder(threads=1) as embedder:
        expected = embedder.encode("How is the weather today?")
    assert np.dot(answer["data"][0]["embedding"], expected) > 0.9999


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"python": "2.7"}, "--python 2.7: must be a version such as 3.12"),
        ({"model": "/nowhere"}, "model folder '/nowhere' does not exist"),
        ({"wheels": "/nowhere"}, "--wheels /nowhere: no such folder"),
        ({"interpreter": "/nowhere/python"}, "--interpreter /nowhere/python does not run"),
        ({"interpreter": sys.executable, "python": "3.99"}, "--interpreter"),
    ],
)
def test_refusals_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], message: str
) -> None:
    assert main(options(tmp_path / "out.zip", **changes)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"python -m export.package: {message}")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_wheels_that_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wheels").mkdir()
    assert main(options(tmp_path / "out.zip", wheels=str(tmp_path / "wheels"))) == 2
    error = capsys.readouterr().err
    assert "pip has no wheels of numpy, onnxruntime" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.zip").exists()


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.zip"
    output.write_text("mine")
    assert main(options(output)) == 2
    assert "exists: pass --force" in capsys.readouterr().err
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("mine")
    assert main([*options(home), "--force"]) == 2
    assert "was not made here" in capsys.readouterr().err
    assert (output.read_text(), (home / "letter.txt").read_text()) == ("mine", "mine")


@pytest.mark.parametrize("arguments", [[], ["--target", "lambda"], ["--target", "azure"]])
def test_arguments_that_are_wrong(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
