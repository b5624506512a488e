"""Semantic textual similarity: Spearman's correlation of cosines with the scores people gave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.bench.vectors import encode_once, unit
from tests.paths import SHARED

__all__ = ["FOLDER", "SETS", "load", "measure", "spearman"]

FOLDER = SHARED / "data" / "sts"
# Set -> its files: a year of SemEval has one for each source of sentences
SETS = {
    "stsb_dev": ("stsb_dev",),
    "stsb_test": ("stsb_test",),
    "sts12": tuple(f"sts12_{part}_test" for part in ("MSRpar", "MSRvid", "OnWN", "SMTeuroparl", "SMTnews")),
    "sts13": tuple(f"sts13_{part}_test" for part in ("FNWN", "OnWN", "headlines")),
    "sts14": tuple(
        f"sts14_{part}_test"
        for part in ("OnWN", "deft-forum", "deft-news", "headlines", "images", "tweet-news")
    ),
    "sick_trial": ("sick_trial",),
}
Pairs = tuple[NDArray[np.float64], list[str], list[str]]


def load(path: Path) -> Pairs:
    """Return the scores, the first and the second sentences."""
    # Not splitlines(): U+2028 and the like are part of a sentence.
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n") if line]
    return np.array([float(row[0]) for row in rows]), [row[1] for row in rows], [row[2] for row in rows]


def measure(
    encode: Callable[[list[str]], NDArray[np.float32]],
    name: str,
    *,
    limit: int | None = None,
    folder: Path | None = None,
) -> dict[str, float]:
    """Score one set.

    :param encode: texts to vectors [n, D], of any length.
    :param name: a key of SETS.
    :param limit: only so many pairs of each file.
    :param folder: holds the files; None for FOLDER.
    :return: ``spearman``: over the pairs of all files of the set at once, as MTEB and SimCSE report a year;
        ``mean_of_files``: the plain mean over its files; ``pairs``: how many; and each file's own under its name
        where there are several.
    """
    files = [load((folder or FOLDER) / f"{part}.tsv") for part in SETS[name]]
    files = [(scores[:limit], first[:limit], second[:limit]) for scores, first, second in files]
    vectors = encode_once(encode, [text for _, *sides in files for side in sides for text in side])
    cosines = []
    for _, first, second in files:
        left, right = (unit(np.stack([vectors[text] for text in side])) for side in (first, second))
        cosines.append((left * right).sum(axis=1))
    own = [spearman(scores, cosine) for (scores, *_), cosine in zip(files, cosines, strict=True)]
    pooled = spearman(np.concatenate([scores for scores, *_ in files]), np.concatenate(cosines))
    pairs = float(sum(map(len, cosines)))
    found = {"spearman": pooled, "mean_of_files": float(np.mean(own)), "pairs": pairs}
    return found | (dict(zip(SETS[name], own, strict=True)) if len(own) > 1 else {})


def spearman(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return Pearson's correlation of ranks, where equal values have their mean rank."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(times) - (times - 1) / 2)[place]
