"""A model folder that is not what its manifest says is refused in one line that names the file and what to do."""

from __future__ import annotations

import io
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import Embedder, ModelError
from runtime.manifest import check_files, checksum, file_facts, load_manifest
from tests.tiny import make_model, seal, write_manifest


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def refused(folder: Path, *words: str, verify: bool = False) -> None:
    with pytest.raises(ModelError) as caught:
        Embedder(folder, verify=verify)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert any(
        remedy in message for remedy in ("export", "put ", "remove", "do not use", "install", "pass ")
    ), message


def edit(folder: Path, **changes: Any) -> None:
    document = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    seal(folder, document | changes)


def test_a_good_folder_is_read_whole(folder: Path) -> None:
    manifest = load_manifest(folder)
    assert (manifest.dimension, manifest.max_tokens, manifest.max_dense_tokens) == (16, 32, 24)
    assert set(manifest.files) == {"model.onnx", "vocab.txt"}
    check_files(folder, manifest, verify=True)


def test_a_folder_that_is_missing_or_no_model(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere", "does not exist")
    refused(tmp_path, "no manifest.json", "python -m export")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema_version": 1']
)
def test_a_manifest_that_is_no_json_object(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    refused(folder, "manifest.json")


def test_a_manifest_of_endless_size(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b" " * (5 << 20))
    refused(folder, "manifest.json", "larger than")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema_version", 4),
        ("schema_version", "1"),
        ("schema_version", True),
        ("schema_version", None),
        ("name", ""),
        ("architecture", "bert"),
        ("dimension", 0),
        ("dimension", "16"),
        ("dimension", 16.0),
        ("dimension", 10**30),
        ("max_tokens", 2),
        ("max_tokens", -1),
        ("vocabulary", None),
        ("hidden_size", 0),
        ("pooling", "cls"),
        ("pooling", {"modes": [], "include_prompt": True}),
        ("pooling", {"modes": ["attention"], "include_prompt": True}),
        ("pooling", {"modes": [["mean"]], "include_prompt": True}),
        ("pooling", {"modes": ["mean"], "include_prompt": 1}),
        ("modules", None),
        ("modules", [{"type": "conv"}]),
        ("prompts", []),
        ("prompts", {"query": 1}),
        ("default_prompt_name", "query"),
        ("default_prompt_name", []),
        ("similarity", "jaccard"),
        ("normalize", 1),
        ("tokenizer", {}),
        ("tokenizer", {"type": "bpe", "lower_case": True}),
        ("tokenizer", {"type": "wordpiece", "lower_case": "yes"}),
        ("precision", "fp16"),
        ("scheme", "unheard-of"),
        ("max_dense_tokens", 0),
        ("files", []),
        ("files", {}),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(folder: Path, field: str, value: object) -> None:
    edit(folder, **{field: value})
    refused(folder, "manifest.json", field)


def test_an_older_schema_asks_for_a_new_export(folder: Path) -> None:
    edit(folder, schema_version=1)
    refused(folder, "schema_version 1", "export")


def test_a_newer_schema_asks_for_a_newer_release(folder: Path) -> None:
    edit(folder, schema_version=99)
    refused(folder, "schema_version 99", "install a newer release")


@pytest.mark.parametrize(
    "name", ["../model.onnx", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "C:x", "a\0b", "a\nb"]
)
def test_names_that_lead_elsewhere_are_refused(folder: Path, name: str) -> None:
    files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    edit(folder, files=files | {name: files["vocab.txt"]})
    refused(folder, "manifest.json", "plain file name")


@pytest.mark.parametrize(
    "facts",
    [
        None,
        {},
        {"size": -1, "checksum": "0" * 8, "sha256": "0" * 64},
        {"size": 1, "checksum": "XYZ", "sha256": "0" * 64},
    ],
)
def test_facts_of_the_wrong_kind_are_refused(folder: Path, facts: object) -> None:
    files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    edit(folder, files=files | {"vocab.txt": facts})
    refused(folder, "manifest.json", "vocab.txt")


@pytest.mark.parametrize("name", ["model.onnx", "vocab.txt"])
def test_missing_truncated_grown_and_swapped_files(folder: Path, name: str) -> None:
    path = folder / name
    data = path.read_bytes()
    for damaged in (data[:-1], b"", data + b"\0", data[::-1]):
        path.write_bytes(damaged)
        refused(folder, name)
    path.unlink()
    refused(folder, name, "missing")
    path.mkdir()
    refused(folder, name, "not a regular file")


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_single_flipped_bit_is_found_at_every_load(folder: Path, place: int) -> None:
    for name in ("model.onnx", "vocab.txt"):
        data = bytearray((folder / name).read_bytes())
        data[place] ^= 1
        (folder / name).write_bytes(data)
        refused(folder, name, "damaged")
        data[place] ^= 1
        (folder / name).write_bytes(data)


def test_a_change_made_to_fit_the_checksum_is_found_by_verify(folder: Path) -> None:
    path = folder / "vocab.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[10], lines[11] = lines[11], lines[10]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    files["vocab.txt"]["checksum"] = file_facts(path).checksum
    edit(folder, files=files)
    Embedder(folder).close()
    refused(folder, "vocab.txt", "SHA-256", verify=True)


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere.txt"
    shutil.move(folder / "vocab.txt", outside)
    (folder / "vocab.txt").symlink_to(outside)
    refused(folder, "vocab.txt", "outside the model folder")
    (folder / "vocab.txt").unlink()
    shutil.move(outside, folder / "words")
    (folder / "vocab.txt").symlink_to("words")
    Embedder(folder).close()


def test_a_linked_folder_works(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    Embedder(tmp_path / "link").close()


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "vocab.txt"])
def test_unreadable_files(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = open

    def denied(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path).endswith(name):  # root, whom containers run as, may read whatever its mode
            raise PermissionError(13, "Permission denied", path)
        return real(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", denied)
    refused(folder, name, "cannot be read (Permission denied)")


def test_weights_that_the_manifest_does_not_list_are_refused(folder: Path) -> None:
    (folder / "model.onnx.data").write_bytes(b"weights")
    refused(folder, "model.onnx.data", "not listed")


def test_weights_beside_the_graph_are_checked(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "external", external=True)
    assert Embedder(folder).encode("hello").shape == (16,)
    path = folder / "model.onnx.data"
    data = bytearray(path.read_bytes())
    data[5] ^= 64
    path.write_bytes(data)
    refused(folder, "model.onnx.data", "damaged")
    path.unlink()
    refused(folder, "model.onnx.data", "missing")


def test_a_vocabulary_of_another_model_is_refused(folder: Path) -> None:
    with (folder / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("extra\n")
    write_manifest(folder)
    edit(folder, vocabulary=len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines()) - 1)
    refused(folder, "vocab.txt", "another model")


@given(st.binary(max_size=40_000))
def test_checksum_is_the_one_described(data: bytes) -> None:
    padded = data + bytes(-len(data) % 512)
    sums = b"".join(
        (sum(np.frombuffer(padded[start : start + 512], "<u8").tolist()) % 2**64).to_bytes(8, "little")
        for start in range(0, len(padded), 512)
    )
    assert checksum(io.BytesIO(data)) == f"{zlib.crc32(sums):08x}"


def test_checksum_does_not_depend_on_how_the_file_is_read() -> None:
    class Dribble(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            return super().readinto(memoryview(buffer)[:1000])

    data = np.random.default_rng(0).bytes((1 << 20) + 12_345)
    assert checksum(Dribble(data)) == checksum(io.BytesIO(data))


def test_dimension_and_modules_must_fit(folder: Path) -> None:
    edit(folder, hidden_size=15)
    refused(folder, "manifest.json", "dimension is 16", "15 numbers")
    edit(folder, hidden_size=16, pooling={"modes": ["cls", "mean"], "include_prompt": True})
    refused(folder, "manifest.json", "dimension is 16", "32 numbers")
    dense = {"type": "dense", "in_features": 16, "out_features": 4, "bias": True}
    dense |= {"use_residual": False, "activation": "tanh"}
    edit(folder, pooling={"modes": ["cls"], "include_prompt": True}, modules=[dense], dimension=4)
    refused(folder, "files does not list modules.bin")
