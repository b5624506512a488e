"""How good vectors are: similarity of sentences and retrieval, next to peers, and against the targets."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tests.bench import retrieval, sts, targets
from tests.bench.environments import CACHE
from tests.bench.report import Chart, Result, Table
from tests.bench.settings import Settings, SettingsError

if TYPE_CHECKING:
    from tests.bench.systems import System

__all__ = ["SETS", "evaluate", "quality"]

PEERS = CACHE / "quality"  # figures of the peers; delete it to measure them again
SETS = (*sts.SETS, *retrieval.SETS)
QUICK = 20  # pairs of a file, or queries
DRAWN = ("int8", "optimum", "minilm", "teacher", "bm25", "reranked")  # torch, fp32: bars as high as int8
Scores = dict[str, dict[str, float]]


def evaluate(
    encode: Callable[[list[str]], NDArray[np.float32]], sets: Sequence[str], *, limit: int | None = None
) -> Scores:
    """Score a model, whatever it is.

    :param encode: texts to vectors [n, D]; they need not have length 1.
    :param sets: of SETS.
    :param limit: only so many pairs of each file, or queries: quick, and the figures mean less.
    :return: set -> figures, from 0 to 1: ``spearman`` and more (sts.measure), or ``ndcg_at_10``, ``mrr_at_10``,
        ``hit_at_10`` (retrieval.score).
    :raises ValueError: there is no such set.
    """
    _check("set", sets, SETS)
    return {
        name: (sts.measure if name in sts.SETS else retrieval.measure)(encode, name, limit=limit)
        for name in sets
    }


def quality(settings: Settings) -> Result:
    """Measure the systems of settings.only on the sets of settings.cases, or all.

    :param settings: see there.
    :return: tables, plots, and `passed`: no required target was missed.
    :raises SettingsError: there is no such system or set, or the data is not on this machine.
    """
    from tests.bench import systems  # it needs the runtime, which evaluate() does not

    limit = QUICK if settings.quick else None
    try:
        _check("system", settings.only, systems.NAMES)
        _check("set", settings.cases, SETS)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    sets = [name for name in SETS if not settings.cases or name in settings.cases]
    for name in sets:
        if missing := [path for path in _files(name) if not path.exists()]:
            raise SettingsError(
                f"{missing[0]} does not exist: quality needs the sets there, or --sets others"
            )
    result = Result("quality")
    titles: dict[str, str] = {}
    scores: dict[str, Scores] = {}
    for name in settings.chosen(systems.NAMES):
        with ExitStack() as stack:
            try:
                system = systems.load(name, settings, stack)
            except (OSError, ImportError) as error:
                result.notes.append(f"not measured: {name}: {error}")
                continue
            if system.made_of is not None:
                result.notes.append(f"{system.title}: measured once; delete {PEERS} to measure again")
            titles[name] = system.title
            scores[name] = {}
            for chosen in sets:
                if system.encode is None and chosen in sts.SETS:
                    continue
                if reason := system.left_out.get(chosen):
                    result.notes.append(f"not measured: {system.title} on {chosen}: {reason}")
                    continue
                start = time.perf_counter()
                scores[name][chosen] = _remembered(system, chosen, limit)
                seconds = time.perf_counter() - start
                main = 100 * scores[name][chosen][targets.MAIN[chosen]]
                print(f"{system.title}: {chosen} {main:.2f} in {seconds:.0f} s", file=sys.stderr, flush=True)
    report(result, titles, scores)
    return result


def _remembered(system: System, name: str, limit: int | None) -> dict[str, float]:
    """Figures of a peer change with nothing here, and take an hour where other work runs: once is enough."""
    if system.made_of is None:
        return _measure(system, name, limit)
    digest = hashlib.sha256(f"{system.made_of} {name} {limit}".encode())
    for path in _files(name):
        digest.update(path.read_bytes())
    file = PEERS / f"{digest.hexdigest()[:32]}.json"
    try:
        known: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = _measure(system, name, limit)
        PEERS.mkdir(parents=True, exist_ok=True)
        started = file.with_suffix(".part")
        started.write_text(json.dumps(known), encoding="utf-8")
        started.replace(file)
    return known


def _measure(system: System, name: str, limit: int | None) -> dict[str, float]:
    if system.encode is not None:
        return evaluate(system.encode, [name], limit=limit)[name]
    assert system.search is not None
    return retrieval.measure_search(system.search, name, limit=limit)


def _files(name: str) -> list[Path]:
    if name in sts.SETS:
        return [sts.FOLDER / f"{part}.tsv" for part in sts.SETS[name]]
    return [retrieval.FOLDER / name / file for file in ("corpus.jsonl", "queries.jsonl", "qrels.tsv")]


def report(result: Result, titles: dict[str, str], scores: dict[str, Scores]) -> None:
    """Fill in tables, charts and data.

    :param result: to add to.
    :param titles: name of a system -> what it is called.
    :param scores: name of a system -> set -> figures.
    """
    order = [name for name in SETS if any(name in own for own in scores.values())]
    pairs, searched = ([name for name in order if name in kind] for kind in (sts.SETS, retrieval.SETS))
    for title, figure, names in (
        ("Similarity of sentences: Spearman x 100; a year's pairs pooled", "spearman", pairs),
        (
            "The same, mean over the files of a year",
            "mean_of_files",
            [name for name in pairs if len(sts.SETS[name]) > 1],
        ),
        ("Retrieval: nDCG@10 x 100", "ndcg_at_10", searched),
        ("Retrieval: MRR@10 x 100", "mrr_at_10", searched),
        ("Retrieval: hit rate@10 x 100", "hit_at_10", searched),
    ):
        if names:
            rows = [
                [name, *(_cell(scores[system].get(name, {}).get(figure)) for system in titles)]
                for name in names
            ]
            result.tables.append(Table(title, ["set", *titles.values()], rows))
    lines = targets.judge(scores)
    words = {True: "pass", False: "FAIL", None: "not measured"}
    judged = [
        [
            line.what,
            line.expected,
            line.found,
            words[line.passed] + ("" if line.required else " (not required)"),
        ]
        for line in lines
    ]
    result.tables.append(Table("Targets", ["target", "expected", "found", "verdict"], judged))
    result.passed = not any(line.required and line.passed is False for line in lines)
    passkey = [name for name in searched if name.startswith("passkey")]
    for title, y_label, names in (
        ("similarity of sentences", "Spearman x 100", pairs),
        ("retrieval", "nDCG@10 x 100", [name for name in searched if name not in passkey]),
        ("pass key by tokens of a document", "nDCG@10 x 100", passkey),
    ):
        if names:
            series = {
                titles[system]: [_points(scores[system].get(name, {}), name) for name in names]
                for system in titles
                if system in DRAWN or len(titles) == 1
            }
            if series:
                x = [name.removeprefix("passkey_") for name in names]
                result.charts.append(Chart(title, y_label, series, x, bars=True, width=2 + 1.3 * len(names)))
    result.data |= {
        "titles": titles,
        "scores": scores,
        "targets": [line._asdict() for line in lines],
        "passed": result.passed,
    }


def _points(figures: dict[str, float], name: str) -> float | None:
    value = figures.get(targets.MAIN[name])
    return None if value is None else 100 * value


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _check(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"there is no {what} {unknown[0]!r}: choose of {', '.join(known)}")
