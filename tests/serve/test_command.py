"""The command line: what it says, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.serve.__main__ import main
from tests.paths import ROOT
from tests.serve.server import command, running


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A service that does not come to serve."""
    return subprocess.run(
        command(*options),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_help_names_paths_limits_and_signals() -> None:
    result = run("--help")
    assert result.returncode == 0
    for word in (
        "/v1/embeddings",
        "/embed",
        "/metrics",
        "--api-key-file",
        "SIGTERM",
        "JINABERT_API_KEY",
        "127.0.0.1",
    ):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threads", "0"], "--threads 0: must be at least 1"),
        (["--port", "70000"], "--port 70000: must be at most 65,535"),
        (["--max-queue-tokens", "10"], "less than --max-request-tokens (300000)"),
        (
            ["--api-key-file", "/nowhere"],
            "--api-key-file /nowhere: cannot be read (No such file or directory)",
        ),
        (["--model", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_options_are_one_line(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", "0", *options]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.startswith("python -m runtime.serve: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("content", ["", "# only a comment\n\n", "two words\n", "schlüssel\n"])
def test_key_files_without_a_usable_key(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys"
    file.write_text(content, encoding="utf-8")
    assert main(["--port", "0", "--api-key-file", str(file)]) == 2
    error = capsys.readouterr().err
    assert str(file) in error
    assert content.strip() not in error or not content.strip()


def test_an_address_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("--port", port)
    assert result.returncode == 1
    assert result.stderr.startswith(f"python -m runtime.serve: 127.0.0.1:{port}: cannot listen there (")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["msgspec", "prometheus_client", "starlette", "uvicorn", "zstandard"])
def test_without_the_extra_it_says_how_to_install_it(module: str) -> None:
    code = f"import sys, runpy; sys.modules[{module!r}] = None; runpy.run_module('runtime.serve', run_name='__main__')"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 2
    wanted = f'{module} is not installed: pip install "jinabert-runtime[serve]"'
    assert result.stderr == f"python -m runtime.serve: {wanted}\n"


def test_ctrl_c(tiny_folder: Path, tmp_path: Path) -> None:
    with running(tmp_path / "log", ["--model", str(tiny_folder), "--threads", "1"]) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 130
        assert server.log.read_text().count("\n") == 1


def test_it_listens_on_loopback_and_warns_elsewhere(tiny_folder: Path, tmp_path: Path) -> None:
    model = ["--model", str(tiny_folder), "--threads", "1"]
    with running(tmp_path / "log", model) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert server.log.read_text().count("\n") == 1
        assert server.stop() == 0
    for key, warned in (("", True), ("a-key", False)):
        environment = {"JINABERT_API_KEY": key}
        with running(tmp_path / "log", [*model, "--host", "0.0.0.0"], environment=environment) as server:
            assert server.stop() == 0
            assert ("anyone who reaches this address can use it" in server.log.read_text()) == warned
            assert "a-key" not in server.log.read_text()
