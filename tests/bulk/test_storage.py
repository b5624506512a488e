"""Places that are no local folder: an input and an output by URI."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bulk.conftest import Bulk, content, manifest, table, write_parquet

pytest.importorskip("pyarrow", reason='needs pip install "jinabert-runtime[bulk]"')


def test_a_uri_of_a_local_folder_is_that_folder(bulk: Bulk, tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "corpus.parquet", table(300))
    assert bulk(tmp_path / "in", "--output", tmp_path / "path", "--shard-rows", "100") == 0
    source, output = (tmp_path / "in").as_uri(), (tmp_path / "uri").as_uri()
    assert bulk(source, "--output", output, "--shard-rows", "100") == 0
    assert content(tmp_path / "uri") == content(tmp_path / "path")
    assert bulk(source + "/*.parquet", "--output", output, "--shard-rows", "100", "--resume") == 0


def test_what_is_not_local_is_written_whole_and_resumed(
    bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an object store: no renames, no locks. pyarrow's own file system below a folder stands for it."""
    from pyarrow import fs

    from runtime.bulk import storage

    store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    real = fs.FileSystem.from_uri

    class Places:
        @staticmethod
        def from_uri(place: str):  # type: ignore[no-untyped-def]
            return (store, place.removeprefix("s3://")) if place.startswith("s3://") else real(place)

    monkeypatch.setattr(storage.fs, "FileSystem", Places)
    write_parquet(tmp_path / "bucket" / "in" / "corpus.parquet", table(300))
    arguments = ["s3://bucket/in/", "--output", "s3://bucket/out", "--id-column", "id", "--shard-rows", "100"]
    assert bulk(*arguments) == 0
    local = ["--output", tmp_path / "local", "--id-column", "id", "--shard-rows", "100"]
    assert bulk(tmp_path / "bucket" / "in", *local) == 0
    written, expected = content(tmp_path / "bucket" / "out"), content(tmp_path / "local")
    data = [name for name in expected if not name.startswith("_")]
    assert data == [name for name in written if not name.startswith("_")]
    assert all(written[name] == expected[name] for name in data)
    (tmp_path / "bucket" / "out" / "part-00001.parquet").unlink()
    capsys.readouterr()
    assert bulk(*arguments, "--resume") == 0
    assert "part-00001.parquet is missing or changed: part 1 is done again" in capsys.readouterr().err
    assert content(tmp_path / "bucket" / "out") == written
    (tmp_path / "bucket" / "in" / "corpus.parquet").touch()
    assert bulk(*arguments, "--resume") == 2
    assert manifest(tmp_path / "bucket" / "out")["complete"]
