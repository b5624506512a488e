"""The same vectors with every supported onnxruntime: .ci/run runs this with the oldest and the newest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import Embedder
from tests.trust.golden import FP32, GOLDEN, fp32_texts, int8_texts


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[np.float32]]:
    return dict(np.load(GOLDEN))


def test_fp32_vectors(golden: dict[str, NDArray[np.float32]]) -> None:
    with Embedder(FP32, threads=1) as embedder:
        difference = np.abs(embedder.encode(fp32_texts()) - golden["fp32"]).max()
    assert difference <= 1e-6


def test_int8_vectors(golden: dict[str, NDArray[np.float32]], embedded: Path) -> None:
    with Embedder(embedded, threads=1) as embedder:
        assert embedder.manifest.files["model.onnx"].sha256 == str(golden["model"]), (
            "the bundled model is another one: remake its vectors with `python -m tests.trust.golden`"
        )
        vectors = embedder.encode(int8_texts(embedder.tokenizer)).astype(np.float64)
    assert (vectors * golden["int8"]).sum(axis=1).min() >= 0.9998
