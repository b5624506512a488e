"""The model that is shipped: what it says about real texts, and that its vectors depend on nothing but the text."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import Embedder
from tests.paths import MODELS, ROOT

pytestmark = pytest.mark.skipif(not any(MODELS.glob("*/manifest.json")), reason="no bundled model in models/")

WEATHER = ["How is the weather today?", "What is the current weather like today?"]
TAXES = "The tax return must be filed before the end of May."
SENTENCES = [
    *WEATHER,
    TAXES,
    "",
    "hello world",
    "Berlin",
    "The quick brown fox jumps over the lazy dog.",
    "Ein Satz auf Deutsch, mit Umlauten: äöü.",
    "Neural networks map a text to a vector; near vectors mean near texts. " * 4,
    "Whales are mammals, and breathe air. " * 90,  # about 700 tokens
    "A long report on the harvest of that year follows. "
    * 180,  # about 2,000 tokens, with blockwise attention
]


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    with Embedder(threads=2) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def alone(embedder: Embedder) -> list[np.ndarray]:
    """The vector of each of SENTENCES by itself."""
    return [embedder.encode(sentence) for sentence in SENTENCES]


def test_two_questions_about_the_weather_are_near_and_taxes_far(embedder: Embedder) -> None:
    near = embedder.similarity(*WEATHER)
    far = embedder.similarity(WEATHER, TAXES).max()
    assert near > 0.8
    assert far < 0.3


def test_a_question_finds_its_passage(embedder: Embedder) -> None:
    passages = [
        "The Amazon is the largest river by discharge of water in the world.",
        "Photosynthesis converts light into chemical energy in plants.",
        "The French Revolution began in 1789 with the storming of the Bastille.",
    ]
    questions = [
        "How do plants use sunlight?",
        "When did the French Revolution start?",
        "Which river carries most water?",
    ]
    assert embedder.similarity(questions, passages).argmax(axis=1).tolist() == [1, 2, 0]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.integers(0, len(SENTENCES) - 1), min_size=2, max_size=14), st.sampled_from([64, 1000, 4096])
)
def test_a_vector_has_the_same_bits_alone_and_in_any_batch(
    embedder: Embedder, alone: list[np.ndarray], numbers: list[int], batch_tokens: int
) -> None:
    vectors = embedder.encode([SENTENCES[number] for number in numbers], batch_tokens=batch_tokens)
    for number, vector in zip(numbers, vectors, strict=True):
        assert np.array_equal(vector, alone[number]), SENTENCES[number][:40]


def test_padding_changes_no_bit(embedder: Embedder) -> None:
    # encode pads little; here the graph itself is given 8 texts padded to the longest.
    texts = SENTENCES[:9]
    rows = [embedder.tokenizer.encode(text) for text in texts]
    width = max(map(len, rows))
    ids = np.array([row + [embedder.tokenizer.pad_id] * (width - len(row)) for row in rows], np.int64)
    mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], np.int64)
    hidden = embedder.model.session.run(ids, mask)
    for text, row, vectors in zip(texts, rows, hidden, strict=True):
        assert np.array_equal(vectors[: len(row)], embedder.encode_tokens(text).vectors)


def test_thread_counts_agree(alone: list[np.ndarray]) -> None:
    with Embedder(threads=1) as single:
        vectors = single.encode(SENTENCES)
    cosines = [float(a @ b) for a, b in zip(vectors, alone, strict=True)]
    assert min(cosines) > 0.9999


def test_pooling_by_hand_gives_the_vector(embedder: Embedder) -> None:
    tokens = embedder.encode_tokens(WEATHER[0])
    mean = tokens.vectors.mean(axis=0)
    np.testing.assert_allclose(embedder.encode(WEATHER[0]), mean / np.linalg.norm(mean), atol=1e-6)


def test_late_chunks_know_their_context(embedder: Embedder) -> None:
    text = (
        "Berlin is the capital of Germany. The city has 3.8 million inhabitants. It is known for its museums."
    )
    chunks = embedder.encode_chunks(text, spans=[(0, 33), (34, 71), (72, len(text))])
    separate = embedder.encode([chunk.text for chunk in chunks])
    query = embedder.encode("Berlin")
    late = [float(query @ chunk.vector) for chunk in chunks]
    assert all(score > float(query @ vector) for score, vector in zip(late[1:], separate[1:], strict=True))


def test_a_copied_package_with_models_beside_it_works_from_anywhere(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "runtime", tmp_path / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "models").symlink_to(MODELS)
    result = subprocess.run(
        [sys.executable, "-m", "runtime.embed", "--similarity", *WEATHER],
        cwd=tmp_path,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    matrix = np.array([line.split() for line in result.stdout.splitlines()], np.float32)
    assert matrix.shape == (2, 2)
    assert matrix[0, 1] > 0.8
