"""What a form of a linear layer costs: milliseconds and megabytes.

The milliseconds are those of one processor (AMD Zen 5 with AVX-512 VNNI), not of the one that exports: a model folder
runs anywhere, and the same checkpoint shall give the same folder, whatever else the machine does meanwhile.

    python -m tests.bench.int8 --costs      measures them on this machine
"""

from __future__ import annotations

import time

import numpy as np

from export import verify
from export.graph.builder import FLOAT, UINT8, Builder, value
from export.graph.encoder import Encoder
from export.graph.linear import Rows, linear
from export.graph.tokens import ZERO_POINT
from export.graph.weights import FORMS, Direct, quantized

__all__ = ["MILLISECONDS", "Cost", "costs", "measured"]

ROWS = 128  # tokens of a text
ROUNDS = 12
SHAPES = (
    (512, 512),
    (512, 2048),
    (2048, 512),
    (768, 768),
    (768, 3072),
    (3072, 768),
)  # of small-en and base-en
MILLISECONDS = {
    "int8": 0.20,
    "wide": 0.40,
    "fp32": 0.75,
}  # for a million weights and ROWS tokens, two threads

Cost = tuple[float, float]  # milliseconds for ROWS tokens, megabytes


def costs(encoder: Encoder) -> dict[tuple[str, str], Cost]:
    """Say what the matrices of a layer cost in each form.

    :param encoder: sizes and weights.
    :return: name of a matrix and form -> its cost.
    """
    found = {}
    for name in encoder.matrices:
        millions = encoder.layers[0][name + ".fp32"].size / 1e6
        for form in FORMS:
            found[name, form] = MILLISECONDS[form] * millions, (4 if form == "fp32" else 1) * millions
    return found


def measured(form: str, threads: int) -> float:
    """Measure the milliseconds of a form for a million weights and ROWS tokens: the median over SHAPES.

    :param form: of FORMS.
    :param threads: of one operator.
    :return: milliseconds on this machine.
    """
    return float(np.median([_milliseconds(shape, form, threads) / np.prod(shape) * 1e6 for shape in SHAPES]))


def _milliseconds(shape: tuple[int, int], form: str, threads: int) -> float:
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
