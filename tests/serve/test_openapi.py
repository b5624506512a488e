"""The OpenAPI document against the service: schemathesis draws requests that fit it, and some that do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.server import running

pytest.importorskip("starlette")
pytest.importorskip("schemathesis")

KEY = "open-sesame"
OPERATIONS = 16  # schemathesis leaves out GET /openapi.json, where it got the document


@pytest.mark.parametrize("key", [None, KEY], ids=["open", "with a key"])
def test_the_service_does_what_its_document_says(tiny_folder: Path, tmp_path: Path, key: str | None) -> None:
    # A text that fits the document may be longer than the 32 tokens of the tiny model.
    options = ["--model", str(tiny_folder), "--threads", "1", "--max-length", "8192"]
    with running(tmp_path / "log", options, environment={"JINABERT_API_KEY": key or ""}) as server:
        command = [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            f"{server.url}/openapi.json",
            "--no-color",
        ]
        command += ["--checks", "all", "--phases", "examples,coverage,fuzzing", "--max-examples", "50"]
        command += ["--generation-deterministic"]
        if key is not None:
            command += ["--header", f"Authorization: Bearer {key}"]
        result = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert f"{OPERATIONS} selected / {OPERATIONS} total" in result.stdout, result.stdout
        assert server.process.poll() is None
    assert "error" not in (tmp_path / "log").read_text()
