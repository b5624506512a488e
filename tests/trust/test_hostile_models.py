"""A model folder with anything wrong is refused in one line that names the file and the remedy; or nothing is wrong
with its vectors."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import Embedder, JinaBertError, ModelError
from runtime.manifest import file_facts
from tests.tiny import make_model, seal

FILES = ("manifest.json", "model.onnx", "model.onnx.data", "vocab.txt")
TEXTS = ["hello world", "a, b", "the quick brown fox " * 12]  # the last one is longer than max_tokens
REMEDIES = ("export", "put ", "remove", "do not use", "install", "pass ")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("good") / "model", external=True)


@pytest.fixture(scope="module")
def vectors(good: Path) -> NDArray[np.float32]:
    return encode(good)


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(good, tmp_path / "model"))


def encode(folder: Path) -> NDArray[np.float32]:
    with Embedder(folder, threads=1) as embedder:
        return embedder.encode(TEXTS)


def outcome(folder: Path, expected: NDArray[np.float32], file: str) -> bool:
    """Try a damaged folder.

    :return: Whether it was refused, in one line with the file and a remedy; if it was not, the vectors are right.
    """
    try:
        found = encode(folder)
    except ModelError as error:
        message = str(error)
        assert "\n" not in message
        assert file in message, message
        assert any(remedy in message for remedy in REMEDIES), message
        return True
    assert (found == expected).all()
    return False


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits(folder: Path, vectors: NDArray[np.float32], name: str) -> None:
    path = folder / name
    data = path.read_bytes()
    chance = random.Random(name)
    for _ in range(300):
        place, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
        refused = outcome(folder, vectors, name)
        # In a manifest a bit may turn white space into other white space; in the other files nothing is spare.
        assert refused or (name == "manifest.json" and data[place : place + 1].isspace())


@pytest.mark.parametrize("name", FILES)
def test_truncated(folder: Path, vectors: NDArray[np.float32], name: str) -> None:
    path = folder / name
    data = path.read_bytes()
    sizes = {0, 1, 2, 511, 512, 513, 4096, len(data) // 2, len(data) - 512, len(data) - 2, len(data) - 1}
    for size in sorted(size for size in sizes if 0 <= size < len(data)):
        path.write_bytes(data[:size])
        assert outcome(folder, vectors, name), size


@pytest.mark.parametrize("name", FILES)
def test_pieces_lost_zeroed_doubled_and_in_another_order(
    folder: Path, vectors: NDArray[np.float32], name: str
) -> None:
    path = folder / name
    data = path.read_bytes()
    chance = random.Random(name)
    for size in (1, 64, 512, 1024):
        for _ in range(10):
            first, second = (chance.randrange(max(1, len(data) // size)) * size for _ in range(2))
            one, other = data[first : first + size], data[second : second + size]
            swapped = bytearray(data)
            if len(one) == len(other):
                swapped[first : first + size], swapped[second : second + size] = other, one
            zeroed = data[:first] + bytes(len(one)) + data[first + size :]
            lost = data[:first] + data[first + size :]
            doubled = data[: first + size] + data[first:]
            for damaged in (bytes(swapped), zeroed, lost, doubled):
                # 64 bytes are eight words of one sum, whose order the checksum does not see: disks move sectors.
                if damaged != data and not (size < 512 and damaged == bytes(swapped)):
                    path.write_bytes(damaged)
                    assert outcome(folder, vectors, name)


@pytest.mark.parametrize("name", FILES[1:])
def test_files_of_another_model(
    folder: Path, vectors: NDArray[np.float32], tmp_path: Path, name: str
) -> None:
    other = make_model(tmp_path / "other", external=True, poison=True)
    for donor in (other / name, *(folder / file for file in FILES if file != name)):
        content = (folder / name).read_bytes()
        if donor.read_bytes() != content:
            (folder / name).write_bytes(donor.read_bytes())
            assert outcome(folder, vectors, name)
            (folder / name).write_bytes(content)


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest by intent: with the right checksum."""
    document = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    change(document)
    seal(folder, document)


@pytest.mark.parametrize(
    "name",
    ["../model/vocab.txt", "/etc/hostname", "sub/vocab.txt", "..", "..\\x", "vocab.txt\0", "\ud800/x", "."],
)
def test_names_that_leave_the_folder(folder: Path, name: str) -> None:
    edited(folder, lambda document: document["files"].update({name: document["files"]["vocab.txt"]}))
    with pytest.raises(ModelError, match="not a plain file name"):
        Embedder(folder)


def test_random_manifests(folder: Path, vectors: NDArray[np.float32]) -> None:
    """Any field replaced by any value, checksum right: refused by name, or the vectors stay what they were."""
    document = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    values = [
        None,
        True,
        -1,
        0,
        1,
        2**31,
        2**63,
        10**40,
        1.5,
        "",
        "x",
        [],
        {},
        "\ud800",
        "a" * 10_000,
        [[]] * 9,
    ]
    refused = 0
    for field in document:
        for value in values:
            # They say how texts are cut and batched: another number is another wish, not damage.
            if field in ("max_tokens", "max_dense_tokens") and isinstance(value, int):
                continue
            seal(folder, document | {field: value})
            try:
                refused += outcome(folder, vectors, "manifest")
            except JinaBertError as error:
                raise AssertionError(f"{field}={value!r}") from error
    assert refused > 100


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "dangling", "outside", "loop"])
def test_what_is_no_file_inside(folder: Path, tmp_path: Path, name: str, kind: str) -> None:
    import os

    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)  # opening it would wait for ever
    elif kind == "dangling":
        path.symlink_to("nothing")
    elif kind == "outside":
        (tmp_path / "outside").write_bytes(content)
        path.symlink_to(tmp_path / "outside")
    elif kind == "loop":
        path.symlink_to(name)
    with pytest.raises(ModelError, match=name.replace(".", r"\.")) as caught:
        Embedder(folder)
    assert "\n" not in str(caught.value)


def test_weights_elsewhere(folder: Path) -> None:
    """A graph whose weights point out of the folder, with a manifest made to fit."""
    import onnx

    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../elsewhere.data"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    shutil.copy(folder / "model.onnx.data", folder.parent / "elsewhere.data")
    facts = file_facts(folder / "model.onnx")._asdict()
    edited(folder, lambda document: document["files"].update({"model.onnx": facts}))
    with pytest.raises(ModelError, match=r"model\.onnx: ") as caught:
        encode(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "vocab.txt", "manifest.json"])
def test_the_embedded_model_damaged(embedded: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(embedded, tmp_path / "model"))
    path = folder / name
    data = bytearray(path.read_bytes())
    chance = random.Random(3)
    for _ in range(12):
        place = chance.randrange(len(data))
        while chr(data[place]).isspace() and name == "manifest.json":
            place = chance.randrange(len(data))
        data[place] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        with pytest.raises(ModelError, match=name.replace(".", r"\.")):
            Embedder(folder)
        data = bytearray((embedded / name).read_bytes())


def linked(store: Path, good: Path, inside: str = "") -> Path:
    """A model folder as a hub's cache keeps one: each file a link to STORE/blobs."""
    folder = store / "snapshots" / "0123abcd" / inside
    folder.mkdir(parents=True)
    (store / "blobs").mkdir()
    up = "../" * (2 + len(Path(inside).parts))
    for number, file in enumerate(sorted(good.iterdir())):
        shutil.copy(file, store / "blobs" / f"blob{number}")
        (folder / file.name).symlink_to(f"{up}blobs/blob{number}")
    return folder


@pytest.mark.parametrize("inside", ["", "int8", "models/int8"])
def test_the_cache_of_a_hub(good: Path, vectors: NDArray[np.float32], tmp_path: Path, inside: str) -> None:
    folder = linked(tmp_path / "models--jinaai--tiny", good, inside)
    assert (encode(folder) == vectors).all()
    (tmp_path / "link").symlink_to(folder)
    assert (encode(tmp_path / "link") == vectors).all()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "target",
    [
        "outside",
        "../outside",
        "../../outside",
        "../../blobs/../outside",
        "../other/vocab.txt",
        "../../blobs/link",
    ],
)
def test_links_out_of_the_cache_of_a_hub(good: Path, tmp_path: Path, name: str, target: str) -> None:
    store = tmp_path / "models--jinaai--tiny"
    folder = linked(store, good)
    for place in (store, store / "snapshots", tmp_path):
        shutil.copy(good / name, place / "outside")
    (store / "snapshots" / "other").mkdir()
    shutil.copy(good / name, store / "snapshots" / "other" / "vocab.txt")
    (store / "blobs" / "link").symlink_to(tmp_path / "outside")
    (folder / name).unlink()
    (folder / name).symlink_to(target if target != "outside" else tmp_path / "outside")
    with pytest.raises(ModelError, match=name.replace(".", r"\.") + ".*outside the model folder") as caught:
        Embedder(folder)
    assert "\n" not in str(caught.value)


def test_blobs_beside_a_folder_that_is_no_snapshot(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    shutil.move(folder / "vocab.txt", tmp_path / "blobs" / "1")
    (folder / "vocab.txt").symlink_to("../blobs/1")
    with pytest.raises(ModelError, match=r"vocab\.txt.*outside the model folder"):
        Embedder(folder)
