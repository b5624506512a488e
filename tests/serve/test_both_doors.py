"""requests.json against both doors, the service and the functions: the same status, the same bytes."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Embedder
from runtime.api.routes import BY_PATH

pytest.importorskip("starlette")
pytest.importorskip("httpx")

CASES = json.loads((Path(__file__).parent / "requests.json").read_text(encoding="utf-8"))
CASES += [  # too large to be written down
    {
        "name": "too many texts",
        "method": "POST",
        "path": path,
        "body": {name: ["a"] * 2049},
        "status": 413,
        "words": "2,049 texts, more than 2,048: split the request",
        **(
            {"error_type": "Validation"} if name == "inputs" else {"code": "too_many_texts", "param": "input"}
        ),
    }
    for path, name in (("/v1/embeddings", "input"), ("/embed", "inputs"))
]
CASES += [
    {"method": "POST", "path": "/v1/embeddings", **case}
    for case in (
        {"name": "a deep list", "body": "[" * 100_000, "status": 400, "code": "invalid_json"},
        {"name": "bytes", "body": '{"input": "' + "a" * (4 << 20), "status": 413, "code": "request_too_large"},
        {"name": "gzip that becomes too much", "body": "hex:" + gzip.compress(b" " * 5_000_000).hex(), "status": 413,
         "code": "request_too_large", "headers": {"content-encoding": "gzip"}},
    )
]  # fmt: skip
COMMON = ("allow", "x-ignored-fields", "accept-encoding")  # headers that say the same at both doors


@pytest.fixture(scope="module")
def ask(tiny_folder: Path) -> Iterator[Callable[..., tuple[Any, Any]]]:
    """Asks both doors, and gives status, headers and body of each."""
    from runtime.handlers import aws
    from runtime.handlers.service import Service
    from runtime.handlers.settings import from_environment
    from tests.serve.conftest import Local

    served = Local(tiny_folder)
    function = Service(from_environment({"JINABERT_MODEL": str(tiny_folder), "JINABERT_MEMORY_MB": "0"}))

    def both(method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[Any, Any]:
        headers = {"content-type": "application/json", **headers}
        answer = served.ask(method, path, content=body, headers=headers)
        event = {
            "version": "2.0",
            "rawPath": path,
            "headers": headers,
            "requestContext": {"http": {"method": method, "path": path}},
            "body": base64.b64encode(body).decode(),
            "isBase64Encoded": True,
        }
        reply = aws.respond(function, event)
        other = {name.lower(): value for name, value in reply["headers"].items()}
        return (answer.status_code, answer.headers, answer.content), (
            reply["statusCode"],
            other,
            reply["body"].encode(),
        )

    yield both
    served.engine.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_both_doors_answer_alike(ask: Callable[..., tuple[Any, Any]], case: dict[str, Any]) -> None:
    given = case["body"]
    body = given if isinstance(given, str) else json.dumps(given)
    content = bytes.fromhex(body[4:]) if body.startswith("hex:") else body.encode()
    served, function = ask(case["method"], case["path"], content, case.get("headers", {}))
    assert served[0] == function[0] == case["status"], (served, function)
    assert served[2] == function[2]
    for name in COMMON:
        if name != "accept-encoding":  # the service reads zstd too
            assert served[1].get(name) == function[1].get(name)
    assert served[1].get("x-ignored-fields") == case.get("ignored")
    if case["method"] == "HEAD":
        assert served[2] == b""
        return
    answer = json.loads(served[2])
    if case["status"] == 200:
        return
    if "error_type" in case:
        assert set(answer) == {"error", "error_type"}
        assert answer["error_type"] == case["error_type"]
        message = answer["error"]
    else:
        assert set(answer) == {"error"}
        error = answer["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert (error["code"], error["param"]) == (case["code"], case.get("param"))
        message = error["message"]
    assert case.get("words", "") in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("request_", "texts", "options"),
    [
        ({"input": ["hello", "world, abc"]}, ["hello", "world, abc"], {}),
        ({"input": "hello", "normalized": False}, ["hello"], {"normalize": False}),
        ({"input": "hello", "encoding_format": "base64"}, ["hello"], {}),
        ({"input": "hello world hello", "max_length": 4}, ["hello world hello"], {"max_length": 4}),
        ({"input": '"a" \ud83d'}, ['"a" \ud83d'], {}),
        ({"input": "a " * 10 + "z " * 40, "truncate": "START"}, ["z " * 30], {}),
    ],
)
def test_vectors_are_those_of_the_library(
    ask: Callable[..., tuple[Any, Any]],
    tiny: Embedder,
    request_: dict[str, Any],
    texts: list[str],
    options: dict[str, Any],
) -> None:
    for status, _, body in ask("POST", "/v1/embeddings", json.dumps(request_).encode(), {}):
        assert status == 200
        values = [item["embedding"] for item in json.loads(body)["data"]]
        found = [
            np.frombuffer(base64.b64decode(value), "<f4") if isinstance(value, str) else np.float32(value)
            for value in values
        ]
        np.testing.assert_array_equal(np.array(found), tiny.encode(texts, **options))


def test_late_chunking_is_that_of_the_library(ask: Callable[..., tuple[Any, Any]], tiny: Embedder) -> None:
    parts = ["hello world", "abc", "world hello"]
    whole = " ".join(parts)
    spans = [(whole.index(part), whole.index(part) + len(part)) for part in parts]
    wanted = np.array([chunk.vector for chunk in tiny.encode_chunks(whole, spans=spans)])
    body = json.dumps({"input": parts, "late_chunking": True}).encode()
    for _, _, answer in ask("POST", "/v1/embeddings", body, {}):
        document = json.loads(answer)
        np.testing.assert_array_equal(np.float32([item["embedding"] for item in document["data"]]), wanted)
        assert document["usage"]["total_tokens"] == tiny.count_tokens(whole)


def test_reranked_documents_are_those_of_the_library(
    ask: Callable[..., tuple[Any, Any]], tiny: Embedder
) -> None:
    documents = ["abc", "hello world", "world, hello a", "", "hello world"]
    wanted = tiny.rerank("hello a", documents)
    body = {"query": "hello a", "documents": documents, "return_spans": True, "return_documents": True}
    for _, _, answer in ask("POST", "/v1/rerank", json.dumps(body).encode(), {}):
        results = json.loads(answer)["results"]
        assert [(each["index"], each["relevance_score"]) for each in results] == [
            (each.index, each.score) for each in wanted
        ]
        assert [each["document"]["text"] for each in results] == [documents[each.index] for each in wanted]
        assert [each["span"] for each in results] == [
            {"start": each.start, "end": each.end} for each in wanted
        ]
    body = {"query": "hello a", "texts": documents}
    for _, _, answer in ask("POST", "/rerank", json.dumps(body).encode(), {}):
        found = [(each["index"], each["score"]) for each in json.loads(answer)]
        assert found == [(each.index, each.score) for each in wanted]


def test_a_cross_encoder_ranks_and_gives_no_vectors(tmp_path: Path) -> None:
    from runtime import Reranker
    from runtime.handlers.service import Service
    from runtime.handlers.settings import from_environment
    from tests.serve.conftest import Local
    from tests.tiny import make_cross_encoder

    folder = make_cross_encoder(tmp_path / "cross")
    documents = ["abc", "hello world", "hello"]
    with Reranker(folder, threads=1) as reranker:
        wanted = reranker.rerank("hello", documents)
    served = Local(folder)
    function = Service(from_environment({"JINABERT_MODEL": str(folder), "JINABERT_MEMORY_MB": "0"}))
    try:
        for body in (
            {"query": "hello", "texts": documents, "raw_scores": True},
            {"query": "hello", "texts": documents},
        ):
            answer = served.ask("POST", "/rerank", json=body)
            _, reply = function.respond(BY_PATH["POST", "/rerank"].prepare, body)
            assert answer.content == reply
            scores = [each["score"] for each in answer.json()]
            assert [each["index"] for each in answer.json()] == [each.index for each in wanted]
            logits = np.array([each.score for each in wanted])
            expected = logits if body.get("raw_scores") else 1 / (1 + np.exp(-logits))
            np.testing.assert_allclose(scores, expected, rtol=1e-6)
        refused = served.ask("POST", "/v1/embeddings", json={"input": "hello"})
        assert refused.status_code == 400
        assert "POST /v1/rerank" in refused.json()["error"]["message"]
        assert set(served.ask("GET", "/info").json()["model_type"]) == {"reranker"}
    finally:
        served.engine.close()


def test_token_vectors_are_those_of_the_library(ask: Callable[..., tuple[Any, Any]], tiny: Embedder) -> None:
    texts = ["hello", "", "abc world", "a a"]
    for status, _, body in ask("POST", "/embed_all", json.dumps({"inputs": texts}).encode(), {}):
        assert status == 200
        for text, found in zip(texts, json.loads(body), strict=True):
            np.testing.assert_array_equal(np.float32(found), tiny.encode_tokens(text).vectors)
