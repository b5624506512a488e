"""Programs in one file or folder find the bundled model: a zipapp, PyInstaller."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

from runtime import Embedder
from tests.paths import ROOT

PROGRAM = """
import json
import jinabert
from runtime import Embedder
from jinabert.integrations.sentence_transformers import SentenceTransformer

embedder = Embedder(threads=1)
assert jinabert.Embedder is Embedder
assert embedder.rerank("a", ["a text"])[0].score > 0
assert SentenceTransformer(threads=1).encode("a text").shape == (embedder.dimension,)
print(json.dumps(embedder.encode("a text").tolist()))
"""


def test_a_zipapp_unpacks_its_model_for_as_long_as_it_runs(tiny_folder: Path, tmp_path: Path) -> None:
    source, temporary = tmp_path / "source", tmp_path / "temporary"
    temporary.mkdir()
    for file in (ROOT / "runtime").rglob("*.py"):
        target = source / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    shutil.copytree(tiny_folder, source / "runtime" / "models" / "tiny")
    program = "import os, runtime\nvectors = [runtime.Embedder(threads=1).encode('a') for _ in range(2)]\n"
    program += "if os.fork() == 0:\n    raise SystemExit(0)\nos.wait()\n"
    program += "print(runtime.Embedder(threads=1).encode('a').shape)\n"
    (source / "__main__.py").write_text(program)
    zipapp.create_archive(source, tmp_path / "program.pyz")
    done = subprocess.run(
        [sys.executable, "program.pyz"],
        cwd=tmp_path,
        env={"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "(16,)"), done.stderr
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_pyinstaller(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    alias, hooks = ROOT / "runtime" / "alias", ROOT / "runtime" / "__pyinstaller"
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level=ERROR", "program.py"]
    command += [f"--paths={ROOT}", f"--paths={alias}", f"--additional-hooks-dir={hooks}"]
    command += [
        f"--exclude-module={name}" for name in ("torch", "transformers", "scipy", "matplotlib", "pandas")
    ]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{alias}"}
    made = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert made.returncode == 0, made.stderr
    run = [str(tmp_path / "dist" / "program" / "program")]
    done = subprocess.run(run, cwd="/", env={}, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    import json

    with Embedder(threads=1) as embedder:
        assert json.loads(done.stdout) == embedder.encode("a text").tolist()
