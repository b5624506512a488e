"""Vectors as JSON values."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.api.encoding import encoded, numbers


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=64))
def test_numbers_are_the_float32_again(values: list[float]) -> None:
    vector = np.array(values, np.float32)
    written = json.loads(json.dumps(numbers(vector)))
    np.testing.assert_array_equal(np.array(written, np.float32), vector)


def test_numbers_have_nine_digits_at_most() -> None:
    vector = np.random.default_rng(3).standard_normal(20_000).astype(np.float32)
    for scale in (1e-6, 1e-3, 0.04, 1, 1e5):
        scaled = vector * np.float32(scale)
        assert numbers(scaled) == [float(f"{value:.9g}") for value in scaled.tolist()]


def test_base64_is_little_endian_float32() -> None:
    vector = np.array([0, 1.5, -2], np.float32)
    value = encoded(vector, "base64")
    assert isinstance(value, str)
    assert base64.b64decode(value) == b"\0\0\0\0\0\0\xc0\x3f\0\0\0\xc0"


@pytest.mark.parametrize(("kind", "wanted"), [("ubinary", [0b10000001, 0b01000000]), ("binary", [1, -64])])
def test_bits_are_signs_with_the_first_number_highest(kind: str, wanted: list[int]) -> None:
    vector = np.array([3, 0, -1, -1, -1, -1, -1, 2, -1, 5], np.float32)
    assert encoded(vector, kind) == wanted
