"""Bulk jobs for the tests: corpora of a few rows, and the command line with its work in this process or in others."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT
from tests.trust.processes import environment

WORDS = ("hello", "world", "abc", "de", "x", "jina", "quick")
TIMEOUT = 120  # seconds until a job counts as hung

Bulk = Callable[..., int]


def texts(count: int, seed: int = 1) -> list[str]:
    """Short texts, some of which are the same."""
    choose = random.Random(seed)
    return [" ".join(choose.choices(WORDS, k=choose.randint(1, 8))) for _ in range(count)]


def table(count: int, seed: int = 1) -> Any:
    """Columns id, text, year and title."""
    import pyarrow as pa

    years = [2000 + number * 20 // count for number in range(count)]
    return pa.table(
        {
            "id": [f"doc-{number}" for number in range(count)],
            "text": texts(count, seed),
            "year": years,
            "title": [None if number % 5 == 0 else f"Title {number}" for number in range(count)],
        }
    )


def write_parquet(path: Path, data: Any, row_group_size: int = 100) -> Path:
    """Write a table."""
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(data, path, row_group_size=row_group_size)
    return path


def read(output: Path) -> Any:
    """All shards of a folder of Parquet, as any reader of folders sees them."""
    import pyarrow.dataset as ds

    return ds.dataset(output, format="parquet").to_table()


def vectors(data: Any, column: str = "embedding") -> Any:
    """The vectors of a table, [n, D]."""
    kind = data.schema.field(column).type
    return (
        data.column(column)
        .combine_chunks()
        .flatten()
        .to_numpy(zero_copy_only=False)
        .reshape(-1, kind.list_size)
    )


def manifest(output: Path) -> Any:
    """The manifest of a job."""
    return json.loads((output / "_manifest.json").read_text(encoding="utf-8"))


def parts(output: Path) -> list[dict[str, Any]]:
    """The parts that a job has done, as its journal lists them."""
    path = output / "_journal.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def rejects(output: Path) -> list[dict[str, Any]]:
    """The rejected rows of a job."""
    path = output / "_rejects.jsonl"
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )


def content(output: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in output.iterdir()}


def command(*arguments: str | Path, flags: Sequence[str] = ()) -> list[str]:
    """The command line of a job in a process of its own."""
    return [sys.executable, *flags, "-m", "runtime.bulk", *map(str, arguments)]


def spawn(
    *arguments: str | Path, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """A job in a process group of its own, so that a test can signal all of it."""
    return subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env=environment() if env is None else env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **options,
    )


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Exit status and standard error."""
    _, errors = process.communicate(timeout=TIMEOUT)
    return process.returncode, errors.decode()


def wait_for_parts(output: Path, count: int) -> None:
    """Until the manifest lists so many."""
    deadline = time.monotonic() + TIMEOUT
    while len(parts(output)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def descendants(ancestor: int, name: bytes) -> list[int]:
    """Processes below one whose command line holds a name."""
    parents, found = {}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if name in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:  # it has ended
                continue

    def below(process: int) -> bool:
        parent = parents.get(process, 0)
        return parent == ancestor or (parent > 0 and below(parent))

    return [process for process in found if below(process)]


@pytest.fixture
def bulk(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bulk:
    """The command line, with the model of tests/tiny.py and the workers' work done in this process."""
    from runtime.bulk import workers
    from runtime.bulk.__main__ import main

    class Here:
        def __init__(self, heart: Any) -> None:
            self.heart = heart

        def embed(self, texts: list[str], title: str) -> Any:
            try:
                return self.heart.embed(texts)
            except Exception as error:
                raise workers.JobError(f"{title}: {workers.explain(error)}") from None

        def close(self) -> None:
            pass

    monkeypatch.setattr(workers, "Worker", Here)

    def run(*arguments: str | Path) -> int:
        return main(["--model", str(tiny_folder), *map(str, arguments)])

    return run


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) == before
