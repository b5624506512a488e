"""Linear layers of all forms, and of several in one graph: int8, int8 with 16 bits for activations, fp32."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from export.checkpoint import load_model
from export.graph import MAX_DENSE_TOKENS, build, build_selectable, linear_names
from export.graph.encoder import Encoder
from export.graph.weights import FORMS, MATRICES, quantize_matrix, quantized
from tests.export.test_graph import run, session, tokens, unit


@pytest.fixture(params=["tiny_checkpoint", "six_heads_checkpoint"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return load_model(request.getfixturevalue(request.param)).export_weights()


def mixed_forms(encoder: Encoder) -> dict[str, str]:
    """Products of all three forms, in the same place of different layers and in the same layer."""
    names = linear_names(encoder)
    return {name: ("int8", "wide", "fp32", "int8", "fp32")[number % 5] for number, name in enumerate(names)}


def test_products_of_mixed_forms(encoder: Encoder) -> None:
    forms = mixed_forms(encoder)
    graph, dense = session(build(encoder, forms=forms)), session(build(encoder, forms=forms, blockwise=False))
    fp32, int8 = (session(build(encoder, precision=precision)) for precision in ("fp32", "int8"))
    for length in (2, 30, 700, MAX_DENSE_TOKENS + 200):
        ids = tokens(length)
        exact, found = unit(run(fp32, ids)), unit(run(graph, ids))
        assert (found * exact).sum() > (unit(run(int8, ids)) * exact).sum()
        assert (found * unit(run(dense, ids))).sum() > 0.9999


def test_sixteen_bits_for_activations_leave_the_error_of_the_weights(
    encoder: Encoder,
) -> None:
    rounded = [quantized(arrays, dict.fromkeys(MATRICES, "int8")) for arrays in encoder.layers]
    exact = [
        {**arrays, **{f"{name}.fp32": int8[name + ".int8"] * int8[name + ".scale"] for name in MATRICES}}
        for arrays, int8 in zip(encoder.layers, rounded, strict=True)
    ]
    forms = dict.fromkeys(linear_names(encoder)[1:], "wide")
    wide = session(build(encoder, forms=forms))
    reference = session(build(dataclasses.replace(encoder, layers=exact), precision="fp32"))
    for length in (30, MAX_DENSE_TOKENS + 200):
        ids = tokens(length)
        np.testing.assert_allclose(unit(run(wide, ids)), unit(run(reference, ids)), atol=3e-4)


@pytest.mark.parametrize("part", ["attention.self", "mlp"])
def test_a_factor_changes_no_vector_but_for_rounding(encoder: Encoder, part: str) -> None:
    hidden = encoder.shape.hidden
    factor = 2.0 ** np.random.default_rng(3).integers(-2, 3, hidden).astype(np.float32)
    takers = {"attention.self": ("query", "key", "value"), "mlp": ("gate", "up")}[part]
    layers = []
    for arrays in encoder.layers:
        changed = {**arrays, part + ".factor": factor}
        for name in (f"{part}.{taker}" for taker in takers):
            int8, scale = quantize_matrix(arrays[name + ".fp32"] / factor[:, None])
            changed |= {name + ".int8": int8, name + ".scale": scale}
            changed[name + ".fp32"] = (
                int8 * scale * factor[:, None]
            )  # what is left is the activations' rounding
        layers.append(changed)
    encoder = dataclasses.replace(encoder, layers=layers)
    forms = dict.fromkeys((f"encoder.layer.{i}.{part}.{taker}" for i in (0, 1) for taker in takers), "wide")
    forms[f"encoder.layer.1.{part}.{takers[0]}"] = "fp32"
    found, exact = session(build(encoder, forms=forms)), session(build(encoder, precision="fp32"))
    for length in (30, MAX_DENSE_TOKENS + 200):
        ids = tokens(length)
        np.testing.assert_allclose(unit(run(found, ids)), unit(run(exact, ids)), atol=3e-4)


def test_a_selectable_graph_is_each_of_its_choices(encoder: Encoder) -> None:
    graph = session(build_selectable(encoder))
    ids = tokens(40)
    names = linear_names(encoder)
    for forms in (dict.fromkeys(names, "fp32"), dict.fromkeys(names, "int8"), mixed_forms(encoder)):
        chosen = np.array([FORMS.index(forms[name]) for name in names])
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "forms": chosen}
        expected = run(session(build(encoder, forms=forms, blockwise=False)), ids)
        # Not to the bit: the scale of up's rows is multiplied in before, not after, the next product.
        assert (unit(graph.run(None, feed)[0]) * unit(expected)).sum() > 0.9999


@pytest.mark.parametrize("form", ["wide", "mixed"])
def test_padding_and_batch_mates_change_no_bit(encoder: Encoder, form: str) -> None:
    forms = mixed_forms(encoder) if form == "mixed" else dict.fromkeys(linear_names(encoder), form)
    graph = session(build(encoder, forms=forms))
    texts = [tokens(length, seed=length)[0] for length in (2, 7, 64, 65, 300, 511)]
    ids = np.zeros((len(texts), 520), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    together = run(graph, ids, mask)
    for row, text in enumerate(texts):
        np.testing.assert_array_equal(together[row, : len(text)], run(graph, text[None])[0])
