"""Inputs that people have: each row becomes a vector or a reject, whatever the file is called."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Embedder
from tests.bulk.conftest import Bulk, content, manifest, parts, read, rejects, texts, vectors, write_parquet
from tests.paths import SHARED

pa = pytest.importorskip("pyarrow", reason='needs pip install "jinabert-runtime[bulk]"')

CASES = SHARED / "cases" / "bulk"
needs_shared = pytest.mark.skipif(not CASES.exists(), reason="needs ../shared")


@needs_shared
@pytest.mark.parametrize(
    ("name", "options", "rows"),
    [
        ("c.jsonl.gz", ["--id-column", "id:int64"], 20),
        ("a.jsonl.gz", ["--input-format", "jsonl"], 5),
        ("c.json", ["--id-column", "id:int64"], 20),
        ("a.json", ["--input-format", "jsonl"], 5),
        ("spark", ["--input-format", "jsonl"], 40),
        ("spark", [], 40),
        ("dotted.parquet", ["--field", "body.text"], 1),
        ("mixed", ["--keep", "lang,id"], 2),
        ("hive", ["--keep", "year"], 2),
        ("x[1].jsonl", [], 20),
        ("cp1252.csv", ["--encoding", "cp1252"], 3),
        ("utf16.csv", [], 2),
        ("cr.csv", [], 2),
        ("sep.csv", [], 1),
        ("trail.jsonl", [], 5),
        ("u16.txt", [], 2),
        ("cr.txt", [], 3),
        ("marco.tsv", ["--quoting", "none"], 20),
    ],
)
def test_files_that_people_have(name: str, options: list[str], rows: int, bulk: Bulk, tmp_path: Path) -> None:
    assert bulk(CASES / name, "--output", tmp_path / "out", *options) == 0
    assert read(tmp_path / "out").num_rows == rows
    totals = manifest(tmp_path / "out")["totals"]
    assert (totals["rows"], totals["vectors"], totals["rejected"]) == (rows, rows, 0)


@needs_shared
def test_rows_of_a_tsv_with_quotes_do_not_vanish(
    bulk: Bulk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bulk(CASES / "marco.tsv", "--output", tmp_path / "out", "--id-column", "id:int64") == 1
    kept, lost = read(tmp_path / "out")["id"].to_pylist(), rejects(tmp_path / "out")
    assert sorted([*kept, *(bad["row"] - 1 for bad in lost)]) == list(range(20))
    assert [(bad["file"], bad["line"]) for bad in lost] == [("marco.tsv", 5), ("marco.tsv", 7)]
    errors = capsys.readouterr().err
    assert "bulk: 20 rows = 18 vectors + 2 rejected (see _rejects.jsonl)" in errors
    assert (
        "2 of 20 rows were rejected, more than --max-rejects 1%; the first is marco.tsv, line 5: " in errors
    )
    assert "say --quoting none" in errors


@needs_shared
def test_columns_of_folders_and_of_files_with_other_types(bulk: Bulk, tmp_path: Path) -> None:
    assert bulk(CASES / "hive", "--output", tmp_path / "hive", "--keep", "*", "--filter", "year == 2021") == 0
    found = read(tmp_path / "hive")
    assert (found["year"].to_pylist(), found.schema.field("year").type) == ([2021], pa.int64())
    assert manifest(tmp_path / "hive")["totals"]["filtered"] == 1
    assert bulk(CASES / "mixed", "--output", tmp_path / "mixed", "--keep", "lang") == 0
    assert read(tmp_path / "mixed")["lang"].to_pylist() == ["en", None]
    for number, kind in enumerate((pa.int32(), pa.int64(), pa.null())):
        values = pa.array([None if number == 2 else number], kind)
        write_parquet(tmp_path / "in" / f"{number}.parquet", pa.table({"text": ["hello"], "n": values}))
    write_parquet(tmp_path / "in" / "3.parquet", pa.table({"text": ["hello"]}))
    assert bulk(tmp_path / "in", "--output", tmp_path / "out", "--keep", "n") == 0
    assert read(tmp_path / "out")["n"].to_pylist() == [0, 1, None, None]
    assert read(tmp_path / "out").schema.field("n").type == pa.int64()


def test_hive_folders_of_json_lines(bulk: Bulk, tmp_path: Path) -> None:
    for year in (2020, 2021):
        folder = tmp_path / "in" / f"year={year}" / "lang=e%20n"
        folder.mkdir(parents=True)
        (folder / "part.jsonl").write_text('{"text": "hello"}\n')
    assert bulk(tmp_path / "in", "--output", tmp_path / "out", "--keep", "year,lang") == 0
    assert read(tmp_path / "out")["year"].to_pylist() == [2020, 2021]
    assert read(tmp_path / "out")["lang"].to_pylist() == ["e n", "e n"]


def test_names_with_dots_and_brackets_and_two_of_one_name(
    bulk: Bulk, tiny: Embedder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pa.table({"doc": [{"text": "hello", "id": 7}], "a.b": ["world"]})
    write_parquet(tmp_path / "[x] {y}*.parquet", table)
    options = ["--field", "doc.text", "--id-column", "doc.id", "--keep", "a.b"]
    assert bulk(tmp_path / "[x] {y}*.parquet", "--output", tmp_path / "out", *options) == 0
    assert read(tmp_path / "out").select(["doc.id", "a.b"]).to_pylist() == [{"doc.id": 7, "a.b": "world"}]
    assert bulk(tmp_path / "[x] {y}*.parquet", "--output", tmp_path / "flat", "--field", "a.b") == 0
    assert np.array_equal(vectors(read(tmp_path / "flat")), tiny.encode(["world"]))
    (tmp_path / "[x].jsonl").write_text('{"text": "hello"}\n')
    (tmp_path / "x.jsonl").write_text('{"text": "no"}\n{"text": "no"}\n')
    assert bulk(tmp_path / "[x].jsonl", "--output", tmp_path / "brackets") == 0
    assert read(tmp_path / "brackets").num_rows == 1
    assert bulk(tmp_path / "[xy].jsonl", "--output", tmp_path / "pattern") == 0
    assert read(tmp_path / "pattern").num_rows == 2
    write_parquet(tmp_path / "twice.parquet", pa.table([["a"], ["b"]], names=["text", "text"]))
    (tmp_path / "twice.csv").write_text("text,text\na,b\n")
    for name in ("twice.parquet", "twice.csv"):
        assert bulk(tmp_path / name, "--output", tmp_path / "twice") == 2
        assert "two columns are called 'text': rename one" in capsys.readouterr().err


def test_a_mixed_folder_is_read_whole_or_says_what_is_passed_over(
    bulk: Bulk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = b'{"text": "hello"}\n'
    packers = {"a.jsonl": bytes, "b.jsonl.gz": gzip.compress, "c.jsonl.xz": lzma.compress, "d.json": bytes}
    packers["e.ndjson.bz2"] = bz2.compress
    (tmp_path / "in").mkdir()
    for name, pack in packers.items():
        (tmp_path / "in" / name).write_bytes(pack(lines))
    (tmp_path / "in" / "LICENSE").write_text("words")
    (tmp_path / "in" / ".hidden.jsonl").write_bytes(lines)
    assert bulk(tmp_path / "in", "--output", tmp_path / "out") == 0
    assert read(tmp_path / "out").num_rows == 5
    assert "1 file(s) passed over: of other kinds, or met before (LICENSE)" in capsys.readouterr().err
    (tmp_path / "in" / "notes.md").write_text("words")
    assert bulk(tmp_path / "in", "--output", tmp_path / "both") == 2
    assert "choose with --input-format" in capsys.readouterr().err
    assert (
        bulk(tmp_path / "in", "--output", tmp_path / "jsonl", "--input-format", "jsonl", "--max-rejects", "5")
        == 0
    )
    assert "met before (notes.md)" in capsys.readouterr().err
    assert bulk(tmp_path / "in" / "a.jsonl", tmp_path / "in" / "d.json", "--output", tmp_path / "two") == 0
    assert read(tmp_path / "two").num_rows == 2


def test_links_pipes_and_names_that_are_no_utf8(
    bulk: Bulk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, line = tmp_path / "in", '{"text": "hello"}\n'
    (folder / "sub").mkdir(parents=True)
    for name in ("a.jsonl", "sub/z.jsonl"):
        (folder / name).write_text(line)
    (folder / "b.jsonl").symlink_to("a.jsonl")
    (folder / "sub" / "back").symlink_to("..")
    os.mkfifo(folder / "p.jsonl")
    assert bulk(folder, "--output", tmp_path / "out") == 0
    assert read(tmp_path / "out").num_rows == 2
    assert (
        "2 file(s) passed over: of other kinds, or met before (p.jsonl, b.jsonl again)"
        in capsys.readouterr().err
    )
    assert bulk(folder / "a.jsonl", folder / "b.jsonl", "--output", tmp_path / "twice") == 0
    assert read(tmp_path / "twice").num_rows == 1
    (folder / "c.jsonl").symlink_to("nowhere.jsonl")
    assert bulk(folder, "--output", tmp_path / "gone") == 1
    assert "c.jsonl: cannot be read (it is gone)" in capsys.readouterr().err
    (folder / "c.jsonl").unlink()
    (folder / os.fsdecode(b"\xff.jsonl")).write_text(line)
    assert bulk(folder, "--output", tmp_path / "names") == 2
    assert "the name is no UTF-8: rename" in capsys.readouterr().err


def test_a_text_is_a_line_of_a_file_and_a_file_of_a_folder(
    bulk: Bulk, tiny: Embedder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("hello\n\nworld\n")
    cases: dict[str, tuple[list[Any], list[str], str]] = {
        "file": ([tmp_path / "in" / "a.txt"], ["hello", "", "world"], "one text a line (--unit file"),
        "folder": ([tmp_path / "in"], ["hello\n\nworld\n"], "one text a file (--unit line"),
        "as file": ([tmp_path / "in" / "a.txt", "--unit", "file"], ["hello\n\nworld\n"], "one text a file"),
        "as lines": ([tmp_path / "in", "--unit", "line"], ["hello", "", "world"], "one text a line"),
        "pattern": ([tmp_path / "in" / "*.txt"], ["hello\n\nworld\n"], "one text a file"),
    }
    for name, (arguments, expected, told) in cases.items():
        assert bulk(*arguments, "--output", tmp_path / name) == 0
        assert np.array_equal(vectors(read(tmp_path / name)), tiny.encode(expected))
        assert told in capsys.readouterr().err.splitlines()[0]
    (tmp_path / "in" / "b.txt").write_text('{"a": "document that looks like JSON"}')
    assert bulk(tmp_path / "in", "--output", tmp_path / "two") == 0
    assert read(tmp_path / "two")["file"].to_pylist() == ["a.txt", "b.txt"]


def test_equal_texts_are_embedded_once_and_the_files_are_the_same(
    bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.bulk import rows, workers

    monkeypatch.setattr(rows, "UNIT_ROWS", 50)
    corpus = [text if number % 7 else None for number, text in enumerate(texts(300) * 4 + ["x " * 40] * 50)]
    write_parquet(tmp_path / "corpus.parquet", pa.table({"text": corpus}))
    options = [
        tmp_path / "corpus.parquet",
        "--max-rejects",
        "50%",
        "--max-length",
        "16",
        "--overflow",
        "error",
    ]
    assert bulk(*options, "--output", tmp_path / "plain") == 0
    for remembered in (128 << 20, 100 * 64):  # all, and some: 100 vectors
        monkeypatch.setattr(workers, "REMEMBERED_BYTES", remembered)
        output = tmp_path / f"dedupe-{remembered}"
        assert bulk(*options, "--output", output, "--dedupe") == 0
        data = [name for name in content(output) if name.startswith(("part", "_rejects"))]
        assert data == [name for name in content(tmp_path / "plain") if name.startswith(("part", "_rejects"))]
        assert all(content(output)[name] == content(tmp_path / "plain")[name] for name in data)
        tokens, plain = manifest(output)["totals"]["tokens"], manifest(tmp_path / "plain")["totals"]["tokens"]
        assert tokens < (plain / 2 if remembered > 1 << 20 else plain)


def test_a_dry_run_shows_and_writes_nothing(
    bulk: Bulk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"text": text, "id": number} for number, text in enumerate(texts(3000))]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "no JSON\n")
    options = ["--output", tmp_path / "out", "--dry-run", "--id-column", "id:int64"]
    assert bulk(tmp_path / "corpus.jsonl", *options) == 0
    errors = capsys.readouterr().err
    for words in (
        "id: int64",
        "embedding: fixed_size_list<",
        "text: ",
        "median",
        "about 3,",
        " tokens/s with ",
    ):
        assert words in errors
    assert not (tmp_path / "out").exists()


def test_limits_of_rejects(bulk: Bulk, tmp_path: Path) -> None:
    lines = ['{"text": "hello"}'] * 97 + ["bad"] * 3
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    for limit, status in {"1%": 1, "3%": 0, "2.9%": 1, "3": 0, "2": 1, "0": 1, "100%": 0}.items():
        output = tmp_path / limit
        assert bulk(tmp_path / "corpus.jsonl", "--output", output, "--max-rejects", limit) == status, limit
        assert manifest(output)["complete"]
        assert bulk(tmp_path / "corpus.jsonl", "--output", output, "--resume", "--max-rejects", "5%") == 0


def test_a_hopeless_job_ends_early(
    bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from runtime.bulk import job

    monkeypatch.setattr(job, "HOPELESS_ROWS", 1000)
    (tmp_path / "corpus.jsonl").write_text("no JSON\n" * 20_000)
    assert bulk(tmp_path / "corpus.jsonl", "--output", tmp_path / "out", "--max-rejects", "100%") == 1
    assert sum(part["rows"] for part in parts(tmp_path / "out")) < 10_000
    assert "all rows were rejected; the first is corpus.jsonl, line 1: not JSON" in capsys.readouterr().err
    assert not manifest(tmp_path / "out")["complete"]
