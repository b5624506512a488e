"""Requests and answers of the handlers, without any platform; tests/serverless has the platforms' own clients."""

from __future__ import annotations

import base64
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Embedder, InputError, OutOfMemoryError
from runtime.handlers import aws
from runtime.handlers.service import Service, item_characters
from runtime.handlers.settings import Settings, from_environment

MEGABYTE = 1 << 20


def settings(folder: Path, **variables: str) -> Settings:
    return from_environment({"JINABERT_MODEL": str(folder), "JINABERT_MEMORY_MB": "0", **variables})


@pytest.fixture
def service(tiny_folder: Path) -> Service:
    return Service(settings(tiny_folder, JINABERT_THREADS="1"))


def test_the_answer_is_that_of_openai(service: Service, tiny: Embedder) -> None:
    status, answer = service.answer({"input": ["hello", "hello world"], "model": "x", "user": "y"})
    assert status == 200
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
    assert json.loads(json.dumps(answer)) == answer


@pytest.mark.parametrize(
    ("request_", "options"),
    [
        ({"texts": "hello"}, {}),
        ({"input": "hello", "texts": None, "encoding_format": None}, {}),
        ({"input": "hello world", "normalized": False}, {"normalize": False}),
        ({"input": "hello world hello", "max_length": 4}, {"max_length": 4}),
        ({"input": "hello world hello", "max_length": 4, "truncate": True}, {"max_length": 4}),
        ({"input": "hello world", "overflow": "error", "truncate": False}, {"overflow": "error"}),
        ({"input": "hello", "encoding_format": "base64", "dimensions": 16}, {}),
    ],
)
def test_options(service: Service, tiny: Embedder, request_: dict[str, Any], options: dict[str, Any]) -> None:
    status, answer = service.answer(request_)
    assert status == 200
    value = answer["data"][0]["embedding"]
    vector = np.frombuffer(base64.b64decode(value), "<f4") if isinstance(value, str) else np.float32(value)
    text = request_.get("input") or request_["texts"]
    np.testing.assert_array_equal(vector, tiny.encode(text, **options))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (None, "null, not an object"),
        ([], "a list, not an object"),
        ({}, "input (or texts) missing"),
        ({"input": "a", "texts": "b"}, "both given"),
        ({"input": None}, "missing"),
        ({"input": 3}, "input is a number"),
        ({"input": {"text": "x"}}, "input is an object"),
        ({"input": []}, "empty list"),
        ({"input": ["a", 3]}, "input[1] is a number"),
        ({"input": [[1, 2]]}, "input[0] is a list"),
        ({"input": "a", "model_name": 1}, 'field "model_name" is not known'),
        ({"input": "a", "max_length": 2}, "max_length is 2"),
        ({"input": "a", "max_length": 1 << 40}, "max_length is"),
        ({"input": "a", "max_length": True}, "max_length is true"),
        ({"input": "a", "max_length": 4.0}, "max_length is 4.0"),
        ({"input": "a", "normalized": 1}, "normalized is 1"),
        ({"input": "a", "encoding_format": "hex"}, 'encoding_format is "hex"'),
        ({"input": "a", "encoding_format": []}, "encoding_format is []"),
        ({"input": "a", "overflow": "cut"}, 'overflow is "cut"'),
        ({"input": "a", "truncate": "yes"}, 'truncate is "yes"'),
        ({"input": "a", "overflow": "error", "truncate": True}, "leave one out"),
        ({"input": "a", "dimensions": 8}, "dimensions=8"),
        ({"input": "hello world hello", "max_length": 4, "overflow": "error"}, "more than max_length 4"),
    ],
)
def test_what_is_wrong_is_named(service: Service, request_: object, words: str) -> None:
    status, answer = service.answer(request_)
    assert status == answer["error"]["status"] == 400
    assert words in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"
    assert "\n" not in answer["error"]["message"]


def test_limits(tiny_folder: Path) -> None:
    small = Service(
        settings(
            tiny_folder, JINABERT_MAX_TEXTS="2", JINABERT_MAX_LENGTH="5", JINABERT_MAX_BYTES="60",
            JINABERT_MAX_RESPONSE_BYTES="400",
        )
    )  # fmt: skip
    assert small.answer({"input": ["a"] * 3})[1]["error"]["code"] == "too_many_texts"
    assert small.answer({"input": ["a"] * 2})[1]["error"]["code"] == "response_too_large"
    assert small.answer({"input": ["a"] * 2, "encoding_format": "base64"})[0] == 200
    assert small.answer({"input": "a", "max_length": 6})[0] == 400
    assert small.answer({"input": "a a a a a a"})[1]["usage"]["total_tokens"] == 5
    assert small.answer_json(json.dumps({"input": "a" * 60}))[0] == 413


def test_an_answer_takes_no_more_than_estimated(tiny_folder: Path) -> None:
    service = Service(settings(tiny_folder))
    for encoding in ("float", "base64"):
        answer = service.answer({"input": ["hello"] * 50, "encoding_format": encoding})[1]
        text = json.dumps(answer["data"], separators=(",", ":"))
        assert len(text) <= 50 * item_characters(encoding, 16)


def test_memory_that_is_too_little(tiny_folder: Path) -> None:
    with pytest.raises(OutOfMemoryError, match="1 MB are too little"):
        Service(settings(tiny_folder, JINABERT_MEMORY_MB="1"))


def test_a_text_that_does_not_fit_is_refused_not_cut(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.settings = service.settings._replace(memory=1 << 30)
    monkeypatch.setattr(service, "longest", lambda _: 4)
    status, answer = service.answer({"input": ["a", "hello world hello"]})
    assert (status, answer["error"]["code"]) == (413, "out_of_memory")
    assert "input[1] has 5 tokens; 1024 MB of memory, enough for 4" in answer["error"]["message"]
    assert service.answer({"input": "hello world hello", "max_length": 4})[0] == 200
    assert service.answer({"input": "hello", "overflow": "error"})[0] == 200
    status, answer = service.answer(
        {"input": "hello world hello hello", "max_length": 5, "overflow": "error"}
    )
    assert (status, answer["error"]["code"]) == (400, "text_too_long")


def test_memory_that_runs_out_all_the_same(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OutOfMemoryError("no")

    monkeypatch.setattr(service.embedder, "encode", fail)
    status, answer = service.answer({"input": "hello"})
    assert (status, answer["error"]["code"]) == (413, "out_of_memory")


def test_a_failure_inside_tells_nothing_of_it(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(service.embedder, "encode", fail)
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
        ("SINK", "module"), ("SINK", ":function"), ("THREADS", "٣"), ("MAX_TEXTS", "99999999999"),
    ],
)  # fmt: skip
def test_variables_that_are_wrong(name: str, value: str) -> None:
    with pytest.raises(InputError, match=f"JINABERT_{name}="):
        from_environment({f"JINABERT_{name}": value})


def test_empty_variables_are_not_set() -> None:
    empty = {f"JINABERT_{name.upper()}": " " for name in Settings._fields}
    assert from_environment(empty) == from_environment({})
