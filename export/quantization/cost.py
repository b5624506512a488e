"""What a form of a linear layer costs: milliseconds, measured here, and megabytes."""

from __future__ import annotations

import time

import numpy as np

from export import verify
from export.graph.builder import FLOAT, UINT8, Builder, value
from export.graph.encoder import Encoder
from export.graph.linear import Rows, linear
from export.graph.tokens import ZERO_POINT
from export.graph.weights import FORMS, Direct, quantized

__all__ = ["Cost", "costs"]

ROWS = 128  # tokens of a text
ROUNDS = 12

Cost = tuple[float, float]  # milliseconds for ROWS tokens, megabytes


def costs(encoder: Encoder, threads: int) -> dict[tuple[str, str], Cost]:
    """Measure the matrices of a layer in each form.

    :param encoder: sizes and weights.
    :param threads: of one operator.
    :return: name of a matrix and form -> its cost.
    """
    by_shape: dict[tuple[tuple[int, ...], str], Cost] = {}
    found: dict[tuple[str, str], Cost] = {}
    for name in encoder.matrices:
        shape = encoder.layers[0][name + ".fp32"].shape
        for form in FORMS:
            if (shape, form) not in by_shape:
                bytes_each = 4 if form == "fp32" else 1
                by_shape[shape, form] = _milliseconds(shape, form, threads), bytes_each * np.prod(shape) / 1e6
            found[name, form] = by_shape[shape, form]
    return found


def _milliseconds(shape: tuple[int, ...], form: str, threads: int) -> float:
    """The fastest of some runs of a linear layer alone."""
    part = "mlp.wo"  # the name says nothing here
    matrix = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    weights = Direct(g := Builder(), "", quantized({part + ".fp32": matrix}, {part: form}))
    rows = Rows("x", shape[0], "zero_points")
    linear(g, rows, weights, part)
    g.nodes[-1].output[0] = "y"
    inputs = [value("x", FLOAT, [ROWS, shape[0]]), value("zero_points", UINT8, [ROWS, 1])]
    model = g.model("linear", inputs, [value("y", FLOAT, [ROWS, shape[1]])])
    session = verify.open_session(model.SerializeToString(), threads)
    x = np.random.default_rng(1).standard_normal((ROWS, shape[0])).astype(np.float32)
    feed = {"x": x, "zero_points": np.full((ROWS, 1), ZERO_POINT, np.uint8)}
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - started)
    return min(times) * 1e3
