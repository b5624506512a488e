"""Every block of runtime/bulk/README.md, in its order, as a reader pastes it, with the real engines and stores."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Embedder
from tests.bulk.conftest import TIMEOUT
from tests.paths import ROOT
from tests.trust.processes import environment

pa = pytest.importorskip("pyarrow", reason='needs pip install "jinabert-runtime[bulk]"')

README = (ROOT / "runtime" / "bulk" / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ENGINES = {
    "Ray Data": ("ray.data", "vectors-ray"),
    "Spark": ("pyspark", "vectors-spark"),
    "datasets": ("datasets", "vectors-datasets.parquet"),
    "Dask": ("dask.dataframe", "vectors-dask"),
    "Daft": ("daft", "vectors-daft"),
}
STORES = {
    "Qdrant": "qdrant_client",
    "Qdrant, token vectors": "qdrant_client",
    "pgvector": "psycopg",
    "LanceDB": "lancedb",
    "Chroma": "chromadb",
}


def blocks(text: str) -> list[tuple[str, str]]:
    return BLOCK.findall(text)


def section(title: str, block: int = 0) -> str:
    """What is pasted below a heading."""
    found = re.search(rf"^### {title}\n(.*?)(?=^##|\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, title
    return blocks(found[1])[block][1]


def paste(kind: str, code: str, folder: Path, **env: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-c", code] if kind == "python" else ["bash", "-e", "-c", code]
    ended = subprocess.run(
        command,
        cwd=folder,
        env=environment(PATH=path, PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1", **env),
        capture_output=True,
        text=True,
        timeout=4 * TIMEOUT,
        check=False,
    )
    assert ended.returncode == 0, f"{code}\n{ended.stdout[-2000:]}{ended.stderr[-4000:]}"
    return ended.stdout


@pytest.fixture(scope="module")
def pasted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the blocks before the engines were run."""
    folder = tmp_path_factory.mktemp("readme")
    for kind, code in blocks(README.partition("## In engines")[0]):
        paste(kind, code, folder)
    return folder


@pytest.fixture(scope="module")
def expected(pasted: Path) -> np.ndarray:
    import pyarrow.parquet as pq

    with Embedder() as embedder:
        return embedder.encode(pq.read_table(pasted / "corpus.parquet")["text"].to_pylist())


def rows(path: Path) -> list[Any]:
    import pyarrow.dataset as ds

    return ds.dataset(path, format="parquet").to_table().to_pylist()


def test_the_commands_give_the_vectors_of_encode(pasted: Path, expected: np.ndarray) -> None:
    for name in ("vectors", "vectors-python"):
        assert np.array_equal(
            np.array([row["embedding"] for row in rows(pasted / name)], np.float32), expected
        )
    assert len(rows(pasted / "vectors-2020")) == sum(year >= 2020 and year != 2023 for year in _years())
    assert len(rows(pasted / "vectors-lines")) == 2000
    assert [row["file"] for row in rows(pasted / "vectors-file")] == ["corpus.txt"]
    assert not (pasted / "never-made").exists()


def _years() -> list[int]:
    return [2000 + number % 25 for number in range(2000)]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_engines(engine: str, pasted: Path, expected: np.ndarray) -> None:
    library, output = ENGINES[engine]
    pytest.importorskip(library, reason=f"needs {library}", exc_type=ImportError)
    if engine == "Spark" and shutil.which("java") is None:
        pytest.skip("Spark needs a Java runtime: apt-get install default-jre-headless")
    paste("python", section(engine), pasted)
    found = {row["text"]: row["embedding"] for row in rows(pasted / output)}
    texts = [row["text"] for row in rows(pasted / "corpus.parquet")]
    assert np.array_equal(np.array([found[text] for text in texts], np.float32), expected)


@pytest.mark.slow
def test_ray_goes_on_where_its_driver_was_killed(pasted: Path, expected: np.ndarray) -> None:
    pytest.importorskip("ray.data", reason="needs ray", exc_type=ImportError)
    small = "import ray\n\nray.data.DataContext.get_current().target_max_block_size = 100_000\n"  # bytes
    code = small + section("Ray Data", 1).replace('format="pyarrow"', 'format="pyarrow", batch_size=50')
    output = pasted / "vectors-ray-resumed"
    for _ in range(2):
        before = len(list(output.glob("*.parquet")))
        with (pasted / "ray.log").open("wb") as log:
            driver = subprocess.Popen(
                [sys.executable, "-c", code], cwd=pasted, env=environment(), stdout=log, stderr=log
            )
        deadline = time.monotonic() + TIMEOUT
        while len(list(output.glob("*.parquet"))) < before + 2 and driver.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        driver.kill()
        assert driver.wait() == -signal.SIGKILL, (pasted / "ray.log").read_text()
        time.sleep(5)  # until the processes that it started have ended too
    some = len(list(output.glob("*.parquet")))
    paste("python", code, pasted)
    assert len(list(output.glob("*.parquet"))) > some
    found = rows(output)
    assert sorted(row["id"] for row in found) == sorted(f"doc-{number}" for number in range(2000))
    vectors = {row["id"]: row["embedding"] for row in found}
    assert np.array_equal(
        np.array([vectors[f"doc-{number}"] for number in range(2000)], np.float32), expected
    )


@pytest.mark.slow
def test_lance(pasted: Path, expected: np.ndarray) -> None:
    pytest.importorskip("lance", reason="needs pylance")
    finish = (
        '\nimport pyarrow.dataset\nlance.write_dataset(pyarrow.dataset.dataset("vectors"), "vectors.lance")\n'
    )
    for name in ("corpus", "vectors"):
        finish += f'import numpy\nfound = lance.dataset("{name}.lance").to_table()["embedding"].to_pylist()\n'
        finish += f'numpy.save("{name}-lance.npy", numpy.array(found, numpy.float32))\n'
    paste("python", section("Lance") + finish, pasted)
    for name in ("corpus", "vectors"):
        assert np.array_equal(np.load(pasted / f"{name}-lance.npy"), expected)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A PostgreSQL with pgvector, from a package that brings it."""
    import warnings

    with warnings.catch_warnings():  # it looks for a runtime folder that servers have not
        warnings.simplefilter("ignore")
        pgserver = pytest.importorskip("pgserver", reason="needs pip install pgserver")
        folder = tempfile.mkdtemp(prefix="postgres-")  # as root it starts the server as a user of its own
        Path(folder).chmod(0o755)
        server = pgserver.get_server(folder)
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_stores(store: str, pasted: Path, request: pytest.FixtureRequest) -> None:
    pytest.importorskip(STORES[store], reason=f"needs {STORES[store]}")
    env = {"DATABASE_URL": request.getfixturevalue("database")} if store == "pgvector" else {}
    assert paste("python", section(store), pasted, **env).strip().endswith("doc-17")
