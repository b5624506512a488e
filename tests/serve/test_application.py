"""The routes in this process, with the tiny model: what needs a model that fails, little memory, or a slow client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Embedder, OutOfMemoryError
from runtime.session import Session
from tests.tiny import make_model

pytest.importorskip("starlette")
httpx = pytest.importorskip("httpx")

JSON = {"Content-Type": "application/json"}
Make = Callable[..., Any]


def test_embed_of_text_embeddings_inference(tiny_folder: Path, local: Make, tiny: Embedder) -> None:
    service = local(tiny_folder, accept_token_ids=True)
    texts = ["hello world", "", "abc"]
    answer = service.ask("POST", "/embed", json={"inputs": texts})
    np.testing.assert_array_equal(np.float32(answer.json()), tiny.encode(texts))
    ids = [tiny.tokenizer.encode(texts[0]), texts[2]]
    answer = service.ask("POST", "/embed", json={"inputs": ids, "normalize": False, "dimensions": 16})
    np.testing.assert_array_equal(
        np.float32(answer.json()), tiny.encode([texts[0], texts[2]], normalize=False)
    )


def test_vectors_are_cut_where_the_model_allows_it(tmp_path: Path, local: Make) -> None:
    folder = make_model(tmp_path / "truncatable", truncatable=True)
    service, texts = local(folder), ["hello world", "abc"]
    with Embedder(folder, threads=1) as embedder:
        expected = embedder.encode(texts, dimensions=6)
        raw = embedder.encode(texts, dimensions=6, normalize=False)
    answer = service.ask("POST", "/v1/embeddings", json={"input": texts, "dimensions": 6})
    np.testing.assert_array_equal([np.float32(item["embedding"]) for item in answer.json()["data"]], expected)
    answer = service.ask("POST", "/embed", json={"inputs": texts, "dimensions": 6, "normalize": False})
    np.testing.assert_array_equal(np.float32(answer.json()), raw)
    binary = {"input": texts[0], "dimensions": 6, "embedding_type": "ubinary"}
    answer = service.ask("POST", "/v1/embeddings", json=binary)
    assert answer.json()["data"][0]["embedding"] == np.packbits(expected[0] > 0).tolist()
    refused = service.ask("POST", "/v1/embeddings", json={"input": texts, "dimensions": 17})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "dimensions")
    schemas = service.ask("GET", "/openapi.json").json()["components"]["schemas"]
    assert "maximum" in str(schemas["EmbeddingRequest"]["properties"]["dimensions"])


PROMPTS = {"query": "hello ", "document": ""}


@pytest.mark.parametrize(
    ("path", "asked", "name"),
    [
        ("/v1/embeddings", {"input": "abc", "input_type": "search_query"}, "query"),
        ("/v1/embeddings", {"input": "abc", "input_type": "query"}, "query"),
        ("/v1/embeddings", {"input": "abc", "input_type": "passage"}, "document"),
        ("/v1/embeddings", {"input": "abc", "prompt_name": "query"}, "query"),
        ("/embed", {"inputs": "abc", "prompt_name": "query"}, "query"),
    ],
)
def test_prompts_of_the_model(
    tmp_path: Path, local: Make, path: str, asked: dict[str, Any], name: str
) -> None:
    folder = make_model(tmp_path / "prompts", prompts=PROMPTS)
    service = local(folder)
    with Embedder(folder, threads=1) as embedder:
        expected = embedder.encode(["abc"], prompt_name=name)
    answer = service.ask("POST", path, json=asked).json()
    found = answer if path == "/embed" else [item["embedding"] for item in answer["data"]]
    np.testing.assert_array_equal(np.float32(found), expected)


def test_a_prompt_that_the_model_has_not(tmp_path: Path, local: Make) -> None:
    service = local(make_model(tmp_path / "prompts", prompts=PROMPTS))
    refused = service.ask("POST", "/embed", json={"inputs": "abc", "prompt_name": "qery"})
    assert refused.status_code == 422
    assert "must be one of query, document; did you mean query?" in refused.json()["error"]
    refused = service.ask("POST", "/v1/embeddings", json={"input": "abc", "input_type": "clustering"})
    assert refused.json()["error"]["param"] == "input_type"


def test_a_prompt_stands_before_late_chunks(tmp_path: Path, local: Make) -> None:
    folder = make_model(tmp_path / "prompts", prompts=PROMPTS)
    parts = ["abc", "world abc"]
    asked = {"input": parts, "late_chunking": True, "prompt_name": "query"}
    answer = local(folder).ask("POST", "/v1/embeddings", json=asked).json()
    assert [item["index"] for item in answer["data"]] == [0, 1]
    with Embedder(folder, threads=1) as embedder:
        spans = [(0, 3), (4, 13)]
        chunks = embedder.encode_chunks(" ".join(parts), spans=spans, prompt_name="query")
        assert answer["usage"]["total_tokens"] == embedder.count_tokens("hello " + " ".join(parts))
    last = np.float32(answer["data"][1]["embedding"])
    np.testing.assert_allclose(last, chunks[1].vector, atol=1e-6)


def test_embed_cuts_the_end_that_it_is_told(tiny_folder: Path, local: Make, tiny: Embedder) -> None:
    service = local(tiny_folder)
    text = "a " * 10 + "z " * 30
    refused = service.ask("POST", "/embed", json={"inputs": text})
    assert (refused.status_code, refused.json()["error_type"]) == (413, "Validation")
    assert "42 tokens, more than 32" in refused.json()["error"]
    for direction, kept in (("right", text[: 2 * 30]), ("Left", text[-2 * 30 :])):
        asked = {"inputs": text, "truncate": True, "truncation_direction": direction}
        answer = service.ask("POST", "/embed", json=asked)
        np.testing.assert_array_equal(np.float32(answer.json()), [tiny.encode(kept)])


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"prompt_name": "query"}, 422, "prompt_name: this model has no prompts"),
        ({"dimensions": 8}, 422, "has 16, and its vectors cannot be cut"),
        ({"normalize": 1}, 422, "normalize is 1: expected true or false"),
        ({"inputs": []}, 400, "empty list"),
        ({"inputs": [[5]]}, 422, "token ids are refused"),
        ({"input": "a"}, 422, "did you mean inputs?"),
    ],
)
def test_embed_says_what_it_does_not_do(
    tiny_folder: Path, local: Make, options: dict[str, Any], status: int, words: str
) -> None:
    answer = local(tiny_folder).ask("POST", "/embed", json={"inputs": "hello", **options})
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "error_type"}
    assert words in answer.json()["error"]


def test_tokenize_tells_where_tokens_stand(tiny_folder: Path, local: Make) -> None:
    service = local(tiny_folder)
    first, second = service.ask("POST", "/tokenize", json={"inputs": ["Hello, ab", ""]}).json()
    assert [(token["text"], token["special"], token["start"], token["stop"]) for token in first] == [
        ("[CLS]", True, None, None),
        ("Hello", False, 0, 5),
        (",", False, 5, 6),
        ("a", False, 7, 8),
        ("b", False, 8, 9),
        ("[SEP]", True, None, None),
    ]
    assert [token["id"] for token in second] == [2, 3]
    asked = {"inputs": "Hello", "add_special_tokens": False}
    assert [len(tokens) for tokens in service.ask("POST", "/tokenize", json=asked).json()] == [1]


def test_info_and_health(tiny_folder: Path, local: Make) -> None:
    service = local(tiny_folder, max_texts=7)
    info = service.ask("GET", "/info").json()
    assert (info["model_id"], info["max_input_length"], info["max_client_batch_size"]) == ("tiny", 32, 7)
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert service.ask("GET", "/health").json() == {"status": "ok"}
    service.engine.close()
    answer = service.ask("GET", "/health")
    assert (answer.status_code, answer.json()["error_type"]) == (503, "Unhealthy")


def test_a_vector_that_is_not_finite_fails_its_request_alone(
    tmp_path: Path, local: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    service = local(make_model(tmp_path / "poison", poison=True))
    asked = [("POST", "/v1/embeddings", {"json": {"input": text}}) for text in ("a b", "a z", "b a")]
    answers = service.ask_all([*asked, ("POST", "/embed", {"json": {"inputs": ["z"]}})])
    assert [answer.status_code for answer in answers] == [200, 500, 200, 424]
    assert answers[1].json()["error"]["code"] == "not_finite"
    assert answers[3].json()["error_type"] == "Backend"
    assert "internal error: OutputError" in capsys.readouterr().err


def test_texts_that_memory_does_not_allow_are_refused(tiny_folder: Path, local: Make) -> None:
    service = local(tiny_folder)
    service.engine.longest = 10
    answer = service.ask("POST", "/v1/embeddings", json={"input": ["hello", "a " * 20]})
    assert answer.status_code == 413
    error = answer.json()["error"]
    assert error["code"] == "out_of_memory"
    assert "input[1] has 22 tokens; the service has memory for 10" in error["message"]


def test_too_little_memory_is_said_at_the_start(tiny_folder: Path, local: Make) -> None:
    with pytest.raises(OutOfMemoryError, match=r"20 MB of memory are too little: lower --threads \(1\)"):
        local(tiny_folder, memory=20 << 20)


def test_a_batch_that_finds_no_memory_is_tried_text_by_text(
    tiny_folder: Path, local: Make, tiny: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = local(tiny_folder)
    texts = ["hello", "world", "a b"]
    wanted, run = tiny.encode(texts), Session.run

    def short_of_memory(self: Session, ids: Any, mask: Any, **options: Any) -> Any:
        if len(ids) > 1 or ids.shape[1] > 20:
            raise OutOfMemoryError("no memory")
        return run(self, ids, mask, **options)

    monkeypatch.setattr(Session, "run", short_of_memory)
    answer = service.ask("POST", "/v1/embeddings", json={"input": texts})
    found = np.float32([item["embedding"] for item in answer.json()["data"]])
    np.testing.assert_array_equal(found, wanted)
    answer = service.ask("POST", "/v1/embeddings", json={"input": "a " * 25})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "out_of_memory")
    assert answer.headers["Retry-After"] == "1"


def test_an_error_that_nobody_foresaw_tells_nothing(
    tiny_folder: Path, local: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service = local(tiny_folder)

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(service.engine.tokenizer, "encode_with_offsets", broken)
    monkeypatch.setattr(Session, "run", broken)
    asked = [
        ("POST", "/tokenize", {"json": {"inputs": "a"}}),
        ("POST", "/v1/embeddings", {"json": {"input": "a"}}),
    ]
    answers = service.ask_all(asked)
    assert [answer.status_code for answer in answers] == [424, 500]
    error = capsys.readouterr().err
    assert error.count("internal error: ZeroDivisionError at broken, line ") == 2
    assert "secret" not in error + answers[0].text + answers[1].text


def test_a_body_that_does_not_arrive(tiny_folder: Path, local: Make) -> None:
    service = local(tiny_folder, read_seconds=0.2)

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"input": '
        await asyncio.sleep(30)

    answer = service.ask("POST", "/v1/embeddings", content=slowly(), headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "body_timeout")


def test_more_requests_than_allowed_at_once(tiny_folder: Path, local: Make) -> None:
    service = local(tiny_folder, max_requests=2)

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"input": '
        await asyncio.sleep(0.5)
        yield b'"hello"}'

    asked = [("POST", "/v1/embeddings", {"content": slowly(), "headers": JSON}) for _ in range(4)]
    answers = service.ask_all([*asked, ("GET", "/health", {})])
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 429, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["Retry-After"] == "1"
    assert service.ask("POST", "/v1/embeddings", json={"input": "hello"}).status_code == 200


def test_bodies_that_are_read_at_once_take_bounded_memory(tiny_folder: Path, local: Make) -> None:
    service = local(tiny_folder, max_body_bytes=1000)

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"input": "' + b"a " * 450
        await asyncio.sleep(0.5)
        yield b'", "truncate": true}'

    asked = [("POST", "/v1/embeddings", {"content": slowly(), "headers": JSON}) for _ in range(20)]
    statuses = [answer.status_code for answer in service.ask_all(asked)]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 16
    asked = [("POST", "/v1/embeddings", {"content": slowly(), "headers": JSON}) for _ in range(16)]
    assert {answer.status_code for answer in service.ask_all(asked)} == {200}  # what was held is free again


def test_unknown_paths_and_methods(tiny_folder: Path, local: Make) -> None:
    service = local(tiny_folder)
    missing = service.ask("GET", "/v2/embeddings")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    wrong = service.ask("GET", "/v1/embeddings")
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")
    assert wrong.headers["X-Content-Type-Options"] == "nosniff"


def test_api_keys(tiny_folder: Path, tmp_path: Path, local: Make) -> None:
    from runtime.serve.settings import read_keys

    file = tmp_path / "keys"
    file.write_text("# of the team\nsecond-key\n\nthird-key\n")
    service = local(tiny_folder, keys=read_keys("first-key", str(file)))

    def ask(path: str, authorization: str | None) -> int:
        headers = {} if authorization is None else {"Authorization": authorization}
        method, options = ("POST", {"json": {"input": "a"}}) if path == "/v1/embeddings" else ("GET", {})
        answer = service.ask(method, path, headers=headers, **options)
        if answer.status_code == 401:
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        status: int = answer.status_code
        return status

    for key in ("first-key", "second-key", "third-key"):
        assert ask("/v1/embeddings", f"Bearer {key}") == 200
        assert ask("/info", f"bearer {key}") == 200
    for wrong in (
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer first-ke",
        "Bearer first-key2",
        "Basic first-key",
        "first-key",
    ):
        for path in ("/v1/embeddings", "/info", "/metrics", "/nowhere"):
            assert ask(path, wrong) == 401
    for path in ("/", "/health", "/openapi.json"):
        assert ask(path, None) == 200


def test_token_vectors_take_no_more_memory_than_is_kept(tiny_folder: Path, local: Make) -> None:
    free, bounded = (
        local(tiny_folder, memory=memory, max_queue_tokens=64, max_request_tokens=64)
        for memory in (None, 4 << 30)
    )
    asked = [("POST", "/embed_all", {"json": {"inputs": "a " * count}}) for count in (10, 20)]
    assert [answer.status_code for answer in free.ask_all(asked)] == [200, 200]
    answers = bounded.ask_all(asked)  # 64 tokens of 64 bytes: 12 vectors of 16 numbers of 20 bytes
    assert [answer.status_code for answer in answers] == [200, 413]
    assert "vectors of more than 12 are not given at once" in answers[1].json()["error"]
