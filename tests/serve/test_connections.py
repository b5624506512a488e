"""Connections: many that wait, slow ones, some that are cut; other origins; what load balancers ask."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.server import Server, running

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette")

ORIGIN = "https://app.example"
BODY = json.dumps({"input": "hello"}).encode()
SECONDS = 120


@pytest.fixture(scope="module")
def server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = [
        "--model",
        str(tiny_folder),
        "--threads",
        "1",
        "--cors-origin",
        ORIGIN,
        "--cors-origin",
        "https://b.example",
    ]
    log = tmp_path_factory.mktemp("connections") / "log"
    with running(log, options, environment={"JINABERT_API_KEY": "the-key"}) as found:
        yield found


def head(path: str = "/v1/embeddings", length: int = len(BODY), **headers: str) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        "Authorization: Bearer the-key",
    ]
    lines += [
        f"Content-Length: {length}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def answer(connection: socket.socket) -> bytes:
    """One response with a length."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(1 << 16)
        assert piece, data
        data += piece
    top, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in top.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(1 << 16)
    return top


def test_a_thousand_clients_that_keep_their_connection(server: Server) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    connections = []
    try:
        for _ in range(1000):
            connections.append(socket.create_connection(("127.0.0.1", server.port), SECONDS))
            connections[-1].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        for connection in connections:
            assert answer(connection).startswith(b"HTTP/1.1 200")
        others = httpx.post(
            f"{server.url}/v1/embeddings", content=BODY, timeout=SECONDS,
            headers={"Content-Type": "application/json", "Authorization": "Bearer the-key"},
        )  # fmt: skip
        assert others.status_code == 200
        for connection in connections[::100]:  # they are still there
            connection.sendall(head() + BODY)
            assert answer(connection).startswith(b"HTTP/1.1 200")
    finally:
        for connection in connections:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_client_that_sends_byte_by_byte(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
        for byte in head() + BODY:
            connection.sendall(bytes([byte]))
            time.sleep(0.001)
        assert answer(connection).startswith(b"HTTP/1.1 200")


def test_a_client_that_reads_slowly(server: Server) -> None:
    body = json.dumps({"input": ["hello"] * 2000, "encoding_format": "float"}).encode()
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(head(length=len(body)) + body)
        time.sleep(0.5)
        assert httpx.get(f"{server.url}/health", timeout=SECONDS).status_code == 200  # nobody else waits
        assert answer(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [head()[:40], head(), head() + BODY[:-3], head(length=10_000) + BODY * 100])
def test_a_request_that_is_cut_in_the_middle(server: Server, sent: bytes) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
            connection.sendall(sent)
    answered = httpx.get(f"{server.url}/health", timeout=SECONDS)
    assert answered.status_code == 200
    lines = server.log.read_text().splitlines()[1:]
    assert not [line for line in lines if "Traceback" in line or "internal error" in line]


@pytest.fixture(scope="module")
def hurried(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that waits a second for a head, and as long for a body."""
    options = ["--model", str(tiny_folder), "--threads", "1", "--read-seconds", "1"]
    with running(tmp_path_factory.mktemp("hurried") / "log", options) as found:
        yield found


def everything(connection: socket.socket) -> bytes:
    """What comes until the service closes the connection, while a byte is sent now and then."""
    data = b""
    connection.settimeout(0.3)
    while True:
        try:
            piece = connection.recv(1 << 16)
            if not piece:
                return data
            data += piece
        except TimeoutError:
            try:
                connection.sendall(b"x")
            except (BrokenPipeError, ConnectionResetError):
                return data
        except ConnectionResetError:
            return data


HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"G", b"request_timeout"),
        (HEALTH + b"X-Slow: ", b"request_timeout"),
        (head()[:-2] + b"X-Slow: ", b"request_timeout"),
        (head(length=1000) + b'{"input": "', b"body_timeout"),
        (head("/embed", length=1000), b"body took longer than 1 s"),
        (head()[:-2] + b"Transfer-Encoding: chunked\r\n\r\n5\r\n", b"body_timeout"),
    ],
)
def test_a_request_that_does_not_end(hurried: Server, sent: bytes, code: bytes) -> None:
    if b"chunked" in sent:
        sent = sent.replace(f"Content-Length: {len(BODY)}\r\n".encode(), b"")
    with socket.create_connection(("127.0.0.1", hurried.port), SECONDS) as connection:
        connection.sendall(sent)
        answered = everything(connection)
    assert answered.startswith(b"HTTP/1.1 408")
    assert code in answered
    assert b"connection: close" in answered.lower()
    assert len(answered.partition(b"\r\n\r\n")[2].splitlines()) == 1


@pytest.mark.parametrize(
    "sent",
    [
        HEALTH + b"\r\nGET /slow",  # a second head after an answer
        HEALTH + b"Content-Length: 1000\r\n\r\nx",  # a body that nobody reads
    ],
)
def test_a_request_that_does_not_end_after_an_answer(hurried: Server, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", hurried.port), SECONDS) as connection:
        connection.sendall(sent)
        answered = everything(connection)
    assert answered.startswith(b"HTTP/1.1 200")
    assert (b"HTTP/1.1 408" in answered) == (b"/slow" in sent)


def test_slow_requests_hold_nobody_up(hurried: Server) -> None:
    connections = [socket.create_connection(("127.0.0.1", hurried.port), SECONDS) for _ in range(200)]
    for number, connection in enumerate(connections):
        connection.sendall((HEALTH, head(length=1000))[number % 2])
    assert httpx.post(f"{hurried.url}/embed", json={"inputs": "a"}, timeout=SECONDS).status_code == 200
    for connection in connections:
        with connection:
            assert answer(connection).startswith(b"HTTP/1.1 408")


def test_what_is_no_request(hurried: Server) -> None:
    for sent in (b"\x16\x03\x01 hello\r\n\r\n", HEALTH + b"no colon\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", hurried.port), SECONDS) as connection:
            connection.sendall(sent)
            top, _, body = everything(connection).partition(b"\r\n\r\n")
        assert top.startswith(b"HTTP/1.1 400")
        assert json.loads(body)["error"]["code"] == "invalid_http"


def test_an_answer_that_nobody_reads() -> None:
    """The connection ends; one that reads slowly goes on."""
    from unittest.mock import Mock

    from runtime.serve.connection import connection_class
    from runtime.serve.settings import ServerSettings

    made = connection_class(ServerSettings())

    def ends(*left: int) -> bool:
        connection = Mock(loop=Mock(call_later=lambda _, check: check()))  # time flies
        connection.transport.get_write_buffer_size.side_effect = left
        connection._time_writing = lambda left: made._time_writing(connection, left)
        connection._time_writing(100)
        return bool(connection.transport.abort.called)

    assert not ends(90, 50, 0)
    assert ends(90, 90)


def test_a_browser_may_ask_from_the_origins_it_was_told(server: Server) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    wanted = "authorization,content-type,x-stainless-lang"
    for path in ("/v1/embeddings", "/embed", "/v1/models"):
        answered = httpx.options(
            f"{server.url}{path}", headers={**asked, "Access-Control-Request-Headers": wanted}
        )
        assert (answered.status_code, answered.content) == (204, b"")
        assert answered.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert answered.headers["Access-Control-Allow-Headers"] == wanted
        assert "POST" in answered.headers["Access-Control-Allow-Methods"]
    refused = httpx.post(f"{server.url}/v1/embeddings", json={}, headers={"Origin": "https://b.example"})
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, "https://b.example")
    assert "Retry-After" in refused.headers["Access-Control-Expose-Headers"]
    other = httpx.get(f"{server.url}/health", headers={"Origin": "https://c.example"})
    assert "Access-Control-Allow-Origin" not in other.headers
    assert other.headers["Vary"] == "Origin"


def test_without_the_option_there_is_no_cors(tiny_folder: Path, local: Callable[..., Any]) -> None:
    service = local(tiny_folder)
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    answered = service.ask("OPTIONS", "/v1/embeddings", headers=asked)
    assert answered.status_code == 405
    assert not [name for name in answered.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/health", "/ping", "/docs", "/openapi.json", "/api-doc/openapi.json"])
def test_get_and_head_without_a_key(server: Server, path: str) -> None:
    got = httpx.get(f"{server.url}{path}", timeout=SECONDS)
    only_head = httpx.head(f"{server.url}{path}", timeout=SECONDS)
    assert (got.status_code, only_head.status_code, only_head.content) == (200, 200, b"")
    assert only_head.headers["Content-Length"] == str(len(got.content))
    assert httpx.post(f"{server.url}/", json={"input": "a"}, timeout=SECONDS).status_code == 401


def test_options_of_text_embeddings_inference(tiny_folder: Path, tmp_path: Path) -> None:
    options = ["--model-id", str(tiny_folder), "--hostname", "127.0.0.1", "--max-client-batch-size", "3"]
    options += ["--max-concurrent-requests", "7", "--api-key", "a-key", "--payload-limit", "1000"]
    with running(tmp_path / "log", options) as server:
        info = httpx.get(
            f"{server.url}/info", headers={"Authorization": "Bearer a-key"}, timeout=SECONDS
        ).json()
        assert (info["model_id"], info["max_client_batch_size"], info["max_concurrent_requests"]) == (
            "tiny",
            3,
            7,
        )
        assert httpx.get(f"{server.url}/info", timeout=SECONDS).status_code == 401


def test_an_origin_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    from runtime.serve.__main__ import main

    assert main(["--port", "0", "--cors-origin", "example.com"]) == 2
    assert (
        "--cors-origin example.com: must be an origin such as https://example.com" in capsys.readouterr().err
    )
