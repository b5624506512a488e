"""What the service does when there is too much to do, when a client leaves, and when it is told to end."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Embedder
from tests.serve.server import Server, running

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")

TOKENS = 3000  # of a document: computed long enough for others to come meanwhile
DOCUMENT = "word " * (TOKENS - 2)
SECONDS = 300  # far more than it takes, for machines that do other things too


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Server]:
    """A service that has room for one document."""
    limit = str(TOKENS + 100)
    options = ["--max-queue-tokens", limit, "--max-request-tokens", limit]
    with running(tmp_path / "log", options) as server:
        yield server


def metric(server: Server, name: str) -> float:
    """The value of one of the service's metrics."""
    lines = httpx.get(f"{server.url}/metrics", timeout=SECONDS).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def wait(condition: Callable[[], bool]) -> None:
    """Until it holds."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def post(server: Server, text: str, timeout: float = SECONDS) -> Any:
    return httpx.post(f"{server.url}/v1/embeddings", json={"input": text}, timeout=timeout)


def in_background(server: Server, text: str) -> tuple[threading.Thread, list[Any]]:
    """Ask in a thread.

    :return: the thread, and where its answer will be.
    """
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(post(server, text)))
    thread.start()
    return thread, answers


def test_a_full_queue_answers_429_and_short_queries_pass_a_document(
    small: Server, embedder: Embedder
) -> None:
    thread, answers = in_background(small, DOCUMENT)
    wait(lambda: metric(small, 'jinabert_queue_tokens{queue="long"}') == TOKENS)
    refused = post(small, DOCUMENT)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert (refused.json()["error"]["type"], refused.json()["error"]["code"]) == (
        "rate_limit_error",
        "overloaded",
    )
    tei = httpx.post(f"{small.url}/embed", json={"inputs": DOCUMENT}, timeout=SECONDS)
    assert (tei.status_code, tei.json()["error_type"]) == (429, "Overloaded")
    short = post(small, "How is the weather today?")
    assert short.status_code == 200
    assert not answers  # the document is still being computed, and did not hold up the query
    with openai.OpenAI(base_url=f"{small.url}/v1", api_key="none", max_retries=20, timeout=SECONDS) as client:
        retried = client.embeddings.create(model="any", input=DOCUMENT)  # after the time it was told
    thread.join()
    for found in (answers[0].json()["data"][0]["embedding"], retried.data[0].embedding):
        np.testing.assert_array_equal(np.float32(found), embedder.encode(DOCUMENT))
    assert metric(small, "jinabert_refused_requests_total") >= 2


def test_what_a_client_no_longer_waits_for_is_not_computed(tmp_path: Path) -> None:
    with running(tmp_path / "log") as server:
        thread, answers = in_background(server, DOCUMENT)
        wait(lambda: metric(server, 'jinabert_queue_tokens{queue="long"}') == TOKENS)
        body = json.dumps({"input": [DOCUMENT, "and a short one"]}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait(lambda: metric(server, 'jinabert_queue_tokens{queue="long"}') == 2 * TOKENS)
        wait(lambda: metric(server, "jinabert_cancelled_requests_total") == 1)
        assert metric(server, 'jinabert_queue_tokens{queue="long"}') == TOKENS
        thread.join()
        assert answers[0].status_code == 200
        wait(lambda: metric(server, "jinabert_queue_tokens") == 0)
        assert metric(server, 'jinabert_tokens_total{queue="long"}') == TOKENS
        assert metric(server, 'jinabert_requests_total{path="/v1/embeddings",status="499"}') == 1
        assert server.log.read_text().count("\n") == 1


def test_sigterm_answers_what_is_in_flight_and_nothing_new(tmp_path: Path, embedder: Embedder) -> None:
    with running(tmp_path / "log", ["--drain-seconds", str(SECONDS)]) as server:
        idle = http.client.HTTPConnection("127.0.0.1", server.port)
        idle.request("GET", "/health")
        idle.getresponse().read()
        thread, answers = in_background(server, DOCUMENT)
        wait(lambda: metric(server, 'jinabert_queue_tokens{queue="long"}') == TOKENS)
        assert server.stop() == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))
        thread.join()
        idle.close()
        assert answers[0].status_code == 200
        vector = np.float32(answers[0].json()["data"][0]["embedding"])
        np.testing.assert_array_equal(vector, embedder.encode(DOCUMENT))
        assert server.log.read_text().count("\n") == 1  # nothing but where it listened


def test_what_takes_longer_than_the_drain_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with running(tmp_path / "log", ["--drain-seconds", "0"]) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            body = json.dumps({"input": ["word " * 8000] * 8}).encode()
            head = "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait(lambda: metric(server, 'jinabert_queue_tokens{queue="long"}') > 60_000)
            assert server.stop() == 0
            answer = connection.recv(1 << 16).decode()
        assert answer.startswith("HTTP/1.1 503 ")
        assert '"code":"ending"' in answer
        assert "Traceback" not in server.log.read_text()


def test_new_connections_are_refused_while_it_drains(tmp_path: Path) -> None:
    with running(tmp_path / "log", ["--drain-seconds", str(SECONDS)]) as server:
        thread, answers = in_background(server, DOCUMENT)
        wait(lambda: metric(server, 'jinabert_queue_tokens{queue="long"}') == TOKENS)
        server.process.terminate()

        def refused() -> bool:
            try:
                socket.create_connection(("127.0.0.1", server.port)).close()
            except ConnectionRefusedError:
                return True
            return False

        wait(refused)
        assert server.process.poll() is None  # it goes on for the document
        thread.join()
        assert answers[0].status_code == 200
        assert server.process.wait(SECONDS) == 0
