"""The command line in processes of its own, in whatever place a test makes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.paths import ROOT

TIMEOUT = 120  # seconds until a process counts as hung


def environment(**changes: str) -> dict[str, str]:
    """This process's, with the checkout importable."""
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | changes


def run(
    *arguments: str | Path,
    code: str | None = None,
    before: Sequence[str | Path] = (),
    flags: Sequence[str] = (),
    data: bytes | None = None,
    env: Mapping[str, str] | None = None,
    folder: Path = ROOT,
) -> subprocess.CompletedProcess[bytes]:
    """Run `python -m runtime.embed ARGUMENTS`, or code.

    :param arguments: of the program.
    :param code: Python to run instead of runtime.embed.
    :param before: what comes before Python: strace and its arguments.
    :param flags: of Python.
    :param data: standard input.
    :param env: the whole environment; None for environment().
    :param folder: where it runs.
    :return: exit status, output and errors as bytes.
    """
    program = ["-c", code] if code is not None else ["-m", "runtime.embed"]
    return subprocess.run(
        [*map(str, before), sys.executable, *flags, *program, *map(str, arguments)],
        input=data,
        stdin=subprocess.DEVNULL if data is None else None,
        capture_output=True,
        env=environment() if env is None else env,
        cwd=folder,
        timeout=TIMEOUT,
        check=False,
    )
