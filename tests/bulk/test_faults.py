"""What goes wrong in the middle: what was good is kept, the rest is told, and nothing is lost in silence."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.bulk.conftest import (
    Bulk,
    content,
    finish,
    manifest,
    read,
    rejects,
    spawn,
    table,
    texts,
    write_parquet,
)
from tests.trust.processes import environment

pa = pytest.importorskip("pyarrow", reason='needs pip install "jinabert-runtime[bulk]"')

ROWS = 1200


def inputs(folder: Path) -> dict[str, Path]:
    """The same rows, some of them bad, as files of each kind."""
    rows = [{"id": str(number), "text": text} for number, text in enumerate(texts(ROWS))]
    lines = [json.dumps(row) if number % 100 != 7 else "no JSON" for number, row in enumerate(rows)]
    lines.insert(50, "")
    quoted = [f'{row["id"]},"{row["text"]}, ""x"""' for row in rows]
    quoted[300] = '300,"open'
    quoted[500:503] = ['500,"open', "501,x", '502,y"']
    found = {
        "jsonl": "\n".join(lines).encode(),
        "csv": ("id,text\r\n" + "\r\n".join(quoted)).encode(),
        "json": json.dumps(rows, indent=1).encode(),
        "txt": "\n".join(row["text"] for row in rows).encode("utf-16"),
    }
    found["jsonl.gz"], found["csv.bz2"] = gzip.compress(found["jsonl"]), bz2.compress(found["csv"])
    found["txt.xz"] = lzma.compress(found["txt"])
    paths = {
        "parquet": write_parquet(folder / "corpus.parquet", pa.Table.from_pylist(rows), row_group_size=400)
    }
    for ending, data in found.items():
        paths[ending] = folder / f"corpus.{ending}"
        paths[ending].write_bytes(data)
    return paths


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "ending", ["jsonl", "csv", "json", "txt", "jsonl.gz", "csv.bz2", "txt.xz", "parquet"]
)
def test_every_kind_of_input_goes_on_where_it_was_stopped(
    ending: str, bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.bulk import rows
    from runtime.bulk.output import Journal

    monkeypatch.setattr(rows, "UNIT_ROWS", 64)
    source = inputs(tmp_path)[ending]
    options = ["--shard-rows", "150", "--max-rejects", "5%"]
    options += ["--id-column", "id"] if "txt" not in ending else []
    options += ["--filter", "id <= '8'"] if ending == "parquet" else []
    assert bulk(source, "--output", tmp_path / "whole", *options) == 0
    totals = manifest(tmp_path / "whole")["totals"]
    assert totals["rows"] + totals["filtered"] == ROWS
    assert totals["rows"] == totals["vectors"] + totals["rejected"]
    assert totals["filtered"] == (
        sum(str(number) > "8" for number in range(ROWS)) if ending == "parquet" else 0
    )
    assert totals["blank"] == (1 if "jsonl" in ending else 0)
    assert totals["rejected"] == {"jsonl": 12, "csv": 4}.get(ending.partition(".")[0], 0)
    add = Journal.add

    def kill_before(self: Any, part: Any) -> None:
        raise Killed

    def kill_after(self: Any, part: Any) -> None:
        add(self, part)
        raise Killed

    for attempt in range(12):
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(Journal, "add", kill_before if attempt % 2 else kill_after)
            assert bulk(source, "--output", tmp_path / "out", "--resume", *options) == 0
    assert bulk(source, "--output", tmp_path / "out", "--resume", *options) == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_file_cut_off_keeps_its_good_rows_and_ends_in_an_error(
    pack: Any, bulk: Bulk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        json.dumps({"id": number, "text": text, "pad": os.urandom(20).hex()})
        for number, text in enumerate(texts(20_000))
    ]
    data = pack("\n".join(lines).encode())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(data[: len(data) // 2])
    (tmp_path / "in" / "b.jsonl").write_text('{"id": -1, "text": "hello"}\n')
    options = [tmp_path / "in", "--output", tmp_path / "out", "--id-column", "id:int64"]
    assert bulk(*options) == 1
    found = read(tmp_path / "out")["id"].to_pylist()
    assert found == [*range(len(found) - 1), -1]
    errors = capsys.readouterr().err
    assert "a.jsonl: cannot be read after line " in errors
    assert "data is cut off or damaged" in errors
    assert bulk(*options, "--resume") == 1  # it is as wrong as before
    assert "data is cut off or damaged" in capsys.readouterr().err


def test_files_that_cannot_be_read_are_told_and_the_others_are_done(
    bulk: Bulk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", table(50))
    (tmp_path / "in" / "b.parquet").write_bytes(b"PAR1" + bytes(100))
    write_parquet(tmp_path / "in" / "c.parquet", pa.table({"body": ["hello"]}))
    write_parquet(tmp_path / "in" / "d.parquet", table(30))
    assert bulk(tmp_path / "in", "--output", tmp_path / "out") == 1
    assert read(tmp_path / "out").num_rows == 80
    assert "b.parquet: " in capsys.readouterr().err
    assert any(
        "c.parquet: no field 'text' (it has: body)" in told
        for told in manifest(tmp_path / "out")["totals"]["failed"]
    )


@pytest.mark.parametrize("moment", ["before", "during"])
def test_an_input_that_changes_is_an_error(
    moment: str,
    bulk: Bulk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from runtime.bulk import rows

    source = tmp_path / "corpus.jsonl"
    source.write_text('{"text": "hello"}\n' * 100)
    records = rows._Opened.records

    def changed(self: Any, start: Any) -> Any:
        if moment == "before" and self._reading.shard_rows:
            source.write_text('{"text": "hello"}\n' * 101)
        yield from records(self, start)

    assert bulk(source, "--output", tmp_path / "fine", "--shard-rows", "50") == 0
    monkeypatch.setattr(rows._Opened, "records", changed)
    if moment == "during":
        text_of = rows.text_of

        def once(row: Any, key: str) -> Any:
            if row.line == 5 and source.stat().st_size == 1800:
                with source.open("a") as stream:
                    stream.write('{"text": "more"}\n')
            return text_of(row, key)

        monkeypatch.setattr("runtime.bulk.plan._check_field", lambda *_: None)
        monkeypatch.setattr(rows, "text_of", once)
    assert bulk(source, "--output", tmp_path / "out", "--shard-rows", "50") == 1
    assert "corpus.jsonl: has changed " in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_the_job_goes_on_later(tiny_folder: Path, tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "corpus.parquet", table(2000))
    arguments = [
        source,
        "--output",
        tmp_path / "out",
        "--model",
        tiny_folder,
        "--id-column",
        "id",
        "--processes",
        "1",
    ]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    status, errors = finish(spawn(*arguments, preexec_fn=limit))
    assert status == 1
    last = errors.splitlines()[-1]
    assert "File too large" in last
    assert last.endswith("what is done is kept, go on with --resume")
    assert not [name for name in content(tmp_path / "out") if name.startswith(".")]
    status, errors = finish(spawn(*arguments, "--resume"))
    assert status == 0, errors
    assert read(tmp_path / "out")["id"].to_pylist() == [f"doc-{number}" for number in range(2000)]


def test_ten_thousand_files_and_a_million_blank_lines(bulk: Bulk, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(10_000):
        (tmp_path / "in" / f"{number:05d}.jsonl").write_text('{"text": "hello"}\n')
    assert bulk(tmp_path / "in", "--output", tmp_path / "out") == 0
    assert read(tmp_path / "out")["row"].to_pylist() == list(range(1, 10_001))
    (tmp_path / "blank.jsonl").write_text("\n" * 1_000_000 + '{"text": "hello"}\n')
    assert bulk(tmp_path / "blank.jsonl", "--output", tmp_path / "blank") == 0
    assert manifest(tmp_path / "blank")["totals"]["blank"] == 1_000_000


def test_one_row_of_300_mib_is_one_reject_and_is_never_held(tiny_folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "corpus.jsonl").open("w") as stream:
        stream.write('{"text": "hello"}\n{"text": "')
        for _ in range(300):
            stream.write("x" * (1 << 20))
        stream.write('"}\n{"text": "world"}\n')
    arguments = [
        tmp_path / "corpus.jsonl",
        "--output",
        tmp_path / "out",
        "--model",
        tiny_folder,
        "--max-rejects",
        "1",
    ]
    process = spawn(*arguments, "--processes", "1")
    peak = 0  # KiB; a child's ru_maxrss would begin with that of this process
    while process.poll() is None:
        with contextlib.suppress(OSError), open(f"/proc/{process.pid}/status") as file:
            peak = max([peak, *(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))])
        time.sleep(0.01)
    assert process.returncode == 0, process.communicate()[1]
    process.communicate()
    assert 0 < peak * 1024 < 400 << 20
    assert read(tmp_path / "out")["row"].to_pylist() == [1, 3]
    assert [(bad["line"], bad["reason"]) for bad in rejects(tmp_path / "out")] == [
        (2, "line of 314,572,813 bytes, more than 64 MiB: make several rows of it")
    ]


@pytest.mark.parametrize(
    ("name", "begin", "end"),
    [
        ("one.txt", "", ""),
        ("one.csv", "text\n", ""),
        ("one.json", '["a", "', '"]'),
        ("one.jsonl", '{"text": "', '"}'),
    ],
)
def test_a_row_that_is_too_large_is_told_by_file_line_size_and_remedy(
    name: str, begin: str, end: str, bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from runtime.bulk import job

    monkeypatch.setattr(job, "MOST_BYTES", 1 << 20)
    (tmp_path / name).write_text(begin + "x" * (5 << 20) + end)
    for options in ([], ["--unit", "file"]) if name == "one.txt" else ([],):
        assert bulk(tmp_path / name, "--output", tmp_path / "out", "--force", *options) == 1
        error = capsys.readouterr().err
        assert re.search(rf"{re.escape(name)}(, |: )(line|row) \d", error), error
        assert re.search(r"of \d,\d+,\d+ bytes, more than 1 MiB: make several rows of it", error), error


def test_python_calls_it_in_a_thread_and_without_a_main_guard(tiny_folder: Path, tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "corpus.parquet", table(300))
    (tmp_path / "runtime").mkdir()  # a folder of that name where a job runs is not ours
    code = f"""
import signal, threading
from runtime.bulk import embed_files
before = signal.getsignal(signal.SIGTERM)
found = []
def run(name):
    found.append(embed_files({str(source)!r}, name, model={str(tiny_folder)!r}, id_column="id", processes=2))
threads = [threading.Thread(target=run, args=(f"out-{{n}}",)) for n in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert signal.getsignal(signal.SIGTERM) == before
print([(one.rows, one.vectors, one.rejected, one.problem) for one in found])
"""
    (tmp_path / "job.py").write_text(code)
    for arguments, data in ((["job.py"], None), (["-"], code)):
        ended = subprocess.run(
            [sys.executable, *arguments],
            input=data,
            cwd=tmp_path,
            env=environment(PYTHONSAFEPATH="1"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == "[(300, 300, 0, None), (300, 300, 0, None)]\n"
        assert ended.stderr == ""
        for number in range(2):
            for path in (tmp_path / f"out-{number}").iterdir():
                path.unlink()
            (tmp_path / f"out-{number}").rmdir()
