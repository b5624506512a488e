"""The steps from fp32 weights to int8 that keeps a bound on the cosine: plain if that will do, else repaired."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.graph import EMBEDDINGS
from export.graph.encoder import Encoder
from export.graph.weights import INPUTS
from export.quantization.choice import Move, fewest, moves
from export.quantization.cost import costs
from export.quantization.observed import Observed, observe
from export.quantization.rounding import compensated, errors
from export.quantization.smoothing import smooth
from export.quantization.static import settle
from export.quantization.trial import Trial
from export.sample import (
    CALIBRATION_TEXTS,
    CALIBRATION_TOKENS,
    SAMPLE_TEXTS,
    SAMPLE_TOKENS,
    SENSITIVITY_TEXTS,
    SENSITIVITY_TOKENS,
    sample,
)
from export.unfinished import NOTHING_KEPT, Stages
from export.verify import Figures, Progress

__all__ = ["Quantized", "quantize", "sensitivities"]

Texts = Sequence[Sequence[int]]
MARGIN = 0.75  # of the distance to 1 that the sample may use up: the worst of all texts is worse


@dataclass
class Quantized:
    """Weights and the form of each linear layer; and how to go on if they turn out not to be close enough."""

    encoder: Encoder
    forms: dict[str, str]
    sensitivities: Mapping[str, Mapping[str, float]]  # name -> mean and worst cosine with it quantised alone
    steps: list[Figures] = field(default_factory=list)  # what was tried, with the cosine of the sample
    remaining: list[Move] = field(default_factory=list)  # what can still be done, best first
    repaired: bool = False  # smoothed and rounded with compensation
    static: bool = True  # inputs have one scale for all tokens where these are alike

    def further(self, share: float) -> Quantized:
        """Repair more.

        :param share: of the error that is left, which must be left over at most.
        :return: the same with as many moves as that takes, by their expected gain; at least one.
        """
        left = sum(move.gain for move in self.remaining)
        wanted, count = share * left, 0
        while count < len(self.remaining) and (count == 0 or left > wanted):
            left -= self.remaining[count].gain
            count += 1
        return dataclasses.replace(
            self, forms=_applied(self.forms, self.remaining[:count]), remaining=self.remaining[count:]
        )


def quantize(
    encoder: Encoder,
    texts: Texts,
    *,
    bound: float,
    threads: int,
    progress: Progress,
    hard: Texts = (),
    stages: Stages = NOTHING_KEPT,
) -> Quantized:
    """Bring an encoder into int8.

    :param encoder: sizes and weights, fp32.
    :param texts: token ids of the verification texts.
    :param bound: the least cosine to fp32.
    :param threads: of one operator.
    :param progress: gets a line for each step.
    :param hard: texts that missed the bound in an earlier try: added to the sample.
    :param stages: of the export.
    :return: weights and forms.
    """
    made: Quantized | None = None

    def chosen() -> Figures:
        nonlocal made
        made = _quantize(encoder, texts, bound, threads, progress, hard, stages)
        fields = ("forms", "sensitivities", "steps", "repaired", "static")
        document = {name: getattr(made, name) for name in fields}
        return document | {"remaining": [dataclasses.asdict(move) for move in made.remaining]}

    found = stages.figures("repairs-hard" if hard else "repairs", chosen)
    if made is not None:
        return made
    if found["static"]:
        encoder, _ = _with_parts(encoder, stages.arrays("static", dict))
    if found["repaired"]:
        encoder, _ = _with_parts(encoder, stages.arrays("rounded", dict))
    return Quantized(encoder, **found | {"remaining": [Move(**move) for move in found["remaining"]]})


def _quantize(
    encoder: Encoder,
    texts: Texts,
    bound: float,
    threads: int,
    progress: Progress,
    hard: Texts,
    stages: Stages,
) -> Quantized:
    target = 1 - MARGIN * (1 - bound)
    judged = [*sample(texts, SAMPLE_TEXTS, SAMPLE_TOKENS), *hard]
    steps: list[Figures] = []

    def note(what: str, cosines: NDArray[np.float64]) -> bool:
        worst, mean = float(cosines.min()), float(cosines.mean())
        steps.append({"step": what, "worst": round(worst, 7), "mean": round(mean, 7)})
        enough = worst >= target
        progress(
            f"{what}: {len(judged)} texts, worst cosine {worst:.5f}, mean {mean:.6f}: "
            + ("good enough" if enough else f"{target:.5f} is needed on this sample")
        )
        return enough

    with tempfile.TemporaryDirectory(prefix="jinabert-quantize-", dir=stages.work) as name:
        work = Path(name)
        settled = stages.arrays("static", lambda: _settled(encoder, texts, work, threads, progress))
        static, _ = _with_parts(encoder, settled)
        trial = Trial(static, work, threads)
        exact = trial.vectors(judged, {})
        plain = dict.fromkeys(trial.names, "int8")
        cosines = trial.cosines(judged, plain, exact)
        if note("int8, rounded to nearest", cosines):
            alone = stages.figures("layers-nearest", lambda: sensitivities(trial, texts, progress))
            return Quantized(static, plain, alone, steps)
        trial.close()
        trial = Trial(encoder, work, threads)
        by_token = trial.cosines(judged, plain, exact)
        note("the same with a scale for each token alone", by_token)
        trial.close()
        is_static = bool(by_token.mean() <= cosines.mean())
        if is_static:
            encoder = static
        rounded = stages.arrays("rounded", lambda: _repaired(encoder, texts, work, threads, progress))
        encoder, activations = _with_parts(encoder, rounded)
        trial = Trial(encoder, work, threads)
        good = note("int8, smoothed and rounded with compensation", trial.cosines(judged, plain, exact))
        alone = stages.figures("layers-rounded", lambda: sensitivities(trial, texts, progress))
        gains = {name: 1 - figures["mean"] for name, figures in alone.items()}
        table = (0.0, encoder.table.size * 3 / 1e6)
        ordered = moves(gains, activations, costs(encoder), table)
        if good:
            return Quantized(encoder, plain, alone, steps, ordered, repaired=True, static=is_static)

        def enough(count: int) -> bool:
            cosines = trial.cosines(judged, _applied(plain, ordered[:count]), exact)
            return note(f"{count} of {len(ordered)} repairs", cosines)

        count = fewest(len(ordered), enough)
        forms = _applied(plain, ordered[:count])
        return Quantized(encoder, forms, alone, steps, ordered[count:], repaired=True, static=is_static)


def sensitivities(trial: Trial, texts: Texts, progress: Progress) -> dict[str, dict[str, float]]:
    """Which linear layer costs most accuracy? Each is quantised alone, the rest staying fp32.

    :param trial: of the encoder.
    :param texts: token ids of the verification texts.
    :param progress: gets a line now and then.
    :return: name -> mean and worst cosine, the costliest first.
    """
    judged = sample(texts, SENSITIVITY_TEXTS, SENSITIVITY_TOKENS) or [min(texts, key=len)]
    exact = trial.vectors(judged, {})
    found = {}
    for count, name in enumerate(trial.names, start=1):
        cosines = trial.cosines(judged, {name: "int8"}, exact)
        found[name] = {"mean": round(float(cosines.mean()), 7), "worst": round(float(cosines.min()), 7)}
        if count % 10 == 0 or count == len(trial.names):
            progress(f"each linear layer in int8 alone: {count} of {len(trial.names)}")
    return dict(sorted(found.items(), key=lambda entry: (entry[1]["mean"], entry[0])))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Have torch compute with one thread.

    Rounding is many small steps: where other work shares the cores, threads would wait for each other all the time, and
    where none does, a second one gains little.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _settled(
    encoder: Encoder, texts: Texts, work: Path, threads: int, progress: Progress
) -> dict[str, NDArray[Any]]:
    """The parts of layers that one scale for all tokens changes or adds."""
    seen = _observed(encoder, texts, work, threads, progress)
    with _one_thread():
        layers, _ = settle(encoder.layers, seen)
    return _changes(encoder, layers)


def _repaired(
    encoder: Encoder, texts: Texts, work: Path, threads: int, progress: Progress
) -> dict[str, NDArray[Any]]:
    """Smooth and round all matrices: the parts of layers that are new, and each one's share of errors of its input."""
    seen = _observed(encoder, texts, work, threads, progress)
    with _one_thread():
        progress("smoothing")
        changed, seen = _smoothed(encoder, seen)
        changed, activations = _rounded(changed, seen, progress)
    shares = {f"activations/{name}": np.array(share) for name, share in activations.items()}
    return _changes(encoder, changed.layers) | shares


def _observed(
    encoder: Encoder, texts: Texts, work: Path, threads: int, progress: Progress
) -> dict[tuple[int, str], Observed]:
    """What goes into linear layers, as it is quantised."""
    progress("observing the inputs of the linear layers")
    seen = observe(encoder, sample(texts, CALIBRATION_TEXTS, CALIBRATION_TOKENS), work, threads)
    for number, arrays in enumerate(encoder.layers):
        for group in INPUTS:
            if group + ".factor" in arrays:
                factor = torch.from_numpy(arrays[group + ".factor"])
                seen[number, group] = seen[number, group].divided(1 / factor)
    return seen


def _changes(encoder: Encoder, layers: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The parts that are not the encoder's, by the number of their layer."""
    return {
        f"{number}/{part}": array
        for number, (before, after) in enumerate(zip(encoder.layers, layers, strict=True))
        for part, array in after.items()
        if array is not before.get(part)
    }


def _with_parts(encoder: Encoder, rounded: Mapping[str, NDArray[Any]]) -> tuple[Encoder, dict[str, float]]:
    """The encoder with the parts of :func:`_settled` or :func:`_repaired`, and the shares."""
    layers = [dict(arrays) for arrays in encoder.layers]
    activations = {}
    for key, array in rounded.items():
        number, _, part = key.partition("/")
        if number == "activations":
            activations[part] = float(array)
        else:
            layers[int(number)][part] = array
    return dataclasses.replace(encoder, layers=layers), activations


def _applied(forms: dict[str, str], chosen: Sequence[Move]) -> dict[str, str]:
    return {**forms, **{move.name: move.form for move in chosen}}


def _smoothed(
    encoder: Encoder, seen: dict[tuple[int, str], Observed]
) -> tuple[Encoder, dict[tuple[int, str], Observed]]:
    layers, seen = smooth(encoder, seen)
    return dataclasses.replace(encoder, layers=layers), seen


def _rounded(
    encoder: Encoder, seen: dict[tuple[int, str], Observed], progress: Progress
) -> tuple[Encoder, dict[str, float]]:
    """Round all matrices with compensation; also the part of each one's error that is due to its input."""
    layers, activations = [], {EMBEDDINGS: 0.0}
    for number, arrays in enumerate(encoder.layers):
        changed = dict(arrays)
        for group, matrices in INPUTS.items():
            observed = seen[number, group]
            names = [name for name in matrices if name + ".fp32" in arrays]
            whole = np.concatenate([arrays[name + ".fp32"] for name in names], axis=1)
            if group + ".factor" in arrays:
                whole = whole / arrays[group + ".factor"][:, None]
            int8, scale = compensated(whole, observed)
            step = float(arrays[group + ".step"]) if group + ".step" in arrays else None
            start = 0
            for name in names:
                columns = slice(start, start := start + arrays[name + ".fp32"].shape[1])
                mine = np.ascontiguousarray(int8[:, columns]), np.ascontiguousarray(scale[columns])
                changed |= {name + ".int8": mine[0], name + ".scale": mine[1]}
                by_rows, by_weights = errors(whole[:, columns], *mine, observed.rows, step)
                part = by_rows / (by_rows + by_weights) if by_rows else 0.0
                activations[f"encoder.layer.{number}.{name}"] = part
        layers.append(changed)
        progress(f"rounding with compensation: layer {number + 1} of {len(encoder.layers)}")
    return dataclasses.replace(encoder, layers=layers), activations
