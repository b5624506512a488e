"""The bound that windows of keys rest on: what is left out weighs nothing, whatever queries and keys are."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.graph.builder import FLOAT, INT64, Builder, value
from export.graph.windows import BLOCK, EPSILON, grid, key_norms, window
from export.models.jinabert import alibi_slopes

HEADS, WIDTH = 4, 8
SLOPES = np.array(alibi_slopes(HEADS), np.float32)


@pytest.fixture(scope="module")
def windows() -> onnxruntime.InferenceSession:
    """A graph of q, k [heads, rows, width], length and block to start and end."""
    g = Builder()
    blocks = grid(g, "length", SLOPES)
    first = g("Mul", "block", np.int64(BLOCK))
    edges = [g("Unsqueeze", edge, np.array([0])) for edge in (first, g("Add", first, np.int64(BLOCK)))]
    own_q, own_k = (g.slice(name, *edges, [1]) for name in ("q", "k"))
    start, end = window(g, blocks, "block", own_q, own_k, key_norms(g, "k"))
    model = g.model(
        "windows",
        [
            value("q", FLOAT, [HEADS, "rows", WIDTH]),
            value("k", FLOAT, [HEADS, "rows", WIDTH]),
            value("length", INT64, []),
            value("block", INT64, []),
        ],
        [value(start, INT64, None), value(end, INT64, None)],
    )
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def check(graph: onnxruntime.InferenceSession, q: np.ndarray, k: np.ndarray, length: int) -> float:
    """Compare what is left out with a softmax over everything, in float64.

    :return: mean part of the keys that a block keeps.
    """
    rows = -(-length // BLOCK) * BLOCK
    padded_q, padded_k = (
        np.concatenate([x, np.full((HEADS, rows - length, WIDTH), 3, np.float32)], axis=1) for x in (q, k)
    )
    distance = np.abs(np.arange(length)[:, None] - np.arange(length))
    kept = []
    for block in range(rows // BLOCK):
        feed = {"q": padded_q, "k": padded_k, "length": np.array(length), "block": np.array(block)}
        start, end = graph.run(None, feed)
        here = slice(block * BLOCK, min((block + 1) * BLOCK, length))
        for head in range(HEADS):
            scores = q[head, here].astype(np.float64) @ k[head].astype(np.float64).T
            scores -= float(SLOPES[head]) * distance[here]
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            first, last = int(start[head, 0]), int(end[head, 0])
            assert 0 <= first <= here.start
            assert here.stop <= last <= length
            left_out = weights[:, :first].sum(axis=1) + weights[:, last:].sum(axis=1)
            assert left_out.max() <= EPSILON * (1 + 1e-3)
            kept.append((last - first) / length)
    return float(np.mean(kept))


def normal(seed: int, length: int, scale: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (HEADS, length, WIDTH)).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 1500),
    query_scale=st.sampled_from([0.0, 1e-3, 0.3, 1.0, 4.0]),
    key_scale=st.sampled_from([0.0, 1e-3, 0.3, 1.0, 4.0]),
    shared=st.sampled_from([0.0, 2.0]),
)
def test_random_queries_and_keys(
    windows: onnxruntime.InferenceSession,
    seed: int,
    length: int,
    query_scale: float,
    key_scale: float,
    shared: float,
) -> None:
    common = normal(seed + 2, 1, shared)  # a component that all keys share
    check(windows, normal(seed, length, query_scale), normal(seed + 1, length, key_scale) + common, length)


def test_a_far_key_that_matters_is_kept(windows: onnxruntime.InferenceSession) -> None:
    length = 2000
    q, k = normal(0, length, 0.1), normal(1, length, 0.1)
    k[:, 1990] = 0
    k[:, 1990, 0], q[:, 5, 0] = 1000, 10  # one query of the first block and one key of the last
    check(windows, q, k, length)


def test_own_keys_that_oppose_their_queries(windows: onnxruntime.InferenceSession) -> None:
    length = 1500
    q = normal(0, length, 2)
    check(windows, q, -q, length)


def test_one_row_with_a_low_denominator(windows: onnxruntime.InferenceSession) -> None:
    length = 1500
    q, k = normal(0, length, 0.5), normal(1, length, 0.5)
    around = slice(700, 764)
    q[:, 730], k[:, around] = 3, -3  # all keys near this query are bad for it
    check(windows, q, k, length)


def test_equal_scores_everywhere(windows: onnxruntime.InferenceSession) -> None:
    zeros = np.zeros((HEADS, 1000, WIDTH), np.float32)
    check(windows, zeros, zeros, 1000)


def test_steep_heads_are_cut(windows: onnxruntime.InferenceSession) -> None:
    length = 4096
    assert check(windows, normal(0, length, 0.5), normal(1, length, 0.5), length) < 0.75
