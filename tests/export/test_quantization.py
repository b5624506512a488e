"""int8 that keeps a bound whatever the weights: rounding, smoothing, the choice of forms, the command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export import graph
from export.__main__ import main
from export.checkpoint import load_model
from export.graph.encoder import Encoder
from export.graph.weights import INPUTS, MATRICES, PAIR_SUM_LIMIT, WEIGHT_LIMIT, quantize_matrix
from export.quantization import Trial, quantize, sensitivities
from export.quantization.choice import Move, fewest, moves
from export.quantization.observed import Observed, observe
from export.quantization.rounding import compensated, errors
from export.quantization.smoothing import smooth
from export.quantization.static import settle
from export.sample import SAMPLE_TEXTS, sample
from runtime import Embedder
from tests.export.conftest import WORDS, tiny_fields, tiny_state, write_checkpoint
from tests.export.test_graph import run, session, tokens, unit


def silent(line: str) -> None:
    pass


def texts(count: int = 120, longest: int = 60) -> list[list[int]]:
    chance = np.random.default_rng(1)
    return [[2, *chance.integers(5, 60, length).tolist(), 3] for length in chance.integers(1, longest, count)]


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Path) -> Encoder:
    return load_model(tiny_checkpoint).export_weights()


def outlier_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """A tiny checkpoint that int8 does badly on: a few channels are many times larger than the others."""
    state = tiny_state(tiny_fields(), seed)
    for name in list(state):
        if name.endswith(("LayerNorm.weight", "layernorm.weight")):
            state[name][3] = 30.0
            state[name][17] = -25.0
    return state


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("hard"), tiny_fields(), outlier_state())


def observed(rows: torch.Tensor) -> Observed:
    return Observed(rows.T @ rows, len(rows), rows, rows.abs().amax(0))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 64, 130]), st.sampled_from([1, 7, 40]), st.booleans())
def test_compensated_rounding_keeps_the_limits_and_loses_less(
    seed: int, inputs: int, outputs: int, outlier: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator)
    rows = torch.randn(400, inputs, generator=generator) @ mixing  # inputs that go together
    matrix = torch.randn(inputs, outputs, generator=generator).numpy()
    if outlier:
        matrix[0] *= 50
    int8, scale = compensated(matrix, observed(rows))
    assert np.abs(int8.astype(int)).max() <= WEIGHT_LIMIT
    assert np.abs(int8[0::2].astype(int) + int8[1::2]).max() <= PAIR_SUM_LIMIT
    (_, ours), (_, nearest) = (
        errors(matrix, *each, rows) for each in ((int8, scale), quantize_matrix(matrix))
    )
    if inputs == 130 and not outlier:  # of two inputs, there is little to make up with
        assert ours < nearest / 1.5


def test_an_input_that_is_always_zero_is_no_trouble() -> None:
    rows = torch.randn(50, 8)
    rows[:, 3] = 0
    int8, scale = compensated(np.ones((8, 4), np.float32), observed(rows))
    assert np.isfinite(int8 * scale).all()
    int8, scale = compensated(np.zeros((8, 4), np.float32), observed(torch.zeros(5, 8)))
    assert not int8.any()


def test_smoothing_changes_no_bit_of_fp32(hard: Path, tmp_path: Path) -> None:
    encoder = load_model(hard).export_weights()
    layers, _ = smooth(encoder, observe(encoder, texts(), tmp_path, 1))
    smoothed = dataclasses.replace(encoder, layers=layers)
    assert any("attention.self.factor" in arrays for arrays in layers)
    assert any(
        (a["mlp.wo.fp32"] != b["mlp.wo.fp32"]).any() for a, b in zip(layers, encoder.layers, strict=True)
    )
    before, after = (session(graph.build(each, precision="fp32")) for each in (encoder, smoothed))
    for length in (7, 1300):
        np.testing.assert_array_equal(run(before, tokens(length)), run(after, tokens(length)))


def test_what_was_smoothed_is_what_would_be_observed(hard: Path, tmp_path: Path) -> None:
    encoder = load_model(hard).export_weights()
    layers, expected = smooth(encoder, observe(encoder, texts(), tmp_path, 1))
    found = observe(dataclasses.replace(encoder, layers=layers), texts(), tmp_path, 1)
    for key in expected:
        factor = torch.from_numpy(layers[key[0]].get(key[1] + ".factor", np.ones(1, np.float32)))
        np.testing.assert_allclose(expected[key].rows, found[key].rows * factor, rtol=1e-5, atol=1e-6)


def settled(encoder: Encoder, folder: Path) -> Encoder:
    layers, _ = settle(encoder.layers, observe(encoder, texts(), folder, 1))
    return dataclasses.replace(encoder, layers=layers)


@pytest.mark.parametrize("checkpoint", ["tiny_checkpoint", "hard", "t5_checkpoint"])
def test_one_scale_for_all_tokens_changes_no_bit_of_fp32(
    request: pytest.FixtureRequest, tmp_path: Path, checkpoint: str
) -> None:
    encoder = load_model(request.getfixturevalue(checkpoint)).export_weights()
    static = settled(encoder, tmp_path)
    assert all("mlp.step" in arrays for arrays in static.layers)
    before, after = (session(graph.build(each, precision="fp32")) for each in (encoder, static))
    for length in (7, 1300):
        np.testing.assert_array_equal(run(before, tokens(length)), run(after, tokens(length)))


@pytest.mark.parametrize("checkpoint", ["tiny_checkpoint", "es_checkpoint", "t5_checkpoint"])
def test_one_scale_for_all_tokens_is_about_as_close_in_both_branches(
    request: pytest.FixtureRequest, tmp_path: Path, checkpoint: str
) -> None:
    encoder = load_model(request.getfixturevalue(checkpoint)).export_weights()
    static = settled(encoder, tmp_path)
    exact = session(graph.build(encoder, precision="fp32"))
    graphs = [session(graph.build(each)) for each in (encoder, static)]
    for length in (7, 60, 1300):
        vector = unit(run(exact, tokens(length)))
        each, one = (1 - (unit(run(model, tokens(length))) * vector).sum() for model in graphs)
        assert one <= max(3 * each, 1e-3)


def test_a_text_of_one_scale_has_the_same_bits_in_any_batch(encoder: Encoder, tmp_path: Path) -> None:
    model = session(graph.build(settled(encoder, tmp_path)))
    ids = np.concatenate([tokens(40, seed) for seed in range(3)])
    mask = np.ones_like(ids)
    mask[1, 11:] = 0
    together = model.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    for row, length in enumerate((40, 11, 40)):
        alone = {"input_ids": ids[row : row + 1, :length], "attention_mask": mask[row : row + 1, :length]}
        np.testing.assert_array_equal(model.run(None, alone)[0][0], together[row, :length])


def test_tokens_that_are_not_alike_keep_a_scale_each(encoder: Encoder, tmp_path: Path) -> None:
    seen = observe(encoder, texts(), tmp_path, 1)
    for (_, group), observed in seen.items():
        if group == "mlp.wo":
            observed.largest[:] = 300 * observed.largest.max()  # of some token, in all channels
    layers, _ = settle(encoder.layers, seen)
    assert all("mlp.step" in arrays and "mlp.wo.step" not in arrays for arrays in layers)


@pytest.mark.parametrize("bound", [0.9, 0.99, 0.999, 0.99999])
def test_any_bound_is_kept_whatever_the_weights(hard: Path, bound: float) -> None:
    encoder = load_model(hard).export_weights()
    lines: list[str] = []
    made = quantize(encoder, texts(), bound=bound, threads=1, progress=lines.append)
    assert "int8, rounded to nearest: " in lines[1]  # known at once
    exact = session(graph.build(encoder, precision="fp32"))
    found = session(graph.build(made.encoder, forms=made.forms))
    judged = sample(texts(), SAMPLE_TEXTS, 128)
    cosines = [
        (unit(run(exact, ids)) * unit(run(found, ids))).sum() for ids in (np.array([text]) for text in judged)
    ]
    assert min(cosines) >= bound
    assert set(made.sensitivities) == set(graph.linear_names(encoder))
    if bound < 0.99999:
        assert set(made.forms.values()) != {"fp32"}


def test_weights_that_int8_suits_are_left_alone(encoder: Encoder) -> None:
    made = quantize(encoder, texts(), bound=0.9, threads=1, progress=silent)
    assert not made.repaired
    assert set(made.forms.values()) == {"int8"}
    layers = zip(made.encoder.layers, encoder.layers, strict=True)
    assert all(
        int8 not in ours
        and set(ours) - set(given) <= {f"{name}.{end}" for name in INPUTS for end in ("step", "factor")}
        for ours, given in layers
        for int8 in ("mlp.wo.int8", "mlp.up.int8")
    )


def test_further_repairs_end_in_fp32(hard: Path) -> None:
    encoder = load_model(hard).export_weights()
    made = quantize(encoder, texts(), bound=0.99, threads=1, progress=silent)
    rounds = 0
    while made.remaining:
        made = made.further(0.5)
        rounds += 1
        assert rounds < 100
    assert set(made.forms.values()) == {"fp32"}


def test_sensitivities_put_the_costliest_first(encoder: Encoder, tmp_path: Path) -> None:
    layers = [dict(arrays) for arrays in encoder.layers]
    layers[1]["mlp.wo.fp32"] = layers[1]["mlp.wo.fp32"].copy()
    layers[1]["mlp.wo.fp32"][0] *= 1000  # the scale of every output is that of one input
    trial = Trial(dataclasses.replace(encoder, layers=layers), tmp_path, 1)
    report = sensitivities(trial, texts(), silent)
    assert next(iter(report)) == "encoder.layer.1.mlp.wo"
    assert [entry["mean"] for entry in report.values()] == sorted(entry["mean"] for entry in report.values())


def test_moves_come_by_gain_for_cost() -> None:
    costs = {
        (name, form): (ms, mb)
        for name in MATRICES
        for form, ms, mb in (("int8", 1, 1), ("wide", 2, 1), ("fp32", 4, 4))
    }
    names = [graph.EMBEDDINGS, *(f"encoder.layer.0.{name}" for name in MATRICES)]
    gains = dict.fromkeys(names, 0.001) | {"encoder.layer.0.mlp.wo": 0.1, "encoder.layer.0.mlp.up": 0.02}
    activations = dict.fromkeys(names, 0.0) | {"encoder.layer.0.mlp.wo": 0.9, "encoder.layer.0.mlp.up": 0.1}
    ordered = moves(gains, activations, costs, (0.0, 12.0))
    assert [(move.name.rpartition("mlp.")[2], move.form) for move in ordered[:3]] == [
        ("wo", "wide"), ("up", "fp32"), ("wo", "fp32"),
    ]  # fmt: skip
    last = {move.name: move.form for move in ordered}
    assert last == dict.fromkeys(names, "fp32")
    assert all(isinstance(move, Move) for move in ordered)


@given(st.integers(0, 200), st.data())
def test_fewest_finds_the_first_that_is_enough(count: int, data: st.DataObject) -> None:
    needed = data.draw(st.integers(0, count))
    asked: list[int] = []

    def enough(number: int) -> bool:
        asked.append(number)
        return number >= needed

    assert fewest(count, enough) == needed
    assert len(asked) <= 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chance = np.random.default_rng(0)
    words = [word for word in WORDS if not word.startswith("##")]
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text(
        "\n".join(" ".join(chance.choice(words, length)) for length in chance.integers(1, 30, 1000))
    )
    return path


def test_hard_weights_are_exported_and_the_report_says_what_it_took(
    hard: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (hard / "tokenizer_config.json").write_text('{"model_max_length": 600}')
    arguments = [str(hard), "--output", str(tmp_path / "model"), "--texts", str(corpus), "--compare"]
    assert main([*arguments, "--min-cosine", "0.999"]) == 0
    printed = capsys.readouterr()
    figures = json.loads((tmp_path / "model" / "manifest.json").read_text())["verification"]
    assert figures["int8"]["worst"] >= figures["int8"]["least_allowed"] == 0.999
    assert figures["quantization"]["repaired"]
    assert figures["optimum"]["ours"]["worst"] > figures["optimum"]["optimum"]["worst"]
    for shown in (
        "repaired: smoothed, and rounded with compensation",
        "beside optimum",
        "tokens a second",
        "MB;",
    ):
        assert shown in printed.out
    first = next(
        number for number, line in enumerate(printed.err.splitlines()) if "rounded to nearest" in line
    )
    assert "comparing fp32 with torch" in "\n".join(printed.err.splitlines()[first:])
    with Embedder(tmp_path / "model", threads=1) as embedder:  # batch-invariant still
        lines = corpus.read_text().splitlines()[:40]
        together = embedder.encode(lines)
        assert all(
            (embedder.encode(line) == vector).all() for line, vector in zip(lines, together, strict=True)
        )


@pytest.mark.parametrize("value", ["0", "1", "-1", "nan", "x"])
def test_a_bound_that_is_none_is_one_line(
    hard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    assert main([str(hard), "--output", str(tmp_path / "model"), "--min-cosine", value]) == 2
    assert "must be a number above 0 and at most 0.99999" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--compare"], ["--min-cosine", "0.9"]])
@pytest.mark.parametrize("way", [["--precision", "fp32"], ["--scheme", "optimum"]])
def test_options_of_our_int8_are_refused_without_it(
    hard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str], way: list[str]
) -> None:
    assert main([str(hard), "--output", str(tmp_path / "model"), *option, *way]) == 2
    assert "is for our int8" in capsys.readouterr().err
