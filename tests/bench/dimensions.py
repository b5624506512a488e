"""What vectors are worth when they are cut to 256, 128 and 64 dimensions, in float32, int8 and binary.

Each text is embedded once, by the rotated model (export/rotate.py), and the vectors are cut and quantised from there:
int8 as ``quantize_embeddings`` does it, with ranges from the set's own vectors; binary the signs, compared as vectors
of 1 and -1, which is Hamming distance.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime import Embedder, pooling
from runtime.integrations.sentence_transformers import quantize_embeddings
from tests.bench import quality, targets
from tests.bench.report import Chart, Result, Table
from tests.bench.settings import Settings, SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DIMENSIONS", "PRECISIONS", "dimensions", "reduce"]

DIMENSIONS = (512, 256, 128, 64)
PRECISIONS = ("float32", "int8", "binary")
SETS = ("stsb_test", "sick_trial", "sts12", "sts13", "sts14", "cranfield", "cisi", "xquad_en")
LOST = {256: 0.3, 128: 1.0}  # points that float32 may lose on any set


def reduce(vectors: NDArray[np.float32], size: int, precision: str) -> NDArray[np.float32]:
    """Reduce vectors to fewer numbers or bits.

    :param vectors: [n, D] of length 1.
    :param size: numbers to keep.
    :param precision: of PRECISIONS.
    :return: [n, size]: what the reduced vectors stand for.
    """
    kept = pooling.cut(vectors, min(size, vectors.shape[1]), True)
    if precision == "binary":
        return np.where(kept > 0, np.float32(1), np.float32(-1))
    if precision == "int8":
        low, high = kept.min(axis=0), kept.max(axis=0)
        levels = quantize_embeddings(kept, "uint8", np.stack([low, high]))
        return low + (levels + np.float32(0.5)) * (high - low) / 255
    return kept


def dimensions(settings: Settings) -> Result:
    """Measure the sets of settings.cases, or all.

    :param settings: see there.
    :return: a table for each precision, a plot, and `passed`: float32 loses no more than LOST.
    :raises SettingsError: there is no such set.
    """
    if unknown := sorted(settings.cases - set(SETS)):
        raise SettingsError(f"there is no set {unknown[0]!r}: choose of {', '.join(SETS)}")
    names = [name for name in SETS if not settings.cases or name in settings.cases]
    result = Result("dimensions")
    limit = quality.QUICK if settings.quick else None
    scores: dict[tuple[str, int], dict[str, float]] = {}
    with Embedder(_rotated(settings), threads=settings.threads) as embedder:
        sizes = sorted({min(size, embedder.dimension) for size in DIMENSIONS}, reverse=True)
        whole = remembering(embedder.encode)
        for name in names:
            for precision in PRECISIONS:
                for size in sizes:

                    def encode(
                        texts: list[str], size: int = size, precision: str = precision
                    ) -> NDArray[np.float32]:
                        return reduce(whole(texts), size, precision)

                    figures = quality.evaluate(encode, [name], limit=limit)[name]
                    scores.setdefault((precision, size), {})[name] = 100 * figures[targets.MAIN[name]]
            print(f"{name}: {scores['float32', sizes[0]][name]:.2f}", file=sys.stderr, flush=True)
        title = embedder.manifest.name
    for precision in PRECISIONS:
        rows = [[str(size), *(f"{scores[precision, size][name]:.1f}" for name in names)] for size in sizes]
        result.tables.append(Table(f"{title}, {precision}", ["dimensions", *names], rows))
    lost = {
        size: max(scores["float32", sizes[0]][name] - scores["float32", size][name] for name in names)
        for size in LOST
        if size < sizes[0]
    }
    result.notes += [
        f"{size} dimensions lose at most {found:.2f} points ({LOST[size]:g} allowed)"
        for size, found in lost.items()
    ]
    result.passed = all(found <= LOST[size] for size, found in lost.items())
    series: dict[str, list[float | None]] = {
        precision: [float(np.mean(list(scores[precision, size].values()))) for size in sizes]
        for precision in PRECISIONS
    }
    result.charts.append(
        Chart(
            "mean over the sets",
            "Spearman or nDCG@10 x 100",
            series,
            sizes,
            "dimensions",
            logarithmic=True,
            linear_y=True,
        )
    )
    result.data |= {
        "scores": {f"{precision}, {size}": own for (precision, size), own in scores.items()},
        "lost": lost,
    }
    return result


def remembering(
    encode: Callable[[list[str]], NDArray[np.float32]],
) -> Callable[[list[str]], NDArray[np.float32]]:
    """Return the same function, computing each text once."""
    known: dict[str, NDArray[np.float32]] = {}

    def remembered(texts: list[str]) -> NDArray[np.float32]:
        if new := [text for text in dict.fromkeys(texts) if text not in known]:
            known.update(zip(new, encode(new), strict=True))
        return np.stack([known[text] for text in texts])

    return remembered


def _rotated(settings: Settings) -> Path:
    """The model, or one made of it whose vectors can be cut."""
    if settings.artifacts.manifest.truncatable:
        return settings.artifacts.model
    from export import rotate, texts

    output = settings.folder / "rotated"
    if not output.exists():
        rotate.rotate(settings.artifacts.model, output, texts.load(None), force=False, progress=print)
    return output
