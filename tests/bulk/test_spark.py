"""The function for mapInArrow on a local Spark."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime import Embedder
from tests.bulk.conftest import TIMEOUT, table, write_parquet
from tests.paths import ROOT
from tests.trust.processes import environment

pa = pytest.importorskip("pyarrow", reason='needs pip install "jinabert-runtime[bulk]"')
pytest.importorskip("pyspark", reason='needs pip install "jinabert-runtime[spark]"')
if shutil.which("java") is None:
    pytest.skip("Spark needs a Java runtime: apt-get install default-jre-headless", allow_module_level=True)

# In a process of its own: Spark keeps a Java machine, and its warnings are its own.
SPARK = """
import json, sys
from pyspark.sql import SparkSession
from runtime.bulk.spark import embed, schema

source, model, output = sys.argv[1:]
builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
builder = builder.config("spark.driver.host", "127.0.0.1").config("spark.sql.files.maxPartitionBytes", "16k")
spark = builder.getOrCreate()
frame = spark.read.parquet(source).select("id", "text")
found = frame.mapInArrow(embed(model=model, max_length=16), schema(frame))
rows = [[row.id, row.text, row.embedding] for row in found.collect()]
json.dump({"types": found.dtypes, "partitions": found.rdd.getNumPartitions(), "rows": rows}, open(output, "w"))
spark.stop()
"""


@pytest.mark.slow
def test_map_in_arrow_appends_the_vectors_of_encode(
    tiny: Embedder, tiny_folder: Path, tmp_path: Path
) -> None:
    data = table(3000)
    texts = [None if number == 7 else text for number, text in enumerate(data["text"].to_pylist())]
    data = data.set_column(1, "text", pa.array(texts, pa.string()))
    source = write_parquet(tmp_path / "corpus.parquet", data, row_group_size=500)
    arguments = [str(source), str(tiny_folder), str(tmp_path / "found.json")]
    ended = subprocess.run(
        [sys.executable, "-c", SPARK, *arguments],
        cwd=ROOT,
        env=environment(PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1"),
        capture_output=True,
        text=True,
        timeout=3 * TIMEOUT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["types"] == [["id", "string"], ["text", "string"], ["embedding", "array<float>"]]
    assert found["partitions"] > 1
    rows = {name: (text, vector) for name, text, vector in found["rows"]}
    assert rows.pop("doc-7") == (None, None)
    expected = {
        name: text for name, text in zip(data["id"].to_pylist(), texts, strict=True) if text is not None
    }
    assert {name: text for name, (text, _) in rows.items()} == expected
    vectors = np.array([rows[name][1] for name in expected], np.float32)
    assert np.array_equal(vectors, tiny.encode(list(expected.values()), max_length=16))
