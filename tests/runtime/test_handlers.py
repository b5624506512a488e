"""Requests and answers of the handlers, without any platform; tests/serverless has the platforms' own clients."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Embedder, InputError, OutOfMemoryError
from runtime.api.encoding import EMBEDDING_TYPES
from runtime.api.errors import ServiceError
from runtime.api.responses import characters_of
from runtime.handlers import aws
from runtime.handlers.service import Service
from runtime.handlers.settings import HandlerSettings, from_environment
from tests.paths import ROOT
from tests.serverless.events import balancer, gateway_v2, sns, sns_envelope, sqs


def settings(folder: Path, **variables: str) -> HandlerSettings:
    return from_environment({"JINABERT_MODEL": str(folder), "JINABERT_MEMORY_MB": "0", **variables})


@pytest.fixture
def service(tiny_folder: Path) -> Service:
    return Service(settings(tiny_folder, JINABERT_THREADS="1"))


def post(service: Service, document: object, **event: Any) -> tuple[int, Any]:
    """Over HTTP, as a Function URL does it."""
    reply = aws.respond(service, {**gateway_v2(json.dumps(document)), **event})
    return reply["statusCode"], json.loads(reply["body"])


def test_the_answer_without_http_is_that_of_openai(service: Service, tiny: Embedder) -> None:
    answer = service.answer({"input": ["hello", "hello world"], "model": "x", "user": "y"})
    assert set(answer) == {"object", "data", "model", "usage"}
    assert answer["object"] == "list"
    assert [(item["object"], item["index"]) for item in answer["data"]] == [
        ("embedding", 0),
        ("embedding", 1),
    ]
    vectors = np.array([item["embedding"] for item in answer["data"]], np.float32)
    np.testing.assert_array_equal(vectors, tiny.encode(["hello", "hello world"]))
    assert (
        answer["usage"]["prompt_tokens"]
        == answer["usage"]["total_tokens"]
        == sum(tiny.count_tokens(["hello", "hello world"]))
    )


def test_an_error_without_http_has_a_status(service: Service) -> None:
    error = service.answer({"input": "a", "max_length": 2})["error"]
    assert (error["status"], error["code"], error["param"]) == (400, "invalid_max_length", "max_length")
    assert service.answer(None)["error"]["status"] == 400
    assert "did you mean input?" in service.answer({"inputs": "a"})["error"]["message"]


def test_importing_settings_loads_no_model() -> None:
    code = (
        "import sys, runtime.handlers.settings, runtime.handlers.aws; "
        "print('runtime.handlers.entry' in sys.modules, 'onnxruntime' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split()[0] == "False"


def test_limits(tiny_folder: Path) -> None:
    small = Service(
        settings(
            tiny_folder, JINABERT_MAX_TEXTS="2", JINABERT_MAX_LENGTH="5", JINABERT_MAX_BYTES="60",
            JINABERT_MAX_RESPONSE_BYTES="400", JINABERT_MAX_REQUEST_TOKENS="8",
        )
    )  # fmt: skip
    assert small.answer({"input": ["a"] * 3})["error"]["code"] == "too_many_texts"
    assert small.answer({"input": ["a"] * 2})["error"]["code"] == "response_too_large"
    assert "usage" in small.answer({"input": ["a"] * 2, "encoding_format": "base64"})
    assert small.answer({"input": "a", "max_length": 6})["error"]["status"] == 400
    assert small.answer({"input": "a a a a a a"})["error"]["code"] == "text_too_long"
    assert small.answer({"input": "a a a a a a", "truncate": True})["usage"]["total_tokens"] == 5
    both = {"input": ["a a a"] * 2, "encoding_format": "base64"}
    assert small.answer(both)["error"]["code"] == "too_many_tokens"
    assert post(small, {"input": "a" * 60})[0] == 413


def test_an_answer_takes_no_more_than_estimated(tiny_folder: Path) -> None:
    service = Service(settings(tiny_folder))
    for encoding in EMBEDDING_TYPES:
        answer = service.answer({"input": ["hello"] * 50, "embedding_type": encoding})
        text = json.dumps(answer["data"], separators=(",", ":"))
        assert len(text) <= 50 * characters_of(16, encoding)


def test_token_ids_where_they_are_allowed(tiny_folder: Path, tiny: Embedder) -> None:
    service = Service(settings(tiny_folder, JINABERT_ACCEPT_TOKEN_IDS="1"))
    ids = tiny.tokenizer.encode("hello world")
    for given in (ids, [ids], [ids[1:-1]]):
        vector = np.float32(service.answer({"input": given})["data"][0]["embedding"])
        np.testing.assert_array_equal(vector, tiny.encode("hello world"))
    assert service.answer({"input": [[10_000]]})["error"]["code"] == "invalid_token"


def test_memory_that_is_too_little(tiny_folder: Path) -> None:
    with pytest.raises(OutOfMemoryError, match="1 MB are too little"):
        Service(settings(tiny_folder, JINABERT_MEMORY_MB="1"))


def test_a_text_that_does_not_fit_is_refused_not_cut(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "longest", lambda _: 4)
    error = service.answer({"input": ["a", "hello world hello"], "truncate": True})["error"]
    assert (error["status"], error["code"]) == (413, "out_of_memory")
    assert "input[1] has 5 tokens; the service has memory for 4" in error["message"]
    assert "usage" in service.answer({"input": "hello world hello", "max_length": 4})
    assert "usage" in service.answer({"input": "hello", "overflow": "error"})
    monkeypatch.setattr(service, "longest", lambda _: 0)
    assert "send fewer texts" in service.answer({"input": "a"})["error"]["message"]


def test_memory_that_runs_out_all_the_same(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OutOfMemoryError("no")

    monkeypatch.setattr(service.model, "reduce_batch", fail)
    status, answer = post(service, {"input": "hello"})
    assert (status, answer["error"]["code"]) == (503, "out_of_memory")


def test_a_failure_inside_tells_nothing_of_it(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(service.model, "reduce_batch", fail)
    event = {"requestContext": {"http": {"method": "POST"}}, "body": '{"input": "a"}'}
    reply = aws.respond(service, event)
    assert reply["statusCode"] == 500
    assert "secret" not in reply["body"]
    assert "RuntimeError: secret" in capsys.readouterr().err
    record = {"messageId": "1", "body": '{"input": "a"}'}
    assert aws.respond(service, {"Records": [record]}) == {"batchItemFailures": [{"itemIdentifier": "1"}]}


def test_a_sink_of_ones_own(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delivered: dict[str, Any] = {}
    module = types.ModuleType("my_sink")

    def deliver(name: str, answer: dict[str, Any]) -> None:
        if name == "2":
            raise OSError("the bucket is gone")
        delivered[name] = answer

    module.deliver = deliver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_sink", module)
    service = Service(settings(tiny_folder, JINABERT_SINK="my_sink:deliver"))
    records = [{"messageId": name, "body": '{"input": "a"}'} for name in "123"]
    assert aws.respond(service, {"Records": records}) == {"batchItemFailures": [{"itemIdentifier": "2"}]}
    assert sorted(delivered) == ["1", "3"]
    assert len(delivered["1"]["data"][0]["embedding"]) == 16


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("THREADS", "0"), ("THREADS", "two"), ("WARMUP", "-1"), ("MAX_LENGTH", "2"), ("MAX_TEXTS", "1.5"),
        ("MAX_BYTES", "x"), ("MEMORY_MB", "lots"), ("CORS_ORIGIN", "example.com"), ("CORS_ORIGIN", "http://a\nb"),
        ("CORS_ORIGIN", "https://a.example/path"), ("ACCEPT_TOKEN_IDS", "yes"), ("MAX_REQUEST_TOKENS", "2"),
        ("SINK", "module"), ("SINK", ":function"), ("THREADS", "٣"), ("MAX_TEXTS", "99999999999"),
    ],
)  # fmt: skip
def test_variables_that_are_wrong(name: str, value: str) -> None:
    with pytest.raises(InputError, match=f"JINABERT_{name}="):
        from_environment({f"JINABERT_{name}": value})


def test_empty_variables_are_not_set() -> None:
    empty = {f"JINABERT_{name.upper()}": " " for name in HandlerSettings._fields}
    assert from_environment(empty) == from_environment({})


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/health", "/ping", "/healthz"])
def test_health_checks(service: Service, method: str, path: str) -> None:
    for event in (
        gateway_v2(None, method, rawPath=path),
        balancer(method, path=path),
        balancer(method, path=path, several=True),
    ):
        reply = aws.respond(service, event)
        assert reply["statusCode"] == 200
        assert reply["body"] == ("" if method == "HEAD" else '{"status":"ok"}')


def test_a_balancer_gets_headers_in_the_form_it_sends(service: Service) -> None:
    body = json.dumps({"input": "hello", "user": "me"})
    reply = aws.respond(service, balancer("POST", body))
    assert reply["headers"] == {"Content-Type": "application/json", "X-Ignored-Fields": "user"}
    assert "multiValueHeaders" not in reply
    reply = aws.respond(service, balancer("POST", body, several=True))
    assert reply["multiValueHeaders"] == {"Content-Type": ["application/json"], "X-Ignored-Fields": ["user"]}
    assert "headers" not in reply
    # Its health check asks whatever path it was told, with GET.
    assert aws.respond(service, balancer("GET", path="/v1/embeddings"))["statusCode"] == 200


def test_sns_alone_and_inside_sqs(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert aws.respond(service, sns({"input": "hello"})) == {"answered": ["notification-0"]}
    request = {"input": "hello world"}
    event = sqs(sns_envelope(request), request, sns_envelope({"input": 3}), sns_envelope("{"))
    failed = [item["itemIdentifier"] for item in aws.respond(service, event)["batchItemFailures"]]
    assert failed == ["message-2", "message-3"]
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["messageId"] for answer in printed] == ["notification-0", "message-0", "message-1"]
    assert printed[1]["data"] == printed[2]["data"]
    with pytest.raises(ServiceError, match="notification-0"):
        aws.respond(service, sns({"input": 3}))


def test_cross_origin_requests(tiny_folder: Path) -> None:
    origins = "https://a.example, https://b.example"
    service = Service(settings(tiny_folder, JINABERT_CORS_ORIGIN=origins))
    asked = {"origin": "https://b.example", "access-control-request-headers": "authorization,x-stainless-os"}
    reply = aws.respond(service, gateway_v2(None, "OPTIONS", headers=asked))
    assert (reply["statusCode"], reply["body"]) == (204, "")
    assert reply["headers"]["Access-Control-Allow-Origin"] == "https://b.example"
    assert reply["headers"]["Access-Control-Allow-Headers"] == "authorization,x-stainless-os"
    reply = aws.respond(service, gateway_v2("{", headers={"origin": "https://c.example"}))
    assert "Access-Control-Allow-Origin" not in reply["headers"]
    assert reply["headers"]["Vary"] == "Origin"
