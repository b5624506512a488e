"""A hub on this machine: the answers of the real one's API to huggingface_hub, from folders on disk.

What of the API is there: a model's files and commit (``/api/models/NAME[/revision/R]``), and files
(``/NAME/resolve/R/PATH``) with ETag, commit and size, large ones by a redirect to another path as the hub sends them
to its storage; the errors of repositories that are gated, missing or disabled, and of tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

__all__ = ["COMMIT", "OTHER_COMMIT", "Hub", "serve"]

COMMIT, OTHER_COMMIT = "a1" * 20, "b2" * 20
LARGE = (".safetensors", ".bin", ".onnx", ".h5", ".gguf")  # kept in LFS
API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?")
RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
STORED = re.compile(r"/storage/([^/]+/[^/]+)/(.+)")


@dataclass
class Hub:
    """What the server has, does, and was asked."""

    folders: dict[str, Path]  # name of a repository -> its files
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, "v2": OTHER_COMMIT})
    trouble: dict[str, str] = field(default_factory=dict)  # name -> "gated", "disabled", "token", "busy"
    drops: Counter[str] = field(default_factory=Counter)  # path -> how many more times the connection breaks
    asked: list[tuple[str, str]] = field(default_factory=list)  # method and path
    port: int = 0

    @property
    def fetched(self) -> set[str]:
        """Paths of the files whose content was sent."""
        found = (
            RESOLVE.fullmatch(path) or STORED.fullmatch(path)
            for method, path in self.asked
            if method == "GET"
        )
        return {match[match.re.groups] for match in found if match}


@contextmanager
def serve(hub: Hub) -> Iterator[str]:
    """Run a hub.

    :param hub: what it has.
    :return: its address, for ``HF_ENDPOINT``.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = unquote(self.path.partition("?")[0])
            hub.asked.append((self.command, path))
            if match := API.fullmatch(path):
                self.describe(match[1], match[2] or "main")
            elif match := RESOLVE.fullmatch(path):
                self.resolve(match[1], match[2], match[3])
            elif match := STORED.fullmatch(path):
                self.content(path, hub.folders[match[1]] / match[2], {})
            else:
                self.send(404, {}, b"")

        def refused(self, name: str, revision: str, *, files: bool) -> bool:
            trouble = hub.trouble.get(name)
            if name not in hub.folders:  # as for a private one
                self.fail(401, "RepoNotFound", "Repository not found")
            elif trouble == "gated" and files:
                self.fail(403, "GatedRepo", f"Access to model {name} is restricted")
            elif trouble == "disabled":
                self.fail(403, None, "Access to this resource is disabled.")
            elif trouble == "token":
                self.fail(401, None, "Invalid credentials in Authorization header")
            elif trouble == "busy":
                self.fail(503, None, "Service unavailable")
            elif revision not in hub.revisions and revision not in hub.revisions.values():
                self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            else:
                return False
            return True

        def describe(self, name: str, revision: str) -> None:
            if self.refused(name, revision, files=False):
                return
            folder = hub.folders[name]
            files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
            document = {
                "id": name,
                "modelId": name,
                "sha": hub.revisions.get(revision, revision),
                "private": False,
                "gated": "manual" if hub.trouble.get(name) == "gated" else False,
                "disabled": False,
                "downloads": 1,
                "likes": 0,
                "tags": [],
                "siblings": [{"rfilename": file} for file in files],
            }
            self.send(200, {"Content-Type": "application/json"}, json.dumps(document).encode())

        def resolve(self, name: str, revision: str, path: str) -> None:
            if self.refused(name, revision, files=True):
                return
            file = hub.folders[name] / path
            if not file.is_file():
                self.fail(404, "EntryNotFound", "Entry not found")
                return
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            headers = {"X-Repo-Commit": hub.revisions.get(revision, revision), "Accept-Ranges": "bytes"}
            if not path.endswith(LARGE):
                self.content(self.path, file, {**headers, "ETag": f'"{digest[:40]}"'})
                return
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(file.stat().st_size)}
            place = f"http://127.0.0.1:{hub.port}/storage/{name}/{path}"
            self.send(302, {**headers, "Location": place, "ETag": '"of-the-redirect"'}, b"")

        def content(self, path: str, file: Path, headers: dict[str, str]) -> None:
            data, status = file.read_bytes(), 200
            if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
                first = int(wanted[1])
                headers = {**headers, "Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
                data, status = data[first:], 206
            if self.command == "GET" and hub.drops[file.name] > 0:
                hub.drops[file.name] -= 1
                self.send(status, headers, data, send=len(data) // 2)
                self.connection.close()
                return
            self.send(status, headers, data)

        def fail(self, status: int, code: str | None, message: str) -> None:
            headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
            self.send(status, headers, json.dumps({"error": message}).encode())

        def send(self, status: int, headers: dict[str, str], body: bytes, send: int | None = None) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:send])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{hub.port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
