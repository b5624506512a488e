"""What goes in and what comes out, for each format."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Embedder, maxsim
from tests.bulk.conftest import Bulk, content, manifest, parts, read, rejects, table, vectors, write_parquet
from tests.tiny import make_model

pa = pytest.importorskip("pyarrow", reason='needs pip install "jinabert-runtime[bulk]"')
pq = pytest.importorskip("pyarrow.parquet")

ROWS = 250


@pytest.fixture(scope="module")
def data() -> Any:
    return table(ROWS)


@pytest.fixture(scope="module")
def expected(data: Any, tiny: Embedder) -> np.ndarray:
    return tiny.encode(data["text"].to_pylist())


def write(data: Any, path: Path) -> Path:
    """The table in the format that the name says."""
    match path.suffix:
        case ".parquet":
            return write_parquet(path, data)
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in data.to_pylist()), encoding="utf-8")
        case ".csv" | ".tsv":
            with path.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
                writer.writerow(data.column_names)
                writer.writerows(row.values() for row in data.to_pylist())
    return path


@pytest.mark.parametrize("name", ["corpus.parquet", "corpus.jsonl", "corpus.csv", "corpus.tsv"])
def test_vectors_are_those_of_encode_beside_the_kept_columns(
    name: str, data: Any, expected: np.ndarray, bulk: Bulk, tmp_path: Path
) -> None:
    source, output = write(data, tmp_path / name), tmp_path / "out"
    typed = "year" if name.endswith("parquet") else "year:int64"
    options = ["--id-column", "id", "--keep", f"{typed},title", "--shard-rows", "60"]
    assert bulk(source, "--output", output, *options) == 0
    found = read(output)
    assert found.column_names == ["id", "year", "title", "embedding"]
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 16)
    assert np.array_equal(vectors(found), expected)
    assert found["id"].to_pylist() == data["id"].to_pylist()
    assert found["year"].to_pylist() == data["year"].to_pylist()
    titles = [title or "" if name.endswith("sv") else title for title in data["title"].to_pylist()]
    assert found["title"].to_pylist() == titles
    assert sorted(path.name for path in output.glob("part-*")) == [f"part-{n:05d}.parquet" for n in range(5)]
    assert not (output / "_rejects.jsonl").exists()


def test_without_an_id_column_there_is_the_number_of_the_row(
    data: Any, expected: np.ndarray, bulk: Bulk, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    for number in range(5):
        write_parquet(folder / "sub" / f"{number}.parquet", data.slice(number * 50, 50), row_group_size=20)
    (folder / "_SUCCESS.parquet").write_bytes(b"passed over, as its name begins with an underscore")
    assert bulk(folder, "--output", tmp_path / "out", "--shard-rows", "64") == 0
    found = read(tmp_path / "out")
    assert found["row"].to_pylist() == list(range(1, ROWS + 1))
    assert np.array_equal(vectors(found), expected)


def test_a_pattern_names_files(data: Any, expected: np.ndarray, bulk: Bulk, tmp_path: Path) -> None:
    for number, name in enumerate(("a-1", "a-2", "b-1")):
        write_parquet(tmp_path / f"{name}.parquet", data.slice(number * 50, 50))
    assert bulk(tmp_path / "a-*.parquet", "--output", tmp_path / "out") == 0
    assert np.array_equal(vectors(read(tmp_path / "out")), expected[:100])


def test_a_folder_of_texts_gives_a_vector_a_file(bulk: Bulk, tiny: Embedder, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    found = {"a.txt": "hello\nworld", "deep/b.md": "", "deep/c.txt": "\ufeffabc"}
    for name, text in found.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "bad.txt").write_bytes(b"caf\xe9")
    (folder / ".hidden.txt").write_text("no")
    output = folder / "out"  # inside the input, and no part of it
    assert bulk(folder, "--output", output, "--max-rejects", "1") == 0
    shard = read(output)
    assert shard["file"].to_pylist() == ["a.txt", "deep/b.md", "deep/c.txt"]
    assert np.array_equal(vectors(shard), tiny.encode(["hello\nworld", "", "abc"]))
    assert [(bad["file"], bad["reason"]) for bad in rejects(output)] == [
        ("bad.txt", "not UTF-8: byte 4 of the file (unexpected end of data)")
    ]
    assert bulk(folder, "--output", output, "--resume", "--max-rejects", "1") == 0


def test_float16(data: Any, expected: np.ndarray, bulk: Bulk, tmp_path: Path) -> None:
    source = write(data, tmp_path / "corpus.parquet")
    options = ["--dtype", "float16", "--vector-column", "v"]
    assert bulk(source, "--output", tmp_path / "out", *options) == 0
    found = read(tmp_path / "out")
    assert found.schema.field("v").type == pa.list_(pa.float16(), 16)
    assert np.array_equal(vectors(found, "v"), expected.astype(np.float16))


@pytest.mark.parametrize(("dtype", "ids"), [("float32", "year"), ("float16", "id"), ("float32", None)])
def test_npy_with_ids(
    dtype: str, ids: str | None, data: Any, expected: np.ndarray, bulk: Bulk, tmp_path: Path
) -> None:
    source, output = write(data, tmp_path / "corpus.parquet"), tmp_path / "out"
    options = ["--format", "npy", "--dtype", dtype, "--shard-rows", "100"]
    assert bulk(source, "--output", output, *options, *(["--id-column", ids] if ids else [])) == 0
    parts = sorted(path.name.removesuffix(".ids.npy") for path in output.glob("*.ids.npy"))
    assert parts == ["part-00000", "part-00001", "part-00002"]
    found = np.concatenate([np.load(output / f"{part}.npy") for part in parts])
    names = np.concatenate([np.load(output / f"{part}.ids.npy") for part in parts])
    assert found.dtype == dtype
    assert np.array_equal(found, expected.astype(dtype))
    assert names.tolist() == (data[ids].to_pylist() if ids else list(range(1, ROWS + 1)))


def test_a_condition_skips_row_groups_and_rows(
    data: Any, expected: np.ndarray, bulk: Bulk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = write_parquet(tmp_path / "corpus.parquet", data, row_group_size=50), tmp_path / "out"
    condition = "year >= 2010 and not year in (2012, 2013) and title is not None"
    assert bulk(source, "--output", output, "--filter", condition) == 0
    rows = [
        number
        for number, row in enumerate(data.to_pylist())
        if row["year"] >= 2010 and row["year"] not in (2012, 2013) and row["title"] is not None
    ]
    found = read(output)
    assert found["row"].to_pylist() == [number + 1 for number in rows]
    assert np.array_equal(vectors(found), expected[rows])
    assert manifest(output)["totals"]["filtered"] == ROWS - len(rows)
    assert f"{ROWS - len(rows)} more left out by --filter" in capsys.readouterr().err


def test_row_groups_are_chosen_by_number_through_all_files(
    data: Any, expected: np.ndarray, bulk: Bulk, tmp_path: Path
) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", data.slice(0, 100), row_group_size=25)
    write_parquet(tmp_path / "in" / "b.parquet", data.slice(100), row_group_size=25)
    assert bulk(tmp_path / "in", "--output", tmp_path / "out", "--row-groups", "1,3-4") == 0
    rows = [*range(25, 50), *range(75, 125)]
    found = read(tmp_path / "out")
    assert found["row"].to_pylist() == [number + 1 for number in rows]
    assert np.array_equal(vectors(found), expected[rows])


def test_all_columns_are_kept_with_their_types(bulk: Bulk, tmp_path: Path) -> None:
    source = pa.table(
        {
            "text": pa.array(["hello", "world"]).dictionary_encode(),
            "tags": [["a", "b"], []],
            "when": pa.array([0, 1], pa.timestamp("ms", "UTC")),
            "about": [{"n": 1}, None],
        }
    )
    write_parquet(tmp_path / "corpus.parquet", source)
    assert bulk(tmp_path / "corpus.parquet", "--output", tmp_path / "out", "--keep", "*") == 0
    found = read(tmp_path / "out")
    assert found.column_names == ["row", "tags", "when", "about", "embedding"]
    for name in ("tags", "when", "about"):
        assert found[name].type == source[name].type
        assert found[name].to_pylist() == source[name].to_pylist()


def test_long_texts_end_a_shard_early(bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.bulk import rows

    monkeypatch.setattr(rows, "FIRST_CHARACTERS", 1000)
    monkeypatch.setattr(rows, "SHARD_CHARACTERS", 1000)
    write_parquet(tmp_path / "corpus.parquet", pa.table({"text": [f"{n} " + "x" * 300 for n in range(20)]}))
    lines = "".join(json.dumps({"text": f"{n} " + "x" * 300}) + "\n" for n in range(20))
    (tmp_path / "corpus.jsonl").write_text(lines)
    for name in ("corpus.parquet", "corpus.jsonl"):
        output = tmp_path / f"out-{name}"
        assert bulk(tmp_path / name, "--output", output) == 0
        assert 5 <= len(parts(output)) <= 10
        assert read(output)["row"].to_pylist() == list(range(1, 21))


def test_the_manifest_says_what_the_job_is_made_from_and_what_is_done(
    data: Any, bulk: Bulk, tmp_path: Path, tiny_folder: Path
) -> None:
    import hashlib

    source, output = write(data, tmp_path / "corpus.parquet"), tmp_path / "out"
    assert bulk(source, "--output", output, "--shard-rows", "100") == 0
    found = manifest(output)
    assert found["complete"]
    assert found["input"]["bytes"] == source.stat().st_size
    assert found["model"]["checksum"] == json.loads((tiny_folder / "manifest.json").read_text())["checksum"]
    assert found["options"]["shard_rows"] == 100
    assert found["totals"]["rows"] == found["totals"]["vectors"] == ROWS
    assert [part["rows"] for part in parts(output)] == [100, 100, 50]
    for part in parts(output):
        for name, size, sha256 in part["files"]:
            written = (output / name).read_bytes()
            assert (size, sha256) == (len(written), hashlib.sha256(written).hexdigest())


@pytest.mark.parametrize("name", ["empty.parquet", "empty.jsonl", "empty.csv"])
def test_no_rows_are_no_shards(name: str, bulk: Bulk, tmp_path: Path) -> None:
    write(table(1).slice(0, 0), tmp_path / name)
    assert bulk(tmp_path / name, "--output", tmp_path / "out") == 0
    assert set(content(tmp_path / "out")) == {"_manifest.json"}
    assert manifest(tmp_path / "out")["complete"]


def test_vectors_take_no_compression_and_no_dictionary(data: Any, bulk: Bulk, tmp_path: Path) -> None:
    bulk(write(data, tmp_path / "corpus.parquet"), "--output", tmp_path / "out")
    group = pq.read_metadata(tmp_path / "out" / "part-00000.parquet").row_group(0)
    columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
    assert columns["embedding.list.element"].compression == "UNCOMPRESSED"
    assert not columns["embedding.list.element"].has_dictionary_page
    assert columns["row"].compression == "ZSTD"


def test_vectors_are_cut_where_the_model_allows_it(data: Any, bulk: Bulk, tmp_path: Path) -> None:
    model = make_model(tmp_path / "truncatable", truncatable=True)
    source = write_parquet(tmp_path / "corpus.parquet", data)
    for format_ in ("parquet", "npy"):
        options = ["--model", model, "--dimensions", "6", "--id-column", "id", "--format", format_]
        assert bulk(source, "--output", tmp_path / format_, *options) == 0
        assert manifest(tmp_path / format_)["options"]["dimensions"] == 6
    with Embedder(model, threads=1) as embedder:
        expected = embedder.encode(data["text"].to_pylist(), dimensions=6)
    found = read(tmp_path / "parquet")
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 6)
    assert np.array_equal(vectors(found), expected)
    parts = sorted((tmp_path / "npy").glob("part-*[0-9].npy"))
    assert np.array_equal(np.concatenate([np.load(part) for part in parts]), expected)
    assert bulk(source, "--output", tmp_path / "refused", "--model", model, "--dimensions", "17") == 2


def test_token_vectors_of_a_job_score_as_those_of_encode_multivector(
    data: Any, bulk: Bulk, tiny: Embedder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from runtime.bulk import multivectors

    source = write_parquet(tmp_path / "corpus.parquet", data)
    options = ["--id-column", "id", "--token-vectors", "int8", "--max-length", "8"]
    assert bulk(source, "--output", tmp_path / "out", *options) == 0
    found = read(tmp_path / "out")
    assert found.schema.field("token_vectors").type == pa.list_(pa.list_(pa.int8(), 16))
    (query,) = tiny.encode_multivector(["hello jina"], query=True)
    expected = tiny.encode_multivector(data["text"].to_pylist(), dtype="int8", max_length=8)
    assert np.array_equal(maxsim(query, multivectors(found)), maxsim(query, expected))
    totals, counts = manifest(tmp_path / "out")["totals"], tiny.count_tokens(data["text"].to_pylist())
    assert totals["tokens"] == sum(min(count, 8) for count in counts)
    assert totals["truncated_texts"] == sum(count > 8 for count in counts) > 0
    assert totals["cut_tokens"] == sum(max(0, count - 8) for count in counts)
    assert bulk(source, "--output", tmp_path / "once", "--dedupe", *options) == 0
    assert read(tmp_path / "once") == found
    for wrong, message in {
        ("--format", "npy"): "npy holds one vector a row",
        ("--keep", "text:string"): "leave :string out",
        ("--vector-column", "token_vectors"): "two columns of the output would be called 'token_vectors'",
        ("--dimensions", "4"): "token_vectors with dimensions",
        (
            "--token-dimensions",
            "4",
        ): "token_dimensions=4: must be None, since the model folder has no token_rotation.npy",
    }.items():
        assert bulk(source, "--output", tmp_path / "wrong", *options, *wrong) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()
