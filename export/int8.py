"""int8 for the pipeline: quantised, verified on all texts, repaired further for as long as the bound is missed.

It always leads somewhere: the last repair brings every linear layer back to fp32.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export import baseline, folder, graph, trace, verify
from export.errors import ExportError
from export.graph.encoder import Encoder
from export.graph.weights import INPUTS
from export.models import EncoderModel
from export.quantization import Quantized, quantize
from export.sample import sample
from export.unfinished import NOTHING_KEPT, Stages, Unfinished
from export.verify import Figures, Progress, Reference
from runtime.manifest import MODEL, MODEL_DATA

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["BASELINE_TOKENS", "Proven", "compare_optimum", "prove_int8"]

# The longest text that optimum's int8 is measured on: its graph holds several score tensors [heads, length, length] at
# once, 18 GB at 8192 tokens.
BASELINE_TOKENS = 2048
HARD_TEXTS, HARD_TOKENS = 12, 512  # of those that missed the bound, what joins the sample
SPEED_TEXTS, SPEED_ROUNDS = 96, 3  # that speed is compared on
SPARE = 0.8  # of the error that would be just good enough


@dataclass(frozen=True)
class Proven:
    """An int8 graph that keeps the bound on all texts."""

    figures: dict[str, Figures]  # for the manifest: ``int8``, ``quantization``, ``layers``
    exact: Reference  # the texts in fp32
    cosines: NDArray[np.float64]  # of the texts in int8 to that


def prove_int8(
    made: Quantized,
    encoder: Encoder,
    tokens: Sequence[Sequence[int]],
    reference: Path,
    output: Path,
    *,
    bound: float,
    threads: int,
    progress: Progress,
    stages: Stages = NOTHING_KEPT,
) -> Proven:
    """Verify int8 on all texts, and repair it further where one misses the bound.

    :param made: what a sample of the texts found good enough.
    :param encoder: sizes and weights, fp32.
    :param tokens: token ids of the verification texts.
    :param reference: the fp32 graph.
    :param output: an existing folder, for model.onnx and model.onnx.data.
    :param bound: the least cosine of a text to fp32.
    :param threads: of one operator.
    :param progress: gets a line for each step.
    :param stages: of the export.
    :return: what was found.
    :raises ExportError: a vector depends on its batch, or a value is not finite.
    """
    dense = graph.MAX_DENSE_TOKENS
    exact = _exact(reference, tokens, dense, threads, progress, stages)
    for turn in count(1):
        folder.save_model(graph.build(made.encoder, forms=made.forms), output)
        progress(f"comparing int8 with fp32 on {len(tokens):,} texts")

        def verified() -> dict[str, Any]:
            figures, cosines = verify.verify_int8(
                output / MODEL,
                exact,
                tokens,
                max_dense_tokens=dense,
                bound=bound,
                threads=threads,
                progress=progress,
            )
            return {"figures": figures, "cosines": cosines.tolist()}

        found = stages.figures(f"int8-{turn}", verified)
        figures, cosines = found["figures"], np.array(found["cosines"])
        if cosines.min() >= bound:
            break
        progress(f"the worst text has cosine {cosines.min():.5f}, {bound} is needed: repairing further")
        if made.repaired and not made.remaining:
            raise ExportError(
                f"even in fp32 a text has cosine {cosines.min():.7f} to itself, less than the {bound} that "
                "--min-cosine asks for: pass a lower one, or export with --precision fp32"
            )
        if made.repaired:
            made = made.further(SPARE * (1 - bound) / (1 - float(cosines.min())))
        else:
            worst = np.argsort(cosines)[:HARD_TEXTS]
            hard = [tokens[index][:HARD_TOKENS] for index in worst.tolist()]
            made = quantize(
                encoder, tokens, bound=bound, threads=threads, progress=progress, hard=hard, stages=stages
            )
    described = {"int8": figures, "quantization": _described(made), "layers": dict(made.sensitivities)}
    return Proven(described, exact, cosines)


def _exact(
    reference: Path,
    tokens: Sequence[Sequence[int]],
    dense: int,
    threads: int,
    progress: Progress,
    stages: Stages,
) -> Reference:
    """The texts' vectors in fp32."""

    def encoded() -> dict[str, NDArray[np.float64]]:
        made = verify.fp32_reference(reference, tokens, dense, threads, progress)
        return {"vectors": made.vectors, "seconds": np.array(made.seconds)}

    found = stages.arrays("fp32-vectors", encoded)
    return Reference(found["vectors"], float(found["seconds"]))


def compare_optimum(
    model: EncoderModel,
    ours: Path,
    tokens: Sequence[Sequence[int]],
    proven: Proven,
    unfinished: Unfinished,
    *,
    threads: int,
    progress: Progress,
) -> Figures:
    """Measure optimum's int8 of the same weights beside ours, on the same texts.

    :param model: the torch model.
    :param ours: the folder with our int8 graph.
    :param tokens: token ids of the verification texts; those longer than BASELINE_TOKENS are left out.
    :param proven: what was found of ours.
    :param unfinished: of the export; optimum's graph is kept there.
    :param threads: of one operator.
    :param progress: gets a line for each step.
    :return: for each of the two worst and mean cosine, bytes and tokens a second, measured by turns on a sample.
    """

    def make(path: Path) -> None:
        progress("making optimum's int8 of the same weights")
        trace.trace(model, unfinished.work / "plain.onnx")
        baseline.quantize_optimum(unfinished.work / "plain.onnx", path)

    theirs = unfinished.file("optimum.onnx", make)
    short = [index for index, text in enumerate(tokens) if len(text) <= BASELINE_TOKENS]
    texts = [tokens[index] for index in short]
    dense = graph.MAX_DENSE_TOKENS
    sessions = {
        "ours": (verify.open_session(ours / MODEL, threads), dense),
        "optimum": (verify.open_session(theirs, threads), None),
    }
    vectors = verify.encode(sessions["optimum"][0], texts, None, "optimum", progress)
    cosines = {"ours": proven.cosines[short], "optimum": (proven.exact.vectors[short] * vectors).sum(axis=1)}
    speeds = _by_turns(sessions, sample(texts, SPEED_TEXTS, BASELINE_TOKENS))
    files = {"ours": [ours / MODEL, ours / MODEL_DATA], "optimum": [theirs]}
    found: Figures = {"texts": len(texts), "tokens": sum(map(len, texts))}
    for name in sessions:
        found[name] = {
            "worst": round(float(cosines[name].min()), 7),
            "mean": round(float(cosines[name].mean()), 7),
            "bytes": sum(file.stat().st_size for file in files[name] if file.is_file()),
            "tokens_per_second": speeds[name],
        }
    return found


def _by_turns(
    sessions: Mapping[str, tuple[onnxruntime.InferenceSession, int | None]], texts: Sequence[Sequence[int]]
) -> dict[str, int]:
    """Tokens a second of each session on the same texts: the median of some rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(SPEED_ROUNDS):
        for name, (session, dense) in sessions.items():
            seconds[name].append(verify.timed(session, texts, dense, "", lambda line: None)[1])
    return {name: round(sum(map(len, texts)) / statistics.median(each)) for name, each in seconds.items()}


def _described(made: Quantized) -> Figures:
    """What was chosen, for the manifest."""
    found = Counter(made.forms.values())
    return {
        "steps": made.steps,
        "repaired": made.repaired,
        "static": [name for name in INPUTS if f"{name}.step" in made.encoder.layers[0]],
        "linear_layers": {form: found.get(form, 0) for form in ("int8", "wide", "fp32")},
        "wide": sorted(name for name, form in made.forms.items() if form == "wide"),
        "fp32": sorted(name for name, form in made.forms.items() if form == "fp32"),
    }
