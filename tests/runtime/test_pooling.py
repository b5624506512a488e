"""Means that are accurate at any length, and bit-identical in any batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import OutputError, pooling


def rows(count: int, width: int = 8, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, width)) + 3).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 8192, 32769])
def test_sums_are_as_good_as_exact_in_float32(count: int) -> None:
    values = rows(count)
    exact = np.array([math.fsum(column) for column in values.T.tolist()])
    assert np.abs(pooling.segment_sums(values[None])[0] / exact - 1).max() < 3e-7


@given(st.lists(st.integers(1, 200), min_size=1, max_size=6), st.booleans())
def test_a_text_is_bit_identical_alone_and_in_a_batch(lengths: list[int], normalize: bool) -> None:
    hidden = np.full((len(lengths), max(lengths), 24), np.nan, np.float32)  # padding that must not be read
    for number, length in enumerate(lengths):
        hidden[number, :length] = rows(length, 24, seed=number)
    together = pooling.normalize(pooling.mean_pool(hidden, np.array(lengths)), normalize)
    for number, length in enumerate(lengths):
        alone = pooling.normalize(
            pooling.mean_pool(hidden[number : number + 1, :length].copy(), np.array([length])), normalize
        )
        assert np.array_equal(alone[0], together[number])


def test_normalised_vectors_have_length_one_and_zero_stays_zero() -> None:
    vectors = pooling.normalize(np.array([[3.0, 4.0], [0.0, 0.0]]), unit_length=True)
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0]]


def test_each_row_may_ask_for_itself() -> None:
    vectors = pooling.normalize(np.array([[3.0, 4.0], [3.0, 4.0]]), [False, True])
    assert vectors.tolist() == [[3, 4], [np.float32(0.6), np.float32(0.8)]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_number(bad: float) -> None:
    hidden = np.ones((3, 2, 4), np.float32)
    hidden[1, 0, 2] = bad
    vectors = pooling.normalize(pooling.mean_pool(hidden, np.array([2, 2, 2])), unit_length=True)
    with pytest.raises(OutputError, match=r"texts\[41\]"):
        pooling.check_finite(vectors, "texts", [7, 41, 9])


def test_a_sum_beyond_float32_is_refused_too() -> None:
    vectors = pooling.normalize(np.array([[1e300, 1.0]]), unit_length=False)
    with pytest.raises(OutputError, match="NaN or infinity"):
        pooling.check_finite(vectors, "texts", [0])
