"""Every block of runtime/serve/README.md, in its order, as a reader pastes it; its tables name every option."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.api import requests, routes
from runtime.serve.__main__ import parser
from tests.paths import ROOT

pytest.importorskip("starlette")
pytest.importorskip("openai")

README = (ROOT / "runtime" / "serve" / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECONDS = 300


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where blocks run; services that a block that failed has left are ended."""
    yield tmp_path
    for file in tmp_path.glob("*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGTERM)


def test_every_block_works_when_pasted(folder: Path) -> None:
    text = README
    for port in ("8080", "8081"):  # which this machine may need for something else
        text = text.replace(port, str(free_port()))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    said = []
    for kind, code in BLOCK.findall(text):
        command = [sys.executable, "-c", code] if kind == "python" else ["bash", "-e", "-c", code]
        ended = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert ended.returncode == 0, f"{code}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}"
        said.append(ended.stdout)
    assert '{"status":"ok"}' in said[0]
    assert said[2].split() == ["2", "512", "7", "8"]


def test_every_option_is_described() -> None:
    options = {
        name for action in parser()._actions for name in action.option_strings if name.startswith("--")
    }
    assert not [name for name in options - {"--help", "--version"} if f"`{name}`" not in README]


def test_every_path_and_field_is_described() -> None:
    assert not [route.path for route in routes.ROUTES if f"{route.path}`" not in README]
    fields = [field.name for field in requests.EMBEDDING_REQUEST.fields if not field.ignored]
    main = [
        name
        for name in fields
        if not name.startswith(("return_", "output_", "embed_", "endian", "embedding_types"))
    ]
    assert not [name for name in main if f"`{name}" not in README]
