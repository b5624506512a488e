"""The Ray engine on a local Ray: the same bytes as the local engine, also when an actor dies in the middle."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.bulk.conftest import (
    Bulk,
    content,
    descendants,
    finish,
    manifest,
    spawn,
    table,
    wait_for_shards,
    write_parquet,
)

pytest.importorskip("pyarrow", reason='needs pip install "jinabert-runtime[bulk]"')
pytest.importorskip("ray", reason='needs pip install "jinabert-runtime[ray]"')

ROWS = 40_000
OPTIONS = [
    "--id-column",
    "id",
    "--keep",
    "title",
    "--shard-rows",
    "200",
    "--engine",
    "ray",
    "--processes",
    "2",
]


@pytest.mark.slow
def test_an_actor_that_is_killed_changes_nothing(bulk: Bulk, tiny_folder: Path, tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "corpus.parquet", table(ROWS), row_group_size=1500)
    local = [option for option in OPTIONS if option not in ("--engine", "ray")]
    assert bulk(source, "--output", tmp_path / "local", *local) == 0

    for attempt in range(3):  # on a busy machine one actor may have done all before the other has started
        output = tmp_path / f"ray-{attempt}"
        process = spawn(source, "--output", output, "--model", tiny_folder, "--threads", "1", *OPTIONS)
        wait_for_shards(output, 1)
        while (
            len(actors := descendants(process.pid, b"ShardEmbedder")) < 2 and not manifest(output)["complete"]
        ):
            time.sleep(0.02)
        if len(actors) == 2:
            os.kill(actors[0], signal.SIGKILL)
        killed = len(actors) == 2 and not manifest(output)["complete"]
        status, errors = finish(process)
        assert status == 0, errors
        assert f"{ROWS:,} rows embedded" in errors
        assert content(output) == content(tmp_path / "local")
        if killed:
            return
    pytest.fail("the job was over each time before an actor could be killed")


@pytest.mark.slow
def test_the_local_engine_ends_what_ray_began(bulk: Bulk, tiny_folder: Path, tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "corpus.parquet", table(ROWS), row_group_size=1500)
    local = [option for option in OPTIONS if option not in ("--engine", "ray")]
    assert bulk(source, "--output", tmp_path / "local", *local) == 0
    output = tmp_path / "ray"
    process = spawn(source, "--output", output, "--model", tiny_folder, *OPTIONS)
    wait_for_shards(output, 2)
    process.send_signal(signal.SIGTERM)
    status, errors = finish(process)
    assert status == 143, errors
    assert errors.splitlines()[-1] == "bulk: stopped by SIGTERM: what is done is kept, go on with --resume"
    assert not descendants(process.pid, b"ray")
    assert bulk(source, "--output", output, *local, "--resume") == 0
    assert content(output) == content(tmp_path / "local")
