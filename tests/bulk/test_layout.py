"""How many processes and threads are chosen, how a job's plan and condition are read, and what progress shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.manifest import load_manifest
from tests.bulk.conftest import Bulk, content, table, write_parquet

pytest.importorskip("pyarrow", reason='needs pip install "jinabert-runtime[bulk]"')


@pytest.fixture
def choose(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """layout.choose on a machine of so many processors and megabytes."""
    from runtime.bulk import layout

    model = load_manifest(tiny_folder)

    def chosen(
        processors: int, megabytes: int, processes: int | None = None, threads: int | None = None
    ) -> tuple[int, int]:
        monkeypatch.setattr(layout, "cpu_cores", lambda root: processors)
        monkeypatch.setattr(layout, "_memory", lambda root: megabytes << 20)
        settings = layout.choose(processes, threads, model, model.max_tokens)
        return settings.processes, settings.threads

    return chosen


def test_processes_and_threads(choose) -> None:  # type: ignore[no-untyped-def]
    assert choose(1, 100_000) == (1, 1)
    assert choose(2, 100_000) == (1, 2)
    assert choose(3, 100_000) == (1, 3)
    assert choose(64, 100_000) == (32, 2)
    assert choose(64, 100_000, threads=1) == (64, 1)
    assert choose(64, 100_000, threads=4) == (16, 4)
    assert choose(64, 100_000, processes=8) == (8, 8)
    assert choose(64, 100_000, processes=2) == (2, 16)  # more threads help no model of this size
    assert choose(64, 100_000, processes=3, threads=5) == (3, 5)
    few, threads = choose(64, 2_000)  # memory for some of them: the rest of the processors become threads
    assert 4 <= few <= 12
    assert few * threads <= 64
    assert threads > 1
    assert choose(64, 100) == (1, 16)


def test_shards_do_not_depend_on_processes(bulk: Bulk, tiny_folder: Path, tmp_path: Path) -> None:
    from tests.bulk.conftest import finish, spawn

    source = write_parquet(tmp_path / "corpus.parquet", table(1000))
    options = ["--id-column", "id", "--shard-rows", "150"]
    assert bulk(source, "--output", tmp_path / "here", *options) == 0
    for processes, threads in ((1, 2), (3, 1)):
        output = tmp_path / f"{processes}x{threads}"
        more = ["--processes", str(processes), "--threads", str(threads), "--model", tiny_folder]
        status, errors = finish(spawn(source, "--output", output, *options, *more))
        assert status == 0, errors
        assert content(output) == content(tmp_path / "here")


def test_progress_shows_rows_rate_and_time_left(
    bulk: Bulk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_parquet(tmp_path / "corpus.parquet", table(300))
    assert bulk(source, "--output", tmp_path / "out", "--progress", "--shard-rows", "100") == 0
    errors = capsys.readouterr().err
    assert "300 rows" in errors
    assert "100%" in errors
    assert "left" in errors
    assert "rows/s" in errors
    assert "tokens/s" in errors
    assert bulk(source, "--output", tmp_path / "plain") == 0  # no terminal: only the summary
    assert capsys.readouterr().err.endswith("1 part\n")
    assert bulk(source, "--output", tmp_path / "quiet", "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_conditions_are_read_and_never_run() -> None:
    from runtime.bulk.columns import parse_filter as parse
    from runtime.errors import InputError

    expression, names = parse('2000 <= year < 2010 and (field("the title") == "x" or not seen)')
    assert names == ["year", "the title", "seen"]
    assert "is_in" not in str(expression)
    for text in (
        "",
        "1",
        "year",
        "year > month()",
        "year + 1 > 2",
        "'a' == 'b'",
        "year is 3",
        "year in title",
        "x.y > 1",
    ):
        if text == "year":
            assert parse(text)[1] == ["year"]  # a column of true and false
            continue
        with pytest.raises(InputError, match="--filter"):
            parse(text)
