"""`import jinabert` is this package, also where a project's own runtime/ or export/ stands before it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

ALIAS = ROOT / "runtime" / "alias"
USE = """
import copy, pickle, sys
import jinabert
from jinabert import Embedder, errors
from jinabert.integrations.sentence_transformers import SentenceTransformer

embedder = Embedder(sys.argv[1], threads=1)
expected = embedder.encode("a text").tolist()
assert pickle.loads(pickle.dumps(embedder)).encode("a text").tolist() == expected
assert SentenceTransformer(sys.argv[1], threads=1).encode("a text").tolist() == expected
try:
    Embedder("nowhere")
except jinabert.ModelError as error:
    assert isinstance(error, errors.JinaBertError)
import runtime
"""
SAME = """
import runtime.embedder
assert Embedder is runtime.Embedder is runtime.embedder.Embedder is jinabert.embedder.Embedder
assert runtime.embedder.__spec__.name == runtime.embedder.__name__ == "runtime.embedder"
assert jinabert.__all__ == runtime.__all__ and set(runtime.__all__) <= set(dir(jinabert))
"""
OWN = """
import runtime.embedder, export
assert runtime.embedder.NAME == runtime.NAME == export.NAME == "of the project"
assert Embedder.__module__ == "jinabert.embedder"
assert not any("of the project" in str(value) for value in vars(jinabert).values())
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("runtime", "export"):
        (tmp_path / name).mkdir()
        for file in ("__init__.py", "embedder.py", "errors.py"):
            (tmp_path / name / file).write_text('NAME = "of the project"\n')
    return tmp_path


def python(
    folder: Path, *arguments: str | Path, places: tuple[Path, ...]
) -> subprocess.CompletedProcess[str]:
    places = (*places, ALIAS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), "PYTHONWARNINGS": "error"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_it_is_the_same_package_where_runtime_is_found(tiny_folder: Path, tmp_path: Path) -> None:
    done = python(tmp_path, "-c", USE + SAME, tiny_folder, places=(ROOT,))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("first", ["", "import runtime\n"])
def test_a_project_keeps_its_own_runtime(tiny_folder: Path, project: Path, first: str) -> None:
    done = python(project, "-c", first + USE + OWN, tiny_folder, places=())
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["embed", "rerank", "bulk", "serve"])
def test_command_lines_run_under_the_other_name(tiny_folder: Path, project: Path, name: str) -> None:
    done = python(project, "-m", f"jinabert.{name}", "--version", places=())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("jinabert-runtime ")


@pytest.mark.parametrize("name", ["embed", "rerank", "bulk", "serve", "export"])
def test_console_scripts_are_not_hidden_by_a_projects_folders(project: Path, name: str) -> None:
    import tomllib

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, function = scripts[f"jinabert-{name}"].partition(":")
    script = project / "bin" / f"jinabert-{name}"
    script.parent.mkdir()
    script.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    done = python(project, script, "--help", places=(project,))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: jinabert-{name} ")


def test_vectors_come_from_the_other_name_too(tiny_folder: Path, project: Path) -> None:
    done = python(project, "-m", "jinabert.embed", "--model", tiny_folder, "a text", places=())
    assert (done.returncode, done.stderr) == (0, "")
    assert '"embedding"' in done.stdout
