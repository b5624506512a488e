"""Everything above the tokenizer works with each kind of model: the same tests over one tiny model of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Embedder, TextTooLongError
from runtime.api.budget import run_bytes
from runtime.embed import main as embed
from tests.kinds.conftest import Kind
from tests.serverless.conftest import ARCH, PYTHON

TEXTS = [
    "hello world",
    "",
    "the then there is in it's",
    "déjà über naïve",
    "日本語 привет 한국 👍🏽",
    "hello " * 40,
    "  a  <mask> b\n\tc  ",
    "😀" * 7,
]
LONG = "hello there, the world is in it's 1234th déjà vu. " * 12


def torch_vectors(kind: Kind, texts: list[str]) -> np.ndarray:
    """Means of the torch module's hidden states over the ids of the checkpoint's own tokenizer, of length 1."""
    import torch

    from export.checkpoint import load_model
    from export.own_tokenizer import own_tokenizer

    model, tokenizer = load_model(kind.checkpoint), own_tokenizer(kind.checkpoint)
    vectors = []
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.no_grad():
            mean = model(ids, torch.ones_like(ids)).last_hidden_state[0].double().mean(0).numpy()
        vectors.append(mean / np.linalg.norm(mean))
    return np.array(vectors)


def test_vectors_are_those_of_torch_and_the_checkpoints_own_tokenizer(kind: Kind) -> None:
    np.testing.assert_allclose(kind.embedder.encode(TEXTS), torch_vectors(kind, TEXTS), atol=1e-5)


def test_a_vector_does_not_depend_on_its_batch(kind: Kind) -> None:
    together = kind.embedder.encode(TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        assert np.array_equal(kind.embedder.encode(text), vector)


def test_a_long_text_runs_blockwise(kind: Kind) -> None:
    text = "the world is in there, hello 12 " * 250
    limit = kind.embedder.manifest.max_dense_tokens
    assert limit is not None
    assert kind.embedder.count_tokens(text) > limit
    vector = kind.embedder.encode(text, max_length=4000)
    np.testing.assert_allclose(vector, torch_vectors(kind, [text])[0], atol=1e-5)


def test_tokens_stand_where_they_are_in_the_text(kind: Kind) -> None:
    tokens = kind.embedder.encode_tokens(LONG)
    tokenizer = kind.embedder.tokenizer
    own = tokenizer.strip_special(tokens.offsets.tolist())
    assert len(tokens.ids) == len(tokens.vectors) == kind.embedder.count_tokens(LONG)
    assert all(0 <= start <= end <= len(LONG) for start, end in own)
    assert [start for start, _ in own] == sorted(start for start, _ in own)
    # A character may be of several tokens: its bytes, or the blank that T5 puts before a word.
    covered = {position for start, end in own for position in range(start, end)}
    assert {position for position, character in enumerate(LONG) if character != " "} <= covered
    mean = tokens.vectors.mean(axis=0)
    np.testing.assert_allclose(mean / np.linalg.norm(mean), kind.embedder.encode(LONG), atol=1e-5)


def test_late_chunks_are_means_of_their_own_tokens(kind: Kind) -> None:
    tokens = kind.embedder.encode_tokens(LONG)
    chunks = kind.embedder.encode_chunks(LONG, chunk_tokens=20)
    prefix, suffix = len(kind.embedder.tokenizer.prefix), len(kind.embedder.tokenizer.suffix)
    own = len(tokens.ids) - prefix - suffix
    assert len(chunks) == -(-own // 20)
    assert (chunks[0].start, chunks[-1].end) == (
        0,
        len(LONG.rstrip()) if chunks[-1].end < len(LONG) else len(LONG),
    )
    for number, chunk in enumerate(chunks):
        assert chunk.text == LONG[chunk.start : chunk.end]
        first = 0 if number == 0 else prefix + 20 * number
        last = prefix + min(20 * (number + 1), own) + (suffix if number == len(chunks) - 1 else 0)
        mean = tokens.vectors[first:last].mean(axis=0)
        np.testing.assert_allclose(chunk.vector, mean / np.linalg.norm(mean), atol=1e-5)
    (whole,) = kind.embedder.encode_chunks(LONG, chunk_tokens=100_000)
    np.testing.assert_allclose(whole.vector, kind.embedder.encode(LONG), atol=1e-6)


def test_chunks_of_given_spans(kind: Kind) -> None:
    text = "hello world, it's déjà 12"
    spans = [(0, 11), (6, 11), (13, 17)]
    chunks = kind.embedder.encode_chunks(text, spans=spans)
    assert [chunk.text for chunk in chunks] == ["hello world", "world", "it's"]
    assert all(abs(np.linalg.norm(chunk.vector) - 1) < 1e-5 for chunk in chunks)


def test_a_text_beyond_the_windows_of_late_chunking(kind: Kind) -> None:
    chunks = kind.embedder.encode_chunks(LONG, chunk_tokens=16, max_length=64)
    assert chunks[0].start == 0
    assert all(np.isfinite(chunk.vector).all() for chunk in chunks)


def test_texts_are_cut_visibly(kind: Kind) -> None:
    embedder, tokenizer = kind.embedder, kind.embedder.tokenizer
    vectors, stats = embedder.encode([LONG, "hello"], max_length=16, return_stats=True)
    assert stats.truncated_texts == 1
    ids = embedder.encode_tokens(LONG, max_length=16).ids.tolist()
    assert ids == tokenizer.truncate(tokenizer.encode(LONG), 16)
    assert ids[len(ids) - len(tokenizer.suffix) :] == list(tokenizer.suffix)
    assert not np.array_equal(vectors[0], embedder.encode(LONG))
    with pytest.raises(TextTooLongError, match="16"):
        embedder.encode([LONG], max_length=16, overflow="error")


def test_memory_is_estimated(kind: Kind) -> None:
    needs = [run_bytes(tokens, kind.embedder.manifest) for tokens in (10, 100, 1000, 8000)]
    assert needs == sorted(needs)
    assert 0 < needs[0] < needs[-1] < 1 << 30


def test_the_command_line(kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "texts.txt", tmp_path / "vectors.npy"
    lines = [text.replace("\n", " ") for text in TEXTS if text.strip()]
    source.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    arguments = ["--model", str(kind.folder), "--input", str(source), "--threads", "1", "--quiet"]
    assert embed([*arguments, "--output", str(output), "--format", "npy"]) == 0
    assert np.array_equal(np.load(output), kind.embedder.encode(lines))
    chunked = tmp_path / "chunks.jsonl"
    assert embed([*arguments, "--output", str(chunked), "--chunks", "5"]) == 0
    rows = [json.loads(line) for line in chunked.read_text(encoding="utf-8").splitlines()]
    assert len(rows) > len(lines)
    capsys.readouterr()


def test_a_folder_that_is_damaged_is_refused(kind: Kind, tmp_path: Path) -> None:
    import shutil

    from runtime import ModelError

    copy = Path(shutil.copytree(kind.folder, tmp_path / "copy"))
    (file,) = [name for name in ("vocab.txt", "tokenizer.bin") if (copy / name).is_file()]
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(bytes(content))
    with pytest.raises(ModelError, match=file):
        Embedder(copy)


def test_the_layout_of_other_programs_is_for_wordpiece(kind: Kind) -> None:
    from export.errors import ExportError
    from export.layout import write_layout

    if kind.name != "base-en":
        with pytest.raises(ExportError, match="WordPiece alone"):
            write_layout(kind.folder)


def test_a_package_holds_the_whole_folder(kind: Kind) -> None:
    from runtime.manifest import check_files, load_manifest

    manifest = load_manifest(kind.folder)
    check_files(kind.folder, manifest, verify=True)
    assert {*manifest.files, "manifest.json"} == {path.name for path in kind.folder.iterdir()}


def test_a_package_for_lambda(
    kind: Kind, wheels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The package alone gives the vector, with the tokenizer of its kind."""
    from export.package.__main__ import main as package

    output = tmp_path / "function"
    options = ["--target", "lambda", "--arch", ARCH, "--python", PYTHON, "--wheels", str(wheels)]
    assert package([*options, "--model", str(kind.folder), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "tried: a vector from the package alone, cosine to this machine's 1.000000" in printed
    (place,) = (output / "runtime" / "models").iterdir()
    assert {file.name for file in place.iterdir()} == {file.name for file in kind.folder.iterdir()}
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    assert size - sum(file.stat().st_size for file in kind.folder.iterdir()) <= 83e6


def test_the_service(kind: Kind) -> None:
    for package in ("msgspec", "starlette", "httpx", "prometheus_client", "uvicorn"):
        pytest.importorskip(package)
    from export.own_tokenizer import own_tokenizer
    from tests.serve.conftest import Local

    service = Local(kind.folder, max_length=256)
    try:
        texts = [text for text in TEXTS if text.strip()]
        answer = service.ask("POST", "/v1/embeddings", json={"input": texts, "model": "any"})
        assert answer.status_code == 200, answer.text
        found = np.array([entry["embedding"] for entry in answer.json()["data"]], np.float32)
        np.testing.assert_allclose(found, kind.embedder.encode(texts), atol=1e-6)
        text = "hello world, it's déjà 日本"
        (tokens,) = service.ask("POST", "/tokenize", json={"inputs": text}).json()
        assert [token["id"] for token in tokens] == kind.embedder.tokenizer.encode(text)
        own: list[Any] = [token for token in tokens if not token["special"]]
        assert all(token["text"] == text[token["start"] : token["stop"]] for token in own)
        lists = [[token["id"] for token in tokens], kind.embedder.tokenizer.encode("there")]
        for skip in (True, False):
            body = {"ids": lists, "skip_special_tokens": skip}
            expected = own_tokenizer(kind.checkpoint).decode_batch(lists, skip_special_tokens=skip)
            assert service.ask("POST", "/decode", json=body).json() == expected
        info = service.ask("GET", "/info").json()
        assert info["max_input_length"] == 256
        assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    finally:
        service.engine.close()


def test_the_surface_of_sentence_transformers(kind: Kind) -> None:
    from runtime.integrations.sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(kind.folder))
    assert np.array_equal(model.encode(TEXTS[:3]), kind.embedder.encode(TEXTS[:3]))


def test_a_bulk_job(kind: Kind, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("tqdm")
    from runtime.bulk.__main__ import main as bulk
    from tests.bulk.conftest import read, vectors

    source = tmp_path / "in.jsonl"
    texts = [text for text in TEXTS if text.strip()]
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    output = tmp_path / "out"
    options = ["--model", str(kind.folder), "--processes", "1", "--keep", "text", "--quiet"]
    assert bulk([str(source), "--output", str(output), *options]) == 0
    table = read(output)
    order = [texts.index(text) for text in table.column("text").to_pylist()]
    np.testing.assert_allclose(vectors(table), kind.embedder.encode(texts)[order], atol=1e-6)


def test_an_adapter(kind: Kind) -> None:
    pytest.importorskip("langchain_core")
    from runtime.integrations.langchain import JinaBertEmbeddings

    adapter = JinaBertEmbeddings(kind.folder, threads=1)
    assert np.array_equal(
        np.array(adapter.embed_documents(TEXTS[:3]), np.float32), kind.embedder.encode(TEXTS[:3])
    )
