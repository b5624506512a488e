"""Rerankers as peers on a tiny cross-encoder; the table beside ours; a checkpoint's names in GGUF."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime import Embedder
from runtime.reranker import Reranker
from tests.bench import convert, harness, settings, throughput
from tests.bench.corpora import save
from tests.bench.rankers import RANKERS
from tests.tiny import make_cross_encoder

TEXTS = ["hello", "world", "hello world", "a b c"]


def test_our_rankers_answer_in_the_order_given(tiny_folder: Path, tmp_path: Path) -> None:
    folder = make_cross_encoder(tmp_path / "cross")
    query, *documents = TEXTS
    expected = Reranker(folder).score([(query, text) for text in documents])
    options = {"model": str(folder), "threads": 1}
    with harness.Worker("ours", sys.executable, "rank-ours", options) as worker:
        worker.ask("texts", file=save(TEXTS, tmp_path / "texts.json"))
        worker.ask("vectors", file=str(tmp_path / "scores.npy"))
    assert np.array_equal(np.load(tmp_path / "scores.npy")[:, 0], expected)
    found = RANKERS["rank-late-interaction"](model=str(tiny_folder), threads=1).encode(TEXTS)
    with Embedder(tiny_folder) as embedder:
        assert embedder.rerank(query, documents)[0].index == int(found[:, 0].argmax())


def test_the_case_where_ours_does_worst_is_named() -> None:
    def timing(seconds: float) -> harness.Timing:
        return harness.Timing([harness.Block(seconds, 0.0)])

    whole = {
        "1x12": {"ours": timing(0.002), "llama.cpp Q8_0": timing(0.001), "fastembed": timing(0.008)},
        "1x512": {"ours": timing(1.5), "llama.cpp Q8_0": timing(3.0)},
    }
    cases = [case for case in throughput.CASES if case.name in whole]
    found = throughput.Found(whole, {}, {}, {}, {"ours": 2e8}, {"ours": 0.0, "llama.cpp Q8_0": 0.0005})
    table = throughput._beside(cases, ["ours", "llama.cpp Q8_0", "fastembed"], found)
    assert table.rows == [
        ["ours", "1 (2.00 ms)", "1 (1.50 s)", "", "200 MB", "0"],
        ["llama.cpp Q8_0", "0.50", "2.00", "0.50 (1x12)", "", "5.0e-04"],
        ["fastembed", "4.00", "", "4.00 (1x12)", "", ""],
    ]


def test_a_machine_is_described_with_every_table() -> None:
    about = harness.machine(2)
    assert {"processor", "instructions", "L2 a core", "onnxruntime", "threads"} <= about.keys()
    assert all(value != "" for value in about.values())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("embeddings.word_embeddings.weight", "token_embd.weight"),
        ("embeddings.LayerNorm.bias", "token_embd_norm.bias"),
        ("encoder.layer.3.attention.self.query.bias", "blk.3.attn_q.bias"),
        ("encoder.layer.11.mlp.gated_layers.weight", "blk.11.ffn_up.weight"),
    ],
)
def test_weights_have_the_names_that_llama_cpp_reads(name: str, expected: str) -> None:
    assert convert._gguf_name(name) == expected


@pytest.mark.parametrize(
    ("peer", "file"),
    [
        ("openvino default", "plain/model.onnx"),
        ("openvino static int8", "static/model.xml"),
        ("openvino dynamic int8", "dynamic/model.xml"),
        ("llama.cpp Q8_0", "q8_0/model.gguf"),
    ],
)
def test_each_peer_gets_the_form_that_its_name_says(
    peer: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, str]] = []
    monkeypatch.setattr(settings, "python_of", lambda environment: environment)
    monkeypatch.setattr(settings, "Worker", lambda name, python, kind, options: started.append(options))
    artifacts: Any = SimpleNamespace(
        model=tmp_path,
        plain=lambda: Path("plain"),
        openvino=lambda kind: f"{kind}/model.xml",
        gguf=lambda precision: f"{precision}/model.gguf",
    )
    settings.Settings(artifacts=artifacts, threads=1, rounds=1, folder=tmp_path).start(peer)
    assert started[0]["model"] == file
