"""Numbers that read back to the bit, documents that parse, files that are complete or absent."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import InputError
from runtime.cli.writing import FORMATS, OutputFile, decimals

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def written(name: str, *parts: np.ndarray, columns: int = 2) -> bytes:
    stream = io.BytesIO()
    writer = FORMATS[name](stream, "embedding", columns)
    for part in parts:
        writer.write(part)
    writer.close()
    return stream.getvalue()


@given(st.lists(FLOATS, min_size=1, max_size=30))
def test_numbers_read_back_to_the_bit(numbers: list[float]) -> None:
    vector = np.array([numbers], np.float32)
    (line,) = decimals(vector)
    back = np.array([float(number) for number in line.split(", ")], np.float32)
    assert back.tobytes() == vector.tobytes()
    assert json.loads(f"[{line}]") == [float(number) for number in line.split(", ")]


def test_numbers_of_vectors_are_the_shortest() -> None:
    vector = np.random.default_rng(0).standard_normal((1, 2000)).astype(np.float32)
    vector /= np.linalg.norm(vector)
    (line,) = decimals(vector)
    for text, number in zip(line.split(", "), vector[0], strict=True):
        shortest = np.format_float_scientific(number, unique=True)
        assert len(text.lstrip("-0.").replace(".", "")) <= len(
            shortest.split("e")[0].lstrip("-").replace(".", "")
        ) or ("e" in text)


A, B = np.array([[0.5, -0.25]], np.float32), np.array([[1, 0], [3e-9, -0.0]], np.float32)


def test_json_lines() -> None:
    assert written("jsonl", A, B) == (
        b'{"index": 0, "embedding": [0.5, -0.25]}\n'
        b'{"index": 1, "embedding": [1.0, 0.0]}\n'
        b'{"index": 2, "embedding": [3e-09, -0.0]}\n'
    )
    assert written("jsonl") == b""


def test_json() -> None:
    document = json.loads(written("json", A, B))
    assert document[2] == {"index": 2, "embedding": [3e-09, 0.0]}
    assert len(document) == 3
    assert json.loads(written("json")) == []


def test_text() -> None:
    assert written("text", A, B) == b"0.5 -0.25\n1.0 0.0\n3e-09 -0.0\n"


def test_npy_of_unknown_length() -> None:
    array = np.load(io.BytesIO(written("npy", A, B)))
    assert array.dtype == np.float32
    assert np.array_equal(array, np.concatenate([A, B]))
    assert np.load(io.BytesIO(written("npy", columns=7))).shape == (0, 7)


def test_npy_needs_a_file_that_can_seek() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    with pytest.raises(InputError, match="regular file"):
        FORMATS["npy"](Pipe())


def test_extras_go_before_the_numbers() -> None:
    stream = io.BytesIO()
    writer = FORMATS["jsonl"](stream)
    writer.write(A, [{"index": 4, "text": 'quo"te \ud800'}])
    writer.close()
    assert json.loads(stream.getvalue()) == {"index": 4, "text": 'quo"te \ud800', "embedding": [0.5, -0.25]}


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    output = OutputFile(str(target), force=False)
    output.stream.write(b"half")
    output.stream.flush()
    assert not target.exists()
    assert len(list(tmp_path.iterdir())) == 1
    output.stream.write(b" and half")
    output.commit()
    output.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]
    assert target.read_bytes() == b"half and half"
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_discarded_file_leaves_nothing(tmp_path: Path) -> None:
    output = OutputFile(str(tmp_path / "out.txt"), force=False)
    output.stream.write(b"half")
    output.discard()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_without_force(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(InputError, match=r"exists.*--force"):
        OutputFile(str(target), force=False)
    late = tmp_path / "late.txt"
    output = OutputFile(str(late), force=False)
    late.write_text("someone else's")
    with pytest.raises(InputError, match="exists"):
        output.commit()
    output.discard()
    assert late.read_text() == "someone else's"
    output = OutputFile(str(target), force=True)
    output.stream.write(b"new")
    assert target.read_text() == "old"
    output.commit()
    assert target.read_text() == "new"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "out.txt"
    link = tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    output = OutputFile(str(link), force=True)
    output.stream.write(b"new")
    output.commit()
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_what_is_no_regular_file_is_written_directly() -> None:
    output = OutputFile("/dev/null", force=False)
    output.stream.write(b"x")
    output.commit()
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", ["missing/out.txt", ""])
def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="--output"):
        OutputFile(name, force=True)
