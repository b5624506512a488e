"""A job that was stopped, at whatever moment and however, ends with the same bytes as one that was not."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.bulk.conftest import (
    Bulk,
    content,
    descendants,
    finish,
    parts,
    rejects,
    spawn,
    table,
    wait_for_parts,
    write_parquet,
)

pa = pytest.importorskip("pyarrow", reason='needs pip install "jinabert-runtime[bulk]"')

ROWS = 12_000
SHARD_ROWS = "500"
KILLS = 7
OPTIONS = [
    "--id-column",
    "id",
    "--keep",
    "year",
    "--shard-rows",
    SHARD_ROWS,
    "--processes",
    "2",
    "--threads",
    "1",
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with some rows that are rejected."""
    data = table(ROWS)
    texts = [None if number % 997 == 5 else text for number, text in enumerate(data["text"].to_pylist())]
    data = data.set_column(1, "text", pa.array(texts, pa.string()))
    return write_parquet(tmp_path_factory.mktemp("corpus") / "corpus.parquet", data, row_group_size=4000)


@pytest.fixture(scope="module")
def undisturbed(
    source: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, float]:
    """The output of a job that nothing stopped, and the seconds it took."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    start = time.perf_counter()
    status, errors = finish(spawn(source, "--output", output, "--model", tiny_folder, *OPTIONS))
    assert status == 0, errors
    return output, time.perf_counter() - start


def done(output: Path) -> dict[int, bytes]:
    """Parts that the journal lists, with the content of their files."""
    return {
        part["part"]: b"".join((output / name).read_bytes() for name, *_ in part["files"])
        for part in parts(output)
    }


def test_kill_9_at_random_moments_loses_nothing_and_repeats_nothing(
    source: Path, undisturbed: tuple[Path, float], tiny_folder: Path, tmp_path: Path
) -> None:
    output, choose = tmp_path / "out", random.Random()
    expected, seconds = undisturbed
    arguments = [source, "--output", output, "--model", tiny_folder, "--resume", *OPTIONS]
    kept: dict[int, tuple[bytes, int]] = {}
    for _ in range(KILLS):
        process = spawn(*arguments)
        time.sleep(choose.uniform(0.1, seconds))
        # The parent alone: its workers must end by themselves.
        process.kill()
        finish(process)
        now = {number: (data, _written(output, number)) for number, data in done(output).items()}
        assert kept.items() <= now.items()  # same bytes, not even written again
        kept = now
    status, errors = finish(spawn(*arguments))
    assert status == 0, errors
    assert content(output) == content(expected)
    assert {
        number: (data, _written(output, number)) for number, data in done(output).items() if number in kept
    } == kept
    assert len(rejects(output)) == len([number for number in range(ROWS) if number % 997 == 5])


def _written(output: Path, number: int) -> int:
    return (output / f"part-{number:05d}.parquet").stat().st_mtime_ns


def test_kill_9_between_any_two_steps_of_writing(
    source: Path, undisturbed: tuple[Path, float], bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before and after each rename, which is where files change names."""
    small = write_parquet(tmp_path / "small.parquet", table(300))
    assert bulk(small, "--output", tmp_path / "whole", "--shard-rows", "100") == 0
    replace = os.replace

    class Killed(BaseException):
        pass

    def stop_at(step: int) -> None:
        count = 0

        def counted(before: str, after: str) -> None:
            nonlocal count
            count += 1
            if count == step:
                raise Killed
            replace(before, after)
            if count == step + 1:
                raise Killed

        monkeypatch.setattr(os, "replace", counted)

    for step in range(9):
        output = tmp_path / f"out-{step}"
        stop_at(step)
        with contextlib.suppress(Killed):
            assert bulk(small, "--output", output, "--shard-rows", "100") == 0
        monkeypatch.setattr(os, "replace", replace)
        (output / f".part-00001.parquet.{step}.partial").write_bytes(b"what kill -9 leaves")
        assert bulk(small, "--output", output, "--shard-rows", "100", "--resume") == 0
        assert content(output) == content(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_cleanly(
    number: signal.Signals, source: Path, undisturbed: tuple[Path, float], tiny_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = [source, "--output", output, "--model", tiny_folder, *OPTIONS]
    process = spawn(*arguments)
    wait_for_parts(output, 3)
    os.killpg(process.pid, number)  # to all of them, as a terminal does
    status, errors = finish(process)
    assert status == 128 + number
    what = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
    assert errors.splitlines()[1:] == [f"bulk: {what}: what is done is kept, go on with --resume"]
    assert not [name for name in content(output) if name.endswith(".partial")]
    assert no_process_of(process.pid)
    status, errors = finish(spawn(*arguments, "--resume"))
    assert status == 0, errors
    assert "of them done before" in errors
    assert content(output) == content(undisturbed[0])


def test_a_worker_that_dies_is_one_line_and_the_job_goes_on_later(
    source: Path, undisturbed: tuple[Path, float], tiny_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = [source, "--output", output, "--model", tiny_folder, *OPTIONS]
    process = spawn(*arguments)
    wait_for_parts(output, 1)
    victim = max(descendants(process.pid, b"bulk.workers"))
    os.kill(victim, signal.SIGKILL)
    status, errors = finish(process)
    assert status == 1
    assert errors.splitlines()[1].startswith(
        f"bulk: worker process {victim} was killed by SIGKILL (out of memory?"
    )
    assert errors.endswith(": what is done is kept, go on with --resume\n")
    assert errors.count("\n") == 2
    assert no_process_of(process.pid)
    assert finish(spawn(*arguments, "--resume"))[0] == 0
    assert content(output) == content(undisturbed[0])


def no_process_of(group: int) -> bool:
    """Whether a process group has ended, within a moment."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_workers_end_with_their_parent(source: Path, tiny_folder: Path, tmp_path: Path) -> None:
    process = spawn(source, "--output", tmp_path / "out", "--model", tiny_folder, *OPTIONS)
    wait_for_parts(tmp_path / "out", 1)
    process.kill()
    finish(process)
    assert no_process_of(process.pid)


@pytest.fixture
def begun(bulk: Bulk, tmp_path: Path) -> tuple[Path, Path]:
    """A corpus and the output of a job over it."""
    small, output = write_parquet(tmp_path / "in" / "small.parquet", table(300)), tmp_path / "out"
    assert bulk(small, "--output", output, "--shard-rows", "100") == 0
    return small, output


def test_a_job_that_is_done_is_done(
    begun: tuple[Path, Path], bulk: Bulk, capsys: pytest.CaptureFixture[str]
) -> None:
    small, output = begun
    before = content(output)
    capsys.readouterr()
    assert bulk(small, "--output", output, "--shard-rows", "100") == 2
    assert "holds a job already: go on with --resume, or replace it with --force" in capsys.readouterr().err
    assert bulk(small, "--output", output, "--shard-rows", "100", "--resume") == 0
    assert "3 parts, 3 of them done before" in capsys.readouterr().err
    assert content(output) == before


def test_resume_begins_where_there_is_nothing(begun: tuple[Path, Path], bulk: Bulk, tmp_path: Path) -> None:
    small, output = begun
    assert bulk(small, "--output", tmp_path / "new", "--shard-rows", "100", "--resume") == 0
    assert content(tmp_path / "new") == content(output)


def test_a_shard_that_was_damaged_or_lost_is_done_again(
    begun: tuple[Path, Path], bulk: Bulk, capsys: pytest.CaptureFixture[str]
) -> None:
    small, output = begun
    before = content(output)
    data = bytearray(before["part-00001.parquet"])
    data[len(data) // 2] ^= 1
    (output / "part-00001.parquet").write_bytes(data)
    (output / "part-00002.parquet").unlink()
    assert bulk(small, "--output", output, "--shard-rows", "100", "--resume") == 0
    errors = capsys.readouterr().err
    assert "part-00001.parquet is missing or changed: part 1 is done again" in errors
    assert "part-00002.parquet is missing or changed: part 2 is done again" in errors
    assert content(output) == before


OTHER = {
    "max length": (["--max-length", "16"], "--max-length was 32, is 16"),
    "columns": (["--keep", "year"], "--keep was [], is ['year']"),
    "dtype": (["--dtype", "float16"], "--dtype was 'float32', is 'float16'"),
    "shards": (["--shard-rows", "50"], "--shard-rows was 100, is 50"),
    "filter": (["--filter", "year > 2005"], "--filter was None, is 'year > 2005'"),
    "overflow": (["--overflow", "error"], "--overflow was 'truncate', is 'error'"),
    "normalize": (["--no-normalize"], "--normalize was True, is False"),
}


@pytest.mark.parametrize("case", OTHER)
def test_other_options_are_refused(
    case: str, begun: tuple[Path, Path], bulk: Bulk, capsys: pytest.CaptureFixture[str]
) -> None:
    small, output = begun
    before = content(output)
    options, reason = OTHER[case]
    assert bulk(small, "--output", output, "--resume", "--shard-rows", "100", *options) == 2
    assert f"bulk: --resume: {reason}: undo that, start over with --force, or name" in capsys.readouterr().err
    assert content(output) == before


def test_another_input_is_refused(
    begun: tuple[Path, Path], bulk: Bulk, capsys: pytest.CaptureFixture[str]
) -> None:
    small, output = begun
    options = ["--output", output, "--resume", "--shard-rows", "100"]
    times = (small.stat().st_atime_ns, small.stat().st_mtime_ns)
    os.utime(small, ns=(times[0], times[1] + 1))
    assert bulk(small, *options) == 2
    assert (
        "--resume: the input has changed (its names, or size and time of change)" in capsys.readouterr().err
    )
    os.utime(small, ns=times)
    assert bulk(small, *options) == 0
    write_parquet(small.parent / "more.parquet", table(10))
    assert bulk(small.parent, *options) == 2
    assert "the input has changed (files was 1, is 2)" in capsys.readouterr().err


def test_verify_compares_contents_and_not_times(
    bulk: Bulk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, output = write_parquet(tmp_path / "small.parquet", table(30)), tmp_path / "out"
    assert bulk(small, "--output", output, "--verify") == 0
    os.utime(small)
    assert bulk(small, "--output", output, "--verify", "--resume") == 0
    assert bulk(small, "--output", output, "--resume") == 2
    assert "the job was begun with --verify" in capsys.readouterr().err
    data = bytearray(small.read_bytes())
    data[10] ^= 1
    small.write_bytes(data)
    assert bulk(small, "--output", output, "--verify", "--resume") == 2
    assert "the input has changed (its names, or content)" in capsys.readouterr().err


def test_force_begins_again_and_removes_nothing_else(begun: tuple[Path, Path], bulk: Bulk) -> None:
    small, output = begun
    (output / "notes.doc").write_text("mine")
    assert bulk(small, "--output", output, "--force", "--shard-rows", "250", "--format", "npy") == 2
    (output / "notes.doc").unlink()
    assert bulk(small, "--output", output, "--force", "--shard-rows", "250", "--format", "npy") == 0
    assert sorted(name for name in content(output) if name.startswith("part-")) == [
        "part-00000.ids.npy",
        "part-00000.npy",
        "part-00001.ids.npy",
        "part-00001.npy",
    ]


def test_another_model_is_refused(
    begun: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from runtime.bulk.__main__ import main
    from tests.tiny import make_model

    small, output = begun
    other = make_model(tmp_path / "other", max_tokens=32, name="other")
    options = ["--output", str(output), "--resume", "--shard-rows", "100", "--model", str(other)]
    assert main([str(small), *options]) == 2
    assert "--resume: the model has changed (name was tiny, is other)" in capsys.readouterr().err


def test_a_damaged_manifest_is_refused(
    begun: tuple[Path, Path], bulk: Bulk, capsys: pytest.CaptureFixture[str]
) -> None:
    small, output = begun
    for data in (b"", b"[]", b"{}", (output / "_manifest.json").read_bytes()[:-40]):
        (output / "_manifest.json").write_bytes(data)
        assert bulk(small, "--output", output, "--resume", "--shard-rows", "100") == 2
        assert "no manifest of a job, or damaged" in capsys.readouterr().err


def test_two_jobs_do_not_write_to_one_folder(
    begun: tuple[Path, Path], bulk: Bulk, capsys: pytest.CaptureFixture[str]
) -> None:
    from runtime.bulk.storage import Storage

    small, output = begun
    with Storage(str(output)).lock():
        assert bulk(small, "--output", output, "--shard-rows", "100", "--resume") == 2
    assert "another run is writing there: wait for it, or stop it" in capsys.readouterr().err
    assert bulk(small, "--output", output, "--shard-rows", "100", "--resume") == 0
