"""What cannot be done is one line with the value, the reason and the remedy; nothing is written."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bulk.conftest import Bulk, command, content, table, write_parquet
from tests.paths import ROOT
from tests.trust.processes import environment

pa = pytest.importorskip("pyarrow", reason='needs pip install "jinabert-runtime[bulk]"')

CASES = {
    "no input": ("none.parquet", [], "there is no such file or folder"),
    "no parquet": ("corpus.txt", ["--input-format", "parquet"], "no Parquet file ("),
    "two kinds": ("both", [], "choose with --input-format"),
    "nothing there": ("empty", [], "no files there"),
    "no scheme": ("nowhere://bucket/x", [], "no place that pyarrow can reach"),
    "no text column": (
        "corpus.parquet",
        ["--text-column", "body"],
        "no column 'body' (it has: id, text, year, title)",
    ),
    "no text column in CSV": ("corpus.csv", ["--text-column", "body"], "no column 'body' (it has: a, text)"),
    "no text column in JSON": ("corpus.jsonl", [], "no field 'text' (it has: body)"),
    "text is no text": ("corpus.parquet", ["--text-column", "year"], "column 'year' is int64, not strings"),
    "no id column": ("corpus.parquet", ["--id-column", "nr"], "no column 'nr'"),
    "typed Parquet": ("corpus.parquet", ["--keep", "year:string"], "a type of its own: leave :string out"),
    "twice": ("corpus.parquet", ["--keep", "id,id"], "two columns of the output would be called 'id'"),
    "vector": (
        "corpus.parquet",
        ["--vector-column", "row"],
        "two columns of the output would be called 'row'",
    ),
    "columns of texts": ("corpus.txt", ["--keep", "a"], "texts have no columns"),
    "keep in npy": ("corpus.parquet", ["--keep", "id", "--format", "npy"], "use --format parquet"),
    "all of JSON": ("corpus.jsonl", ["--keep", "*"], "JSON lines has no list of columns: name them"),
    "filter of CSV": ("corpus.csv", ["--filter", "a == 1"], "are for Parquet, the input is CSV"),
    "filter syntax": (
        "corpus.parquet",
        ["--filter", "year >"],
        "--filter 'year >': invalid syntax: write it like",
    ),
    "filter call": ("corpus.parquet", ["--filter", "__import__('os') == 1"], "neither is a column"),
    "filter unknown": ("corpus.parquet", ["--filter", "month > 2"], "no column 'month'"),
    "filter types": ("corpus.parquet", ["--filter", "year > 'x'"], "--filter \"year > 'x'\": "),
    "row groups": ("corpus.parquet", ["--row-groups", "1-x"], "expected numbers and ranges, as 0-9,12"),
    "no such row group": (
        "corpus.parquet",
        ["--row-groups", "7"],
        "the input has 1 row groups, numbered from 0",
    ),
    "delimiter": ("corpus.csv", ["--delimiter", "::"], "must be one character"),
    "processes": ("corpus.parquet", ["--processes", "0"], "--processes 0: must be at least 1"),
    "max length": ("corpus.parquet", ["--max-length", "2"], "--max-length 2: must be at least 3"),
    "max rejects": (
        "corpus.parquet",
        ["--max-rejects", "many"],
        "expected a number of rows, or a share as 1%",
    ),
    "encoding": ("corpus.csv", ["--encoding", "klingon"], "--encoding 'klingon': no such encoding"),
    "unit": ("corpus.csv", ["--unit", "line"], "--unit line: is for texts, the input is CSV"),
    "office": ("sheet.xlsx", [], "a zip archive or an Office document"),
    "cut off": ("cut.parquet", [], "cannot be read"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_exit_status_2(
    case: str, bulk: Bulk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(tmp_path / "corpus.parquet", table(10))
    (tmp_path / "corpus.csv").write_text("a,text\n1,hello\n")
    (tmp_path / "corpus.jsonl").write_text('{"body": "hello"}\n')
    (tmp_path / "corpus.txt").write_text("hello")
    (tmp_path / "sheet.xlsx").write_bytes(b"PK\x03\x04\0")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "corpus.parquet").read_bytes()[:-50])
    (tmp_path / "empty").mkdir()
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "a.csv").write_text("text\nhello\n")
    (tmp_path / "both" / "b.jsonl").write_text('{"text": "hello"}\n')
    name, options, message = CASES[case]
    source = name if "://" in name else tmp_path / name
    assert bulk(source, "--output", tmp_path / "out", *options) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.startswith("bulk: ")
    assert errors.count("\n") <= 2  # the first line says what the input is, where that was seen
    assert not (tmp_path / "out").exists()


def test_files_with_other_types(bulk: Bulk, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", pa.table({"text": ["hello"], "n": [1]}))
    write_parquet(tmp_path / "in" / "b.parquet", pa.table({"text": ["hello"], "n": ["1"]}))
    assert bulk(tmp_path / "in", "--output", tmp_path / "out", "--keep", "n") == 2
    assert (
        "columns have other types in other files: Unable to merge: Field n has incompatible types: int64 vs string"
        in capsys.readouterr().err
    )


def test_a_folder_that_holds_something_else_is_left_alone(
    bulk: Bulk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = write_parquet(tmp_path / "corpus.parquet", table(10)), tmp_path / "out"
    output.mkdir()
    (output / "thesis.doc").write_text("mine")
    for more in ([], ["--resume"]):
        assert bulk(source, "--output", output, *more) == 2
        assert "has 'thesis.doc' in it, but no _manifest.json" in capsys.readouterr().err
    assert content(output) == {"thesis.doc": b"mine"}


def test_no_model(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "corpus.parquet", table(10))
    arguments = command(source, "--output", tmp_path / "out", "--model", tmp_path / "none")
    ended = subprocess.run(
        arguments, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("bulk: model folder ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(("missing", "extra"), [("pyarrow", "bulk"), ("tqdm", "bulk")])
def test_a_missing_extra_is_one_line_with_the_command(missing: str, extra: str, tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "corpus.parquet", table(10))
    options = [
        str(source),
        "--output",
        str(tmp_path / "out"),
    ]
    start = f"import sys; sys.modules[{missing!r}] = None; from runtime.bulk.__main__ import main"
    code = f"{start}; sys.exit(main({options}))"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr == f'bulk: {missing} is not installed: pip install "jinabert-runtime[{extra}]"\n'
    assert not (tmp_path / "out").exists()


def test_help_needs_no_extra() -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None; from runtime.bulk.__main__ import main; main(['--help'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0
    assert "--resume" in ended.stdout


def test_a_signal_that_a_library_turns_into_an_error_is_still_a_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM may come while a library's own code runs, such as Ray's."""
    from runtime.bulk import job
    from runtime.bulk.__main__ import main
    from runtime.bulk.workers import JobError

    def swallow(**_: object) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            raise JobError("a worker died") from None
        return 0

    monkeypatch.setattr(job, "embed_files", swallow)
    assert main(["corpus.parquet", "--output", "vectors"]) == 143
    assert "stopped by SIGTERM" in capsys.readouterr().err
