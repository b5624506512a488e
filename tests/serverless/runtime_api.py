"""AWS Lambda's side of a function: its Runtime API on loopback, which awslambdaric talks to."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["Function", "FunctionError"]

VERSION = "/2018-06-01/runtime"
PATIENCE = 120.0  # seconds until a call counts as hung


class FunctionError(Exception):
    """What the function reported instead of an answer."""


class Function:
    """An execution environment: awslambdaric in a process of its own, started with the first call or with start()."""

    def __init__(
        self,
        folder: Path,
        *,
        handler: str = "runtime.handlers.aws_lambda",
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        memory: int = 1769,
        preexec: Any = None,
    ) -> None:
        """Start it.

        :param folder: what Lambda unpacks to /var/task.
        :param handler: name of the handler.
        :param python: interpreter that has awslambdaric.
        :param environment: variables of the function.
        :param memory: its memory size in megabytes; Lambda says so, nothing limits it.
        :param preexec: called in the new process, to put it into a control group.
        """
        self._events: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._answers: queue.Queue[tuple[str, str, bytes]] = queue.Queue()
        self._count = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._class())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        variables = {
            "PATH": os.environ["PATH"],
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
            "AWS_LAMBDA_FUNCTION_NAME": "embed",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory),
            "AWS_LAMBDA_LOG_FORMAT": "JSON",
            "LAMBDA_TASK_ROOT": str(folder),
            "_HANDLER": handler,
            "PYTHONDONTWRITEBYTECODE": "1",
            **(environment or {}),
        }
        self.process = subprocess.Popen(
            [python, "-m", "awslambdaric", handler],
            cwd=folder,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=preexec,
        )
        self._log: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def invoke(self, event: object) -> Any:
        """Invoke the function.

        :param event: becomes JSON.
        :return: the function's answer, from JSON.
        :raises FunctionError: it failed, or ended.
        """
        self._count += 1
        self._events.put((f"request-{self._count}", json.dumps(event).encode()))
        kind, _, body = self._answers.get(timeout=PATIENCE)
        if kind != "response":
            raise FunctionError(f"{kind}: {body.decode('utf-8', 'replace')}")
        return json.loads(body)

    def log(self) -> str:
        """Return what it printed."""
        return b"".join(self._log).decode("utf-8", "replace")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._log.append(line)

    def _watch(self) -> None:
        code = self.process.wait()
        self._reader.join()
        self._answers.put(("ended", "", f"exit {code}: {self.log()[-2000:]}".encode()))

    def close(self) -> None:
        """End the environment."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Function:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _class(self) -> type[BaseHTTPRequestHandler]:
        function = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                assert self.path == f"{VERSION}/invocation/next"
                name, event = function._events.get()
                self._reply(
                    200,
                    event,
                    {
                        "Lambda-Runtime-Aws-Request-Id": name,
                        "Lambda-Runtime-Deadline-Ms": "4102444800000",
                        "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-west-1:123456789012:function:embed",
                        "Lambda-Runtime-Trace-Id": "Root=1-00000000-000000000000000000000000;Sampled=0",
                    },
                )

            def do_POST(self) -> None:
                body = self._body()
                parts = self.path.removeprefix(f"{VERSION}/").split("/")
                self._reply(202, b'{"status":"OK"}', {})
                if parts[0] == "init":
                    function._answers.put(("init error", "", body))
                else:
                    function._answers.put((parts[2], parts[1], body))

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                pieces = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    pieces.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(pieces)

            def _reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler
