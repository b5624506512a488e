"""The clients that people have: each asks a real service, with nothing set but its address."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import Embedder
from tests.bench.environments import python_of
from tests.serve.server import Server, running

openai = pytest.importorskip("openai")
CLIENTS = Path(__file__).parent / "clients"
TEXTS = ["How is the weather today?", "Bake the bread at 230 degrees.", "日本語"]
PACKAGES = ("openai@6", "ai@6", "@ai-sdk/openai-compatible@2", "@huggingface/inference@4")
SECONDS = 300


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With every default."""
    with running(
        tmp_path_factory.mktemp("clients") / "log", environment={"JINABERT_API_KEY": "the-key"}
    ) as server:
        yield server


@pytest.fixture(scope="module")
def expected(embedder: Embedder) -> NDArray[np.float32]:
    return embedder.encode(TEXTS)


def run(command: list[str], server: Server, folder: Path, **environment: str) -> Any:
    """What a program prints as JSON that is told the service's address, a key and texts."""
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        env={**os.environ, "URL": server.url, "KEY": "the-key", "TEXTS": json.dumps(TEXTS), **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_openai_for_python(service: Server, expected: NDArray[np.float32]) -> None:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="the-key", max_retries=0) as client:
        (model,) = client.models.list().data
        assert client.models.retrieve(model.id).id == model.id
        with pytest.raises(openai.NotFoundError, match=f"did you mean {model.id}"):
            client.models.retrieve(model.id[:-1])
        answer = client.embeddings.create(model=model.id, input=TEXTS)
        np.testing.assert_array_equal(np.float32([item.embedding for item in answer.data]), expected)
        raw = client.embeddings.with_raw_response.create(
            model="text-embedding-3-small", input=TEXTS, user="me"
        )
        assert raw.headers["X-Ignored-Fields"] == "model, user"
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as refused:
            client.embeddings.create(model=model.id, input=[[9906, 1917]])
        assert (refused.value.code, refused.value.param) == ("token_ids_refused", "input")


def test_what_langchain_sends_at_once_is_taken(tiny_folder: Path, tmp_path: Path) -> None:
    """1,000 chunks of 1,000 characters; how many tokens they have is what counts, not what they are computed with."""
    words = "hello world, "  # tokens of about the length that English ones have
    chunk = (words * 80)[:995]
    options = ["--model", str(tiny_folder), "--max-length", "8192"]
    with (
        running(tmp_path / "log", options) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=SECONDS) as client,
    ):
        answer = client.embeddings.create(model="any", input=[f"{n:4} {chunk}" for n in range(1000)])
        assert len(answer.data) == 1000
        assert answer.usage.total_tokens > 150_000
        assert len(client.embeddings.create(model="any", input=["a short text"] * 2048).data) == 2048


@pytest.mark.parametrize("name", ["litellm_client", "langchain_client"])
def test_clients_in_an_environment_of_their_own(
    service: Server, expected: NDArray[np.float32], tmp_path: Path, name: str
) -> None:
    found = run([python_of("clients"), str(CLIENTS / f"{name}.py")], service, tmp_path)
    np.testing.assert_array_equal(np.float32(found["vectors"]), expected)
    assert "check_embedding_ctx_length=False" in found["refused"]


def test_rerank_clients(service: Server, embedder: Embedder, tmp_path: Path) -> None:
    found = run([python_of("rerank-clients"), str(CLIENTS / "rerank_client.py")], service, tmp_path)
    wanted = [[each.index, each.score] for each in embedder.rerank(TEXTS[0], TEXTS, 2)]
    assert len(found) == 6
    for client, ranked in found.items():
        assert ranked == wanted, client


def test_huggingface_hub(service: Server, expected: NDArray[np.float32]) -> None:
    hub = pytest.importorskip("huggingface_hub")
    client = hub.InferenceClient(model=service.url, token="the-key")
    found = client.feature_extraction(TEXTS, normalize=True, truncate=True)
    np.testing.assert_array_equal(np.float32(found), expected)
    cosines = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS)
    np.testing.assert_allclose(cosines, expected @ expected[0], atol=1e-6)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the npm packages."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no node or npm: apt-get install nodejs npm")
    folder = tmp_path_factory.mktemp("node")
    for script in CLIENTS.glob("*.mjs"):
        shutil.copy(script, folder)
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", ["openai", "ai_sdk", "huggingface"])
def test_javascript_clients(
    service: Server, expected: NDArray[np.float32], packages: Path, name: str
) -> None:
    found = run(["node", f"{name}.mjs"], service, packages)
    np.testing.assert_array_equal(np.float32(found["vectors"]), expected)


def test_javas_client_offers_http_2(service: Server, expected: NDArray[np.float32], tmp_path: Path) -> None:
    """It asks for an upgrade to HTTP/2 with its first request, whichever parsers are installed."""
    if shutil.which("java") is None:
        pytest.skip("no java: apt-get install openjdk-17-jdk-headless")
    lines = service.log.read_text().count("\n")
    found = run(["java", str(CLIENTS / "Client.java")], service, tmp_path)
    assert service.log.read_text().count("\n") == lines  # nothing to warn of
    np.testing.assert_array_equal(np.float32(found), expected)


def test_curl_with_a_compressed_body(service: Server, expected: NDArray[np.float32], tmp_path: Path) -> None:
    import gzip

    import zstandard

    httpx = pytest.importorskip("httpx")
    body = json.dumps({"input": TEXTS}).encode()
    for name, packed in (("gzip", gzip.compress(body)), ("zstd", zstandard.compress(body))):
        headers = {
            "Content-Type": "application/json",
            "Content-Encoding": name,
            "Authorization": "Bearer the-key",
        }
        answer = httpx.post(f"{service.url}/v1/embeddings", content=packed, headers=headers, timeout=SECONDS)
        assert answer.status_code == 200, answer.text
        found = np.float32([item["embedding"] for item in answer.json()["data"]])
        np.testing.assert_array_equal(found, expected)


def test_a_small_body_that_unpacks_to_much_is_refused(service: Server) -> None:
    import zstandard

    httpx = pytest.importorskip("httpx")
    bomb = zstandard.compress(b" " * (1 << 30))
    headers = {
        "Content-Type": "application/json",
        "Content-Encoding": "zstd",
        "Authorization": "Bearer the-key",
    }
    answer = httpx.post(f"{service.url}/v1/embeddings", content=bomb, headers=headers, timeout=SECONDS)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    with open(f"/proc/{service.process.pid}/status", encoding="ascii") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
    assert peak < 1 << 20  # kilobytes: a gigabyte was never there
