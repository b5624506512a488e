"""Blocks of a README, as a reader pastes them. ``python`` and ``bash`` are run; ``console`` needs what no test has."""

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

from tests.paths import ROOT

SECONDS = 600
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PORTS = ("8080", "8081", "8083")  # that READMEs name, which this machine may need for something else


def paste_all(readme: str, folder: Path, python: str = sys.executable, **environment: str) -> list[str]:
    """Run every block of a README in its order.

    :param readme: its text.
    :param folder: where they run.
    :param python: interpreter of the environment that they run in.
    :param environment: variables beside those of this process.
    :return: what each printed.
    """
    for port in PORTS:
        readme = readme.replace(port, str(_free_port()))
    said = []
    with _services_ended(folder):
        for kind, code in BLOCK.findall(readme):
            said.append(paste(kind, code, folder, python, **environment))
    return said


def paste(kind: str, code: str, folder: Path, python: str = sys.executable, **environment: str) -> str:
    """Run one block.

    :return: what it printed.
    """
    path = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        [python, "-c", code] if kind == "python" else ["bash", "-e", "-c", code],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, f"{code}\n{ended.stdout[-2000:]}{ended.stderr[-4000:]}"
    return ended.stdout


@contextlib.contextmanager
def _services_ended(folder: Path) -> Iterator[None]:
    """Services that a block that failed has left are ended."""
    try:
        yield
    finally:
        for file in folder.glob("*.pid"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
