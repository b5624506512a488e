"""Modules after pooling: their numbers, their file, and batch invariance to the last bit."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import modules
from runtime.errors import ModelError
from runtime.modules import Module

ROOT = Path(__file__).resolve().parents[2]


def dense(size: int, out: int, seed: int = 0, **changes: object) -> Module:
    """A Dense module with random arrays."""
    chance = np.random.default_rng(seed)
    module = Module("dense", size, out, bias=True)._replace(**changes)
    shapes = modules.array_shapes(module)
    return module._replace(
        arrays={name: chance.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    )


def layer_norm(size: int) -> Module:
    chance = np.random.default_rng(9)
    arrays = {name: chance.standard_normal(size).astype(np.float32) for name in ("weight", "bias")}
    return Module("layer_norm", size, size, arrays=arrays)


@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 40),
    size=st.integers(1, 300),
    out=st.integers(1, 300),
    activation=st.sampled_from(sorted(modules.ACTIVATIONS)),
)
@settings(max_examples=60, deadline=None)
def test_a_vector_has_the_same_bits_alone_and_in_any_batch(
    seed: int, rows: int, size: int, out: int, activation: str
) -> None:
    chain = [
        Module("normalize", size, size),
        dense(size, out, seed, activation=activation, use_residual=True),
        layer_norm(out),
        dense(out, 7, seed + 1, bias=False),
    ]
    vectors = np.random.default_rng(seed).standard_normal((rows, size)) * 3
    together = modules.apply(chain, vectors)
    assert together.shape == (rows, 7)
    for row in range(rows):
        alone = modules.apply(chain, vectors[row : row + 1].copy())
        assert alone.tobytes() == together[row : row + 1].tobytes()
    order = np.random.default_rng(seed + 1).permutation(rows)
    assert modules.apply(chain, vectors[order]).tobytes() == together[order].tobytes()


def test_threads_of_the_matrix_library_change_nothing() -> None:
    code = (
        "import hashlib, numpy as np\n"
        "from tests.runtime.test_modules import dense, fixed_point, modules\n"
        "chain = [dense(768, 512, activation='tanh'), fixed_point(512, 512), dense(512, 256)]\n"
        "vectors = np.random.default_rng(3).standard_normal((33, 768))\n"
        "print(hashlib.sha256(modules.apply(chain, vectors).tobytes()).hexdigest())"
    )
    found = set()
    for threads in ("1", "2", "5"):
        limits = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        command = [sys.executable, "-c", code]
        result = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **limits}, capture_output=True, text=True, check=True
        )
        found.add(result.stdout)
    assert len(found) == 1


def test_dense_is_its_formula() -> None:
    module = dense(5, 3, activation="relu", use_residual=True)
    vector = np.linspace(-1, 1, 5)
    arrays = {name: array.astype(np.float64) for name, array in module.arrays.items()}
    expected = np.maximum(arrays["weight"] @ vector + arrays["bias"], 0) + arrays["residual"] @ vector
    assert np.allclose(modules.apply([module], vector[None])[0], expected, rtol=0, atol=1e-15)
    square = dense(5, 5, bias=False, use_residual=True)
    expected = square.arrays["weight"].astype(np.float64) @ vector + vector
    assert np.allclose(modules.apply([square], vector[None])[0], expected, rtol=0, atol=1e-14)


def test_layer_norm_and_normalize_are_their_formulas() -> None:
    vector = np.arange(6.0)
    module = layer_norm(6)
    expected = (vector - 2.5) / math.sqrt(35 / 12 + 1e-5) * module.arrays["weight"] + module.arrays["bias"]
    assert np.allclose(modules.apply([module], vector[None])[0], expected, rtol=1e-14)
    unit = modules.apply([Module("normalize", 6, 6)], np.stack([vector, np.zeros(6)]))
    assert np.allclose(np.linalg.norm(unit[0]), 1)
    assert not unit[1].any()


def fixed_point(size: int, out: int, seed: int = 0) -> Module:
    """A Dense module with random int16 weights."""
    weight = np.random.default_rng(seed).integers(-(1 << 15), 1 << 15, (out, size)) / modules.INT16_SCALE
    return Module("dense", size, out, arrays={"weight": weight}, dtype="int16")


@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 40),
    size=st.integers(1, 600),
    out=st.integers(1, 300),
    power=st.integers(-100, 100),
)
@settings(max_examples=60, deadline=None)
def test_int16_weights_give_the_same_bits_alone_and_in_any_batch(
    seed: int, rows: int, size: int, out: int, power: int
) -> None:
    module = fixed_point(size, out, seed)
    vectors = np.ldexp(np.random.default_rng(seed).standard_normal((rows, size)), power)
    together = modules.apply([module], vectors)
    assert together.shape == (rows, out)
    exact = vectors @ module.arrays["weight"].T
    assert np.allclose(together, exact, rtol=0, atol=1e-7 * np.abs(vectors).max() * size)
    for row in range(rows):
        alone = modules.apply([module], vectors[row : row + 1].copy())
        assert alone.tobytes() == together[row : row + 1].tobytes()


def test_int16_holds_one_nearly() -> None:
    assert modules.rounded(np.array([1.0, -1.0, 0.5]), "int16").tolist() == [32767 / 32768, -1.0, 0.5]
    assert modules.rounded(np.array([1.0, 0.1]), "float32").tolist() == [1.0, float(np.float32(0.1))]


def test_int16_weights_take_zeros_and_what_is_not_finite() -> None:
    vectors = np.zeros((3, 8))
    vectors[1, 2], vectors[2, 3] = np.inf, np.nan
    found = modules.apply([fixed_point(8, 4)], vectors)
    assert not found[0].any()
    assert not np.isfinite(found[1:]).any()


@pytest.mark.parametrize(
    ("activation", "at", "value"),
    [
        ("gelu", 1.0, 0.8413447460685429),
        ("silu", 1.0, 0.7310585786300049),
        ("mish", 1.0, 0.8650983882673103),
        ("softplus", -800.0, 0.0),
        ("sigmoid", -800.0, 0.0),
        ("elu", -1.0, -0.6321205588285577),
        ("leaky_relu", -2.0, -0.02),
        ("hardswish", 1.0, 2 / 3),
    ],
)
def test_activations(activation: str, at: float, value: float) -> None:
    assert modules.ACTIVATIONS[activation](np.array([at]))[0] == pytest.approx(value, abs=1e-15)


def test_written_and_read_again_they_are_the_same(tmp_path: Path) -> None:
    chain = [dense(6, 4, activation="tanh", use_residual=True), fixed_point(4, 4), layer_norm(4)]
    chain.append(Module("normalize", 4, 4))
    (tmp_path / modules.MODULES_DATA).write_bytes(modules.pack(chain))
    entries = [modules.describe(module) for module in chain]
    again = modules.load_arrays(str(tmp_path), modules.parse(entries, 6, 100))
    vectors = np.random.default_rng(1).standard_normal((3, 6))
    assert modules.apply(again, vectors).tobytes() == modules.apply(chain, vectors).tobytes()


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    chain = modules.parse([modules.describe(dense(6, 4))], 6, 100)
    for content in (b"", modules.pack([dense(6, 4)]) + b"\0"):
        (tmp_path / modules.MODULES_DATA).write_bytes(content)
        with pytest.raises(ModelError, match=r"modules\.bin: .* bytes"):
            modules.load_arrays(str(tmp_path), chain)
    (tmp_path / modules.MODULES_DATA).unlink()
    with pytest.raises(ModelError, match=r"modules\.bin"):
        modules.load_arrays(str(tmp_path), chain)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {},
        {"type": "conv"},
        {"type": "layer_norm", "size": 6},
        {"type": "layer_norm", "size": 5, "eps": 1e-5},
        {"type": "layer_norm", "size": 6, "eps": "small"},
        modules.describe(dense(5, 4)),
        modules.describe(dense(6, 4)) | {"out_features": 0},
        modules.describe(dense(6, 4)) | {"out_features": 101},
        modules.describe(dense(6, 4)) | {"out_features": True},
        modules.describe(dense(6, 4)) | {"bias": 1},
        modules.describe(dense(6, 4)) | {"activation": "exec"},
        modules.describe(dense(6, 4)) | {"activation": []},
        modules.describe(dense(6, 4)) | {"dtype": "int8"},
        modules.describe(dense(6, 4)) | {"dtype": None},
        modules.describe(dense(6, 4)) | {"dtype": "int16"},
    ],
)
def test_other_entries_are_refused(entry: object) -> None:
    with pytest.raises(ValueError, match=r"modules\[0\]"):
        modules.parse([entry], 6, 100)
