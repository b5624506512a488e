"""int8 for the pipeline: quantised, verified on all texts, repaired further for as long as the bound is missed.

It always leads somewhere: the last repair brings every linear layer back to fp32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export import baseline, folder, graph, trace, verify
from export.errors import ExportError
from export.graph.encoder import Encoder
from export.models import EncoderModel
from export.quantization import Quantized, quantize
from export.verify import Figures, Progress, Reference
from runtime.manifest import MODEL, MODEL_DATA

__all__ = ["BASELINE_TOKENS", "compare_optimum", "prove_int8"]

# The longest text that optimum's int8 is measured on: its graph holds several score tensors [heads, length, length] at
# once, 18 GB at 8192 tokens.
BASELINE_TOKENS = 2048
HARD_TEXTS, HARD_TOKENS = 12, 512  # of those that missed the bound, what joins the sample
SPARE = 0.8  # of the error that would be just good enough


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
) -> tuple[dict[str, Figures], Reference]:
    """Verify int8 on all texts, and repair it further where one misses the bound.

    :param made: what a sample of the texts found good enough.
    :param encoder: sizes and weights, fp32.
    :param tokens: token ids of the verification texts.
    :param reference: the fp32 graph.
    :param output: an existing folder, for model.onnx and model.onnx.data.
    :param bound: the least cosine of a text to fp32.
    :param threads: of one operator.
    :param progress: gets a line for each step.
    :return: figures for the manifest: ``int8``, ``quantization``, ``layers``; and the texts' vectors in fp32.
    :raises ExportError: a vector depends on its batch, or a value is not finite.
    """
    dense = graph.max_dense_tokens(encoder.shape.heads)
    exact = verify.fp32_reference(reference, tokens, dense, threads, progress)
    while True:
        folder.save_model(graph.build(made.encoder, forms=made.forms), output)
        progress(f"comparing int8 with fp32 on {len(tokens):,} texts")
        figures, cosines = verify.verify_int8(
            output / MODEL,
            exact,
            tokens,
            max_dense_tokens=dense,
            bound=bound,
            threads=threads,
            progress=progress,
        )
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
            made = quantize(encoder, tokens, bound=bound, threads=threads, progress=progress, hard=hard)
    return {"int8": figures, "quantization": _described(made), "layers": dict(made.sensitivities)}, exact


def compare_optimum(
    model: EncoderModel,
    ours: Path,
    tokens: Sequence[Sequence[int]],
    exact: Reference,
    work: Path,
    *,
    threads: int,
    progress: Progress,
) -> Figures:
    """Measure optimum's int8 of the same weights beside ours, on the same texts by turns.

    :param model: the torch model.
    :param ours: the folder with our int8 graph.
    :param tokens: token ids of the verification texts; those longer than BASELINE_TOKENS are left out.
    :param exact: their vectors in fp32.
    :param work: an existing folder, for optimum's graphs.
    :param threads: of one operator.
    :param progress: gets a line for each step.
    :return: for each of the two worst and mean cosine, bytes and tokens a second.
    """
    progress("making optimum's int8 of the same weights")
    trace.trace(model, work / "plain.onnx")
    baseline.quantize_optimum(work / "plain.onnx", work / "optimum.onnx")
    short = [index for index, text in enumerate(tokens) if len(text) <= BASELINE_TOKENS]
    texts = [tokens[index] for index in short]
    heads = model.config.num_attention_heads
    found: Figures = {"texts": len(texts), "tokens": sum(map(len, texts))}
    for name, path, dense in (
        ("ours", ours / MODEL, graph.max_dense_tokens(heads)),
        ("optimum", work / "optimum.onnx", None),
    ):
        session = verify.open_session(path, threads)
        vectors, seconds = verify.timed(session, texts, dense, name, progress)
        cosines = (exact.vectors[short] * vectors).sum(axis=1)
        files = [path, path.with_name(MODEL_DATA)] if name == "ours" else [path]
        found[name] = {
            "worst": round(float(cosines.min()), 7),
            "mean": round(float(cosines.mean()), 7),
            "bytes": sum(file.stat().st_size for file in files if file.is_file()),
            "tokens_per_second": round(sum(map(len, texts)) / seconds),
        }
    return found


def _described(made: Quantized) -> Figures:
    """What was chosen, for the manifest."""
    count = Counter(made.forms.values())
    return {
        "steps": made.steps,
        "repaired": made.repaired,
        "linear_layers": {form: count.get(form, 0) for form in ("int8", "wide", "fp32")},
        "wide": sorted(name for name, form in made.forms.items() if form == "wide"),
        "fp32": sorted(name for name, form in made.forms.items() if form == "fp32"),
    }
