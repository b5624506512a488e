"""POST /v1/embeddings of a real process, asked by OpenAI's own client."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import Embedder
from tests.serve.conftest import MAX_LENGTH
from tests.serve.server import Server

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")

TEXTS = [
    "How is the weather today?",
    "",
    "Bake the bread at 230 degrees.",
    "ein Wort " * 40,
    "日本語 and more",
]


@pytest.fixture(scope="module")
def client(served: Server) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def vectors(answer: Any) -> NDArray[np.float32]:
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return np.array([item.embedding for item in answer.data], np.float32)


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_texts_have_the_vectors_of_encode(client: Any, embedder: Embedder, options: dict[str, Any]) -> None:
    answer = client.embeddings.create(model="any", input=TEXTS, user="someone", **options)
    wanted = embedder.encode(TEXTS)
    if options.get("encoding_format") == "base64":
        found = [np.frombuffer(base64.b64decode(item.embedding), "<f4") for item in answer.data]
        np.testing.assert_array_equal(np.array(found), wanted)
    else:
        np.testing.assert_array_equal(vectors(answer), wanted)
    tokens = sum(embedder.count_tokens(TEXTS))
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)
    assert (answer.object, answer.model) == ("list", embedder.manifest.name)


def test_a_text_alone(client: Any, embedder: Embedder) -> None:
    answer = client.embeddings.create(model="any", input=TEXTS[0], dimensions=512)
    np.testing.assert_array_equal(vectors(answer), embedder.encode(TEXTS[:1]))


def test_token_ids_with_and_without_the_special_ones(client: Any, embedder: Embedder) -> None:
    ids = [embedder.tokenizer.encode(text) for text in TEXTS]
    wanted = embedder.encode(TEXTS)
    own = [numbers[1:-1] for numbers in ids]
    for given in (ids, own):
        np.testing.assert_array_equal(vectors(client.embeddings.create(model="", input=given)), wanted)
    np.testing.assert_array_equal(vectors(client.embeddings.create(model="", input=ids[0])), wanted[:1])


def test_jinas_options(client: Any, embedder: Embedder) -> None:
    def ask(**options: Any) -> Any:
        return client.embeddings.create(model="any", input=TEXTS, extra_body=options)

    wanted = embedder.encode(TEXTS, normalize=False)
    np.testing.assert_array_equal(vectors(ask(normalized=False)), wanted)
    bits = np.packbits(wanted > 0, axis=1)
    assert [item.embedding for item in ask(embedding_type="ubinary").data] == bits.tolist()
    assert [item.embedding for item in ask(embedding_type="binary").data] == (bits.astype(int) - 128).tolist()
    encoded = ask(embedding_type="base64")
    np.testing.assert_array_equal(vectors(encoded), embedder.encode(TEXTS))


@pytest.mark.parametrize("form", ["texts", "token ids"])
def test_late_chunking_reads_the_texts_as_one(client: Any, embedder: Embedder, form: str) -> None:
    parts = ["Berlin is the capital of Germany.", "", "It has 3.9 million inhabitants.", "The city"]
    given = [embedder.tokenizer.encode(part) for part in parts] if form == "token ids" else parts
    answer = client.embeddings.create(model="any", input=given, extra_body={"late_chunking": True})
    whole = " ".join(parts)
    places = [(start := whole.index(part), start + len(part)) for part in parts if part]
    chunks = embedder.encode_chunks(whole, spans=places)
    wanted = [chunks[0].vector, embedder.encode(""), chunks[1].vector, chunks[2].vector]
    np.testing.assert_array_equal(vectors(answer), np.array(wanted))
    assert answer.usage.total_tokens == embedder.count_tokens(whole)


def test_late_chunking_of_more_than_a_text_may_have(client: Any, embedder: Embedder) -> None:
    parts = ["one two three four five six seven eight nine ten " * 50] * 5
    answer = client.embeddings.create(model="any", input=parts, extra_body={"late_chunking": True})
    assert answer.usage.total_tokens == 2502
    edges = np.cumsum([0, *(len(part) + 1 for part in parts)])
    spans = [(int(start), int(start) + len(part)) for start, part in zip(edges, parts, strict=False)]
    chunks = embedder.encode_chunks(" ".join(parts), spans=spans, max_length=MAX_LENGTH)
    np.testing.assert_array_equal(vectors(answer), np.array([chunk.vector for chunk in chunks]))


def test_a_text_that_is_too_long_is_refused_or_cut(client: Any, embedder: Embedder) -> None:
    long = "word " * 2100
    with pytest.raises(
        openai.APIStatusError, match=r"input\[1\] has 2,102 tokens, more than 2,048"
    ) as caught:
        client.embeddings.create(model="any", input=["a", long])
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (
        400,
        "text_too_long",
        "input",
    )
    answer = client.embeddings.create(model="any", input=["a", long], extra_body={"truncate": True})
    assert answer.usage.truncated_texts == 1
    np.testing.assert_array_equal(vectors(answer), embedder.encode(["a", long], max_length=MAX_LENGTH))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input": []}, "empty list"),
        ({"input": ["a", 3]}, "mixes numbers with texts"),
        ({"input": [[30_528]]}, "0 to 30,527"),
        ({"input": [1.5]}, "token 1.5"),
        ({"input": "a", "dimensions": 256}, "has 512, and its vectors cannot be cut"),
        ({"input": "a", "extra_body": {"encoding_format": "hex"}}, "must be one of float, base64"),
        ({"input": "a", "extra_body": {"embedding_type": "ubinry"}}, "did you mean ubinary"),
        (
            {"input": "a", "extra_body": {"late_chunking": "yes"}},
            'late_chunking is "yes": expected true or false',
        ),
        ({"input": "a", "extra_body": {"task": "retrieval.query"}}, "no adapters for tasks; leave it out"),
        ({"input": "a", "extra_body": {"colour": 1}}, 'field "colour" is not known; known are input, model'),
        ({"input": "a", "extra_body": {"inputs": 1}}, "did you mean input"),
    ],
)
def test_what_cannot_be_used_is_named(client: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        client.embeddings.create(model="any", **options)
    assert caught.value.type == "invalid_request_error"


def test_limits_of_a_request(served: Server) -> None:
    def ask(**options: Any) -> tuple[int, str]:
        headers = {"Content-Type": "application/json"}
        answer = httpx.post(f"{served.url}/v1/embeddings", **({"headers": headers} | options), timeout=60)
        return answer.status_code, answer.json()["error"]["code"]

    assert ask(json={"input": ["a"] * 2049}) == (413, "too_many_texts")
    assert ask(json={"input": ["word " * 2000] * 150}) == (413, "too_many_tokens")
    assert ask(content=b" " * (5 << 20)) == (413, "request_too_large")
    assert ask(content=iter([b" " * (1 << 20)] * 5)) == (413, "request_too_large")
    assert ask(content=b'{"input": "a"') == (400, "invalid_json")
    assert ask(content=b'{"input": "\xff"}') == (400, "invalid_json")
    assert ask(content=b'{"input": ' + b"[" * 100_000) == (400, "invalid_json")
    assert ask(content=b"{}", headers={"Content-Type": "text/plain"}) == (415, "unsupported_media_type")
    packed = {"Content-Type": "application/json", "Content-Encoding": "br"}
    assert ask(content=b"{}", headers=packed) == (415, "unsupported_media_type")


def test_many_requests_at_once_have_the_same_bits(served: Server, embedder: Embedder) -> None:
    """Lengths from one token to blocks, in requests of one and of many texts."""
    choose = np.random.default_rng(5)
    words = ["the", "weather", "bread", "bank", "penguin", "winter", "oven", "slow", "crust", "feet"]
    lengths = [*choose.integers(1, 60, 150).tolist(), 300, 480, 520, 700, 1100, 1500]
    texts = [" ".join(choose.choice(words, length)) for length in lengths]
    choose.shuffle(texts)
    edges = [0, *sorted(choose.choice(np.arange(1, len(texts)), 40, replace=False).tolist()), len(texts)]
    groups = [texts[start:end] for start, end in pairwise(edges)]
    found: dict[int, NDArray[np.float32]] = {}

    def work(number: int) -> None:
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as own:
            for group in range(number, len(groups), 8):
                found[group] = vectors(own.embeddings.create(model="any", input=groups[group]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = np.concatenate([found[number] for number in range(len(groups))])
    np.testing.assert_array_equal(together, embedder.encode(texts))
    page = httpx.get(f"{served.url}/metrics").text
    counts = [
        float(line.split()[-1]) for line in page.splitlines() if line.startswith("jinabert_batch_texts_count")
    ]
    computed = [
        float(line.split()[-1]) for line in page.splitlines() if line.startswith("jinabert_texts_total")
    ]
    assert sum(counts) < sum(computed)  # texts of several requests shared batches


def test_nothing_of_a_request_is_logged(served: Server) -> None:
    secret = "xylophone"
    for document in ({"input": secret}, {"input": [secret, 1]}, {secret: secret}, [secret]):
        httpx.post(f"{served.url}/v1/embeddings?{secret}=1", json=document)
    httpx.post(f"{served.url}/{secret}", content=secret)
    httpx.post(f"{served.url}/v1/embeddings", content=f"{{{secret}")
    log = served.log.read_text()
    assert "POST /v1/embeddings 200 " in log  # it was asked for one line a request
    assert "POST other 404 " in log
    assert secret not in log
    assert secret not in httpx.get(f"{served.url}/metrics").text
