"""awslambdaric, the client that AWS runs, against a Runtime API on loopback: cold, warm, every kind of event."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import numpy as np
import pytest

from runtime import Embedder
from tests.paths import ROOT
from tests.serverless.events import function_url, gateway_v1, gateway_v2, sqs
from tests.serverless.runtime_api import Function, FunctionError

pytest.importorskip("awslambdaric")

TEXTS = ["How is the weather today?", "Taxes are due in April."]


@pytest.fixture(scope="module")
def function() -> Iterator[Function]:
    """An environment that stays warm for all tests of this file."""
    with Function(ROOT, environment={"JINABERT_WARMUP": "16"}) as environment:
        yield environment


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    with Embedder(threads=1) as embedder:
        return embedder.encode(TEXTS)


def test_cold_and_then_warm(function: Function, expected: np.ndarray) -> None:
    for _ in range(2):
        answer = function.invoke({"texts": TEXTS})
        assert answer["object"] == "list"
        assert [item["index"] for item in answer["data"]] == [0, 1]
        vectors = np.array([item["embedding"] for item in answer["data"]], np.float32)
        np.testing.assert_array_equal(vectors, expected)  # exactly: nine digits are the float32
        assert answer["usage"] == {"prompt_tokens": 16, "total_tokens": 16, "truncated_texts": 0}
    assert function.process.poll() is None


def test_base64_is_the_same_vector(function: Function, expected: np.ndarray) -> None:
    answer = function.invoke({"input": TEXTS[0], "encoding_format": "base64"})
    vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    np.testing.assert_array_equal(vector, expected[0])


def test_a_direct_invocation_that_asks_for_nonsense(function: Function) -> None:
    answer = function.invoke({"texts": TEXTS, "max_length": "many"})
    assert answer["error"]["status"] == 400
    assert "max_length" in answer["error"]["message"]


@pytest.mark.parametrize(
    "event",
    [
        gateway_v1(json.dumps({"input": TEXTS})),
        gateway_v2(json.dumps({"input": TEXTS})),
        function_url(json.dumps({"input": TEXTS}).encode()),
    ],
    ids=["gateway v1", "gateway v2", "function url, base64"],
)
def test_http_events(function: Function, expected: np.ndarray, event: dict[str, object]) -> None:
    reply = function.invoke(event)
    assert reply["statusCode"] == 200
    assert reply["headers"] == {"Content-Type": "application/json"}  # no CORS unless asked for
    vectors = [item["embedding"] for item in json.loads(reply["body"])["data"]]
    np.testing.assert_array_equal(np.array(vectors, np.float32), expected)


@pytest.mark.parametrize(
    ("event", "status", "code"),
    [
        (gateway_v2("{"), 400, "invalid_json"),
        (gateway_v2(None), 400, "invalid_json"),
        (gateway_v2("[" * 100_000), 400, "invalid_json"),
        (gateway_v2("=?", isBase64Encoded=True), 400, "invalid_json"),
        (gateway_v2(b"\xff\xfe"), 400, "invalid_json"),
        (gateway_v2('{"input": []}'), 400, "empty_input"),
        (gateway_v1('{"inputs": "x"}'), 400, "unknown_field"),
        (gateway_v1("", "GET"), 405, "method_not_allowed"),
        (gateway_v2("", "OPTIONS"), 405, "method_not_allowed"),
        (gateway_v2(json.dumps({"input": "x" * (4 << 20)})), 413, "request_too_large"),
        (gateway_v2(json.dumps({"input": ["x"] * 2049})), 413, "too_many_texts"),
        (gateway_v2(json.dumps({"input": ["x"] * 2000})), 413, "response_too_large"),
        (
            gateway_v2(json.dumps({"input": "a b c d e", "max_length": 4, "overflow": "error"})),
            400,
            "text_too_long",
        ),
    ],
)
def test_bad_http_requests(function: Function, event: dict[str, object], status: int, code: str) -> None:
    reply = function.invoke(event)
    assert reply["statusCode"] == status
    error = json.loads(reply["body"])["error"]
    assert error["code"] == code
    assert "\n" not in error["message"]


def test_sqs_names_the_messages_that_failed(function: Function) -> None:
    reply = function.invoke(sqs({"input": "good"}, "{", {"input": 3}, {"input": "good too"}))
    assert [item["itemIdentifier"] for item in reply["batchItemFailures"]] == ["message-1", "message-2"]
    printed = [json.loads(line) for line in function.log().splitlines() if '"messageId"' in line]
    assert [answer["messageId"] for answer in printed] == ["message-0", "message-3"]
    assert len(printed[0]["data"][0]["embedding"]) == 512


def test_sqs_fifo_keeps_the_order(function: Function) -> None:
    reply = function.invoke(sqs({"input": "good"}, "{", {"input": "held back"}, fifo=True))
    assert [item["itemIdentifier"] for item in reply["batchItemFailures"]] == ["message-1", "message-2"]


def test_a_model_that_is_missing_is_an_error_at_start(tmp_path_factory: pytest.TempPathFactory) -> None:
    nowhere = str(tmp_path_factory.mktemp("nowhere") / "model")
    with (
        Function(ROOT, environment={"JINABERT_MODEL": nowhere}) as broken,
        pytest.raises(FunctionError, match="does not exist"),
    ):
        broken.invoke({"texts": "x"})
