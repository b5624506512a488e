"""Rows that cannot be embedded: each is named with its number and the reason, and costs no other row anything."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from runtime import Embedder
from tests.bulk.conftest import Bulk, manifest, read, rejects, vectors, write_parquet

pa = pytest.importorskip("pyarrow", reason='needs pip install "jinabert-runtime[bulk]"')


def test_json_lines(bulk: Bulk, tiny: Embedder, tmp_path: Path) -> None:
    lines = {
        b'{"id": 1, "text": "hello"}': None,
        b'{"id": 2, "text": null}': "field 'text' is null, not a string",
        b'{"id": 3, "text": 7}': "field 'text' is a number, not a string",
        b'{"id": 4, "text": ["a"]}': "field 'text' is a list, not a string",
        b'{"id": 5}': "no field 'text'",
        b'{"id": 6, "text": "caf\xe9"}': "not UTF-8: byte 23 of the line (invalid continuation byte)",
        b'{"id": 7, "text": "hello"': "not JSON (Expecting ',' delimiter: ",
        b"[1, 2]": "a list, not a JSON object",
        b"": "blank",
        b'{"id": "eight", "text": "hello"}': "column 'id' is \"eight\", not int64",
        b'{"id": null, "text": "hello"}': "id column 'id' is null",
        b'{"id": 9, "text": "hello", "note": "\\ud800"}': "column 'note' cannot be written as UTF-8",
        b'{"id": 10, "text": "", "note": {"a": "\xc3\xa9"}}': None,
        b"[" * 100_000: "not JSON",
        b'{"id": 11, "text": "world", "note": 5}\r': None,
    }
    (tmp_path / "corpus.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    output = tmp_path / "out"
    options = ["--id-column", "id:int64", "--keep", "note", "--shard-rows", "4", "--max-rejects", "99"]
    assert bulk(tmp_path / "corpus.jsonl", "--output", output, *options) == 0
    found = read(output)
    assert found["id"].to_pylist() == [1, 10, 11]
    assert found["note"].to_pylist() == [None, '{"a": "é"}', "5"]
    assert np.array_equal(vectors(found), tiny.encode(["hello", "", "world"]))
    wanted = {line: reason for line, reason in enumerate(lines.values(), 1) if reason not in (None, "blank")}
    told = rejects(output)
    assert [bad["line"] for bad in told] == list(wanted)
    for bad, reason in zip(told, wanted.values(), strict=True):
        assert bad["file"] == "corpus.jsonl"
        assert bad["file_row"] == bad["row"] == bad["line"] - (bad["line"] > 9)  # line 9 is blank, and no row
        assert bad["reason"].startswith(reason)
    totals = manifest(output)["totals"]
    assert (totals["rows"], totals["vectors"], totals["rejected"]) == (len(lines) - 1, 3, len(wanted))
    assert totals["blank"] == 1


def test_csv(bulk: Bulk, tiny: Embedder, tmp_path: Path) -> None:
    rows = [
        b"n,text",
        b'1,"hello\n\nworld, ""x"""',  # one row of three lines
        b"2",
        b"",
        b"3,caf\xe9",
        b"4,hello",
        b"5,hello,world",
        b" 6 ,",
        b'7,"hello" world',
    ]
    (tmp_path / "corpus.csv").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(rows))
    output = tmp_path / "out"
    options = [
        "--id-column",
        "n:int64",
        "--shard-rows",
        "2",
        "--max-rejects",
        "60%",
        "--quoting",
        "multiline",
    ]
    assert bulk(tmp_path / "corpus.csv", "--output", output, *options) == 0
    found = read(output)
    assert found["n"].to_pylist() == [1, 4, 6]
    assert np.array_equal(vectors(found), tiny.encode(['hello\n\nworld, "x"', "hello", ""]))
    assert [(bad["row"], bad["line"], bad["reason"]) for bad in rejects(output)] == [
        (2, 5, "1 field where the header has 2"),
        (3, 7, "not UTF-8: byte 6 of the line (unexpected end of data)"),
        (5, 9, "3 fields where the header has 2"),
        (7, 11, "text after a closing quote: if quotes are part of the texts, say --quoting none"),
    ]
    assert manifest(output)["totals"]["blank"] == 1


@pytest.mark.parametrize("kind", ["string", "large_string", "binary", "dictionary"])
def test_parquet(kind: str, bulk: Bulk, tiny: Embedder, tmp_path: Path) -> None:
    texts = pa.array([b"hello", None, b"caf\xe9", b"", b"world"], pa.binary())
    match kind:
        case "string":  # as other programs write it: bytes that nobody checked
            texts = pa.Array.from_buffers(pa.string(), len(texts), texts.buffers())
        case "large_string":
            wide = texts.cast(pa.large_binary())
            texts = pa.Array.from_buffers(pa.large_string(), len(wide), wide.buffers())
        case "dictionary":
            texts = texts.dictionary_encode()
    source = pa.table({"text": texts, "id": [1, 2, 3, None, 5]})
    write_parquet(tmp_path / "corpus.parquet", source, row_group_size=2)
    output = tmp_path / "out"
    options = ["--id-column", "id", "--max-rejects", "60%"]
    assert bulk(tmp_path / "corpus.parquet", "--output", output, *options) == 0
    assert read(output)["id"].to_pylist() == [1, 5]
    assert np.array_equal(vectors(read(output)), tiny.encode(["hello", "world"]))
    assert [(bad["row"], bad["reason"]) for bad in rejects(output)] == [
        (2, "field 'text' is null"),
        (3, "field 'text' is not UTF-8: byte 4 (unexpected end of data)"),
        (4, "id column 'id' is null"),
    ]


def test_too_long_is_cut_and_told_or_rejected(
    bulk: Bulk, tiny: Embedder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["hello", "hello " * 9, "world", "x " * 7]
    write_parquet(tmp_path / "corpus.parquet", pa.table({"text": texts}))
    options = [tmp_path / "corpus.parquet", "--max-length", "8", "--output"]
    assert bulk(*options, tmp_path / "cut") == 0
    assert np.array_equal(vectors(read(tmp_path / "cut")), tiny.encode(texts, max_length=8))
    assert "2 texts were cut (4 tokens lost)" in capsys.readouterr().err
    assert bulk(*options, tmp_path / "refused", "--overflow", "error", "--max-rejects", "2") == 0
    assert read(tmp_path / "refused")["row"].to_pylist() == [1, 3]
    assert [(bad["row"], bad["reason"]) for bad in rejects(tmp_path / "refused")] == [
        (2, "11 tokens, more than --max-length 8"),
        (4, "9 tokens, more than --max-length 8"),
    ]


def test_nothing_but_rejects(bulk: Bulk, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_parquet(tmp_path / "corpus.parquet", pa.table({"text": pa.array([None] * 3, pa.string())}))
    assert bulk(tmp_path / "corpus.parquet", "--output", tmp_path / "out", "--max-rejects", "100%") == 1
    assert len(rejects(tmp_path / "out")) == 3
    assert not list((tmp_path / "out").glob("*.parquet"))
    errors = capsys.readouterr().err
    assert "3 rows = 0 vectors + 3 rejected (see _rejects.jsonl)" in errors
    assert "all rows were rejected; the first is corpus.parquet, row 1: field 'text' is null" in errors


def test_a_line_without_an_end_does_not_fill_the_memory(
    bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.bulk import job

    monkeypatch.setattr(job, "MOST_BYTES", 1 << 20)
    good = json.dumps({"text": "hello"}) + "\n"
    huge = json.dumps({"text": "x" * (5 << 20)}) + "\n"
    (tmp_path / "corpus.jsonl").write_text(good + huge + good)
    assert bulk(tmp_path / "corpus.jsonl", "--output", tmp_path / "out", "--max-rejects", "1") == 0
    assert read(tmp_path / "out")["row"].to_pylist() == [1, 3]
    assert rejects(tmp_path / "out")[0]["reason"].endswith("bytes, more than 1 MiB: make several rows of it")
    (tmp_path / "corpus.csv").write_text(f"text\nhello\n{'x' * (5 << 20)}\nworld\n")
    assert bulk(tmp_path / "corpus.csv", "--output", tmp_path / "csv", "--max-rejects", "1") == 0
    assert read(tmp_path / "csv")["row"].to_pylist() == [1, 3]
    assert rejects(tmp_path / "csv")[0]["reason"].endswith("bytes, more than 1 MiB: make several rows of it")
