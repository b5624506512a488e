"""A program made by PyInstaller finds the bundled model and the modules that load on first use."""

from __future__ import annotations

import os
import subprocess
import sys
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
