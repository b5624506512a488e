"""functions-framework serves the function, requests calls it."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime import Embedder
from tests.paths import ROOT

requests = pytest.importorskip("requests")
pytest.importorskip("functions_framework")

ORIGIN = "https://example.com"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the function, which answers."""
    from export.package.contents import MAIN

    source = tmp_path_factory.mktemp("function") / "main.py"
    source.write_text(MAIN, encoding="utf-8")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [
        str(Path(sys.executable).parent / "functions-framework"),
        f"--source={source}",
        "--target=google_cloud",
    ]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JINABERT_CORS_ORIGIN": ORIGIN,
        "WORKERS": "1",
        "THREADS": "1",
    }
    log = source.with_suffix(".log")
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--host=127.0.0.1", f"--port={port}"], env=environment, stdout=output, stderr=output
        )
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text(errors="replace")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(30)


def test_vectors_are_those_of_the_library(url: str) -> None:
    texts = ["How is the weather today?", "晴れ", ""]
    with Embedder(threads=1) as embedder:
        expected = embedder.encode(texts)
    for _ in range(2):
        reply = requests.post(
            url, json={"input": texts, "model": "any", "encoding_format": "base64"}, timeout=60
        )
        assert reply.status_code == 200
        assert reply.headers["Content-Type"] == "application/json"
        data = reply.json()["data"]
        vectors = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in data]
        np.testing.assert_array_equal(np.stack(vectors), expected)


def test_unnormalised_and_cut(url: str) -> None:
    request = {"input": "one two three four five", "max_length": 4, "normalized": False, "truncate": True}
    answer = requests.post(url, json=request, timeout=60).json()
    assert answer["usage"] == {"prompt_tokens": 4, "total_tokens": 4, "truncated_texts": 1}
    assert abs(np.linalg.norm(answer["data"][0]["embedding"]) - 1) > 1e-3


@pytest.mark.parametrize(
    ("method", "body", "status"),
    [
        ("POST", b"no json", 400),
        ("POST", b'{"input": 1}', 400),
        ("PUT", b"", 405),
        ("POST", b" " * ((4 << 20) + 1), 413),
    ],
)
def test_bad_requests(url: str, method: str, body: bytes, status: int) -> None:
    reply = requests.request(method, url, data=body, timeout=60)
    assert reply.status_code == status
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in reply.text


@pytest.mark.parametrize("path", ["", "health"])
def test_health_checks(url: str, path: str) -> None:
    assert requests.get(url + path, timeout=60).json() == {"status": "ok"}
    assert requests.head(url + path, timeout=60).status_code == 200


def test_a_browser_of_the_allowed_origin(url: str) -> None:
    reply = requests.options(
        url, headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}, timeout=60
    )
    assert reply.status_code == 204
    assert reply.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in reply.headers["Access-Control-Allow-Methods"]
    assert (
        requests.post(url, json={"input": "x"}, timeout=60).headers["Access-Control-Allow-Origin"] == ORIGIN
    )
