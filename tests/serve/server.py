"""A service in a process of its own, on a free loopback port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.paths import ROOT

START_SECONDS, STOP_SECONDS = 120, 300


@dataclass
class Server:
    """One that runs."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path  # its standard output and error, first line included

    @property
    def port(self) -> int:
        """It listens on 127.0.0.1 there."""
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def stop(self) -> int:
        """Send SIGTERM.

        :return: exit status.
        """
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


def command(*options: str) -> list[str]:
    """Return what starts a service with these options."""
    return [sys.executable, "-m", "runtime.serve", "--port", "0", *options]


@contextlib.contextmanager
def running(
    log: Path,
    options: Sequence[str] = (),
    *,
    environment: dict[str, str] | None = None,
    preexec: Callable[[], None] | None = None,
) -> Iterator[Server]:
    """Start a service, and end it afterwards.

    :param log: file for what it prints.
    :param options: of its command line.
    :param environment: on top of this process's.
    :param preexec: called in the new process first.
    :return: the service, which listens.
    """
    with log.open("w") as stream:
        process = subprocess.Popen(
            command(*options),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "JINABERT_API_KEY": "", **(environment or {})},
            preexec_fn=preexec,
            start_new_session=preexec is not None,  # Linux weighs priorities within a session
        )
        try:
            yield Server(process, _url(process, log), log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where it listens, as soon as it does."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        url = log.read_text().partition(" on ")[2].partition("\n")[0]
        if url:
            parts = urlsplit(url)
            with (
                contextlib.suppress(ConnectionRefusedError),
                socket.create_connection((parts.hostname, parts.port)),
            ):
                return url
        time.sleep(0.05)
    raise AssertionError(f"the service did not start: {log.read_text()}")
