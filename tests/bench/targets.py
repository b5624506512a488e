"""What the bundled model must reach, and whether it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tests.bench import retrieval, sts

__all__ = ["MAIN", "SENTENCES", "Line", "judge"]

# Set -> its main figure
MAIN = dict.fromkeys(sts.SETS, "spearman") | dict.fromkeys(retrieval.SETS, "ndcg_at_10")
SENTENCES = ("sts12", "sts13", "sts14", "sick_trial")
STSB, STSB_STRETCH = 80.0, 82.0
BEHIND = 2.0  # points that the mean of SENTENCES may be behind MiniLM
SHARE = 0.95  # of MiniLM's nDCG@10
RETRIEVAL = ("cranfield", "cisi", "xquad_en")
LONG = tuple(f"passkey_{tokens}" for tokens in retrieval.LENGTHS if tokens >= 1024)
LOST = 0.2  # points that int8 may lose to fp32 on any set
Scores = Mapping[str, Mapping[str, Mapping[str, float]]]  # system -> set -> figure


class Line(NamedTuple):
    """A target."""

    what: str
    expected: str
    found: str
    passed: bool | None  # None: not measured
    required: bool = True


def judge(scores: Scores) -> list[Line]:
    """Compare scores with their targets.

    :param scores: of the systems "int8" and "minilm", and "onnx" or else "torch"; figures from 0 to 1.
    :return: a line for each target.
    """
    own, peer = scores.get("int8", {}), scores.get("minilm", {})
    lines = [
        _above("STS-B test", _points(own, "stsb_test"), STSB),
        _above("STS-B test, stretch", _points(own, "stsb_test"), STSB_STRETCH, required=False),
    ]
    for figure, how in (("spearman", "pairs of a year pooled"), ("mean_of_files", "mean over files")):
        what = f"mean of STS12-14 and SICK trial ({how}), MiniLM - {BEHIND:g}"
        ours, theirs = (_mean(side, figure) for side in (own, peer))
        lines.append(_above(what, ours, None if theirs is None else theirs - BEHIND))
    for name in RETRIEVAL:
        theirs = _points(peer, name)
        wanted = None if theirs is None else SHARE * theirs
        lines.append(_above(f"{name} nDCG@10, {SHARE:.0%} of MiniLM", _points(own, name), wanted))
    lines += [
        _above(f"{name} nDCG@10, ahead of MiniLM", _points(own, name), _points(peer, name), strictly=True)
        for name in LONG
    ]
    exact = scores.get("onnx") or scores.get("torch", {})
    lines.append(_kept("our int8 against fp32, every set", own, exact))
    lines.append(
        _kept("for comparison: optimum's int8", scores.get("optimum", {}), exact)._replace(required=False)
    )
    return lines


def _above(
    what: str, found: float | None, wanted: float | None, *, strictly: bool = False, required: bool = True
) -> Line:
    sign = ">" if strictly else ">="
    passed = None
    if found is not None and wanted is not None:
        passed = found > wanted if strictly else found >= wanted
    return Line(what, "-" if wanted is None else f"{sign} {wanted:.2f}", _text(found), passed, required)


def _kept(
    what: str, own: Mapping[str, Mapping[str, float]], exact: Mapping[str, Mapping[str, float]]
) -> Line:
    """Two-sided: a figure that rises by more is as much a sign that vectors changed."""
    changes = {
        name: 100 * (own[name][MAIN[name]] - exact[name][MAIN[name]])
        for name in MAIN
        if name in own and name in exact
    }
    if not changes:
        return Line(what, f"within {LOST:g}", "-", None)
    worst = max(changes, key=lambda name: abs(changes[name]))
    passed = abs(changes[worst]) <= LOST
    return Line(what, f"within {LOST:g}", f"{changes[worst]:+.2f} ({worst}, of {len(changes)} sets)", passed)


def _points(side: Mapping[str, Mapping[str, float]], name: str) -> float | None:
    return 100 * side[name][MAIN[name]] if name in side else None


def _mean(side: Mapping[str, Mapping[str, float]], figure: str) -> float | None:
    if any(name not in side for name in SENTENCES):
        return None
    return 100 * float(np.mean([side[name][figure] for name in SENTENCES]))


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
