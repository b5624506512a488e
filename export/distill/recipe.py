"""The recipe: what is read, how the student starts, and how it is trained. A TOML file with the fields below."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.errors import ExportError

__all__ = ["NoiseFinetuning", "Recipe", "Source", "fingerprint", "load_recipe"]

LOSS_WEIGHTS = {  # of the parts of the loss, see losses.py
    "token": 1.0,
    "vector": 3.0,
    "similarity": 0.5,
    "document": 0.5,
    "pair": 0.5,
    "contrast": 0.1,
}


@dataclass(frozen=True)
class Source:
    """One file of text, a unit (sentence, definition, paragraph) a line."""

    file: str  # NAME.txt or NAME.txt.xz in the corpus folder
    texts: int = 0  # at most so many, chosen at random; 0: all
    prose: bool = False  # its lines follow each other, so that neighbours can be joined to long documents


@dataclass(frozen=True)
class NoiseFinetuning:
    """Steps under noise like int8's (noise.py), in which the learning rate falls to nothing once more."""

    steps: int
    noise: float  # of a channel, at most, relative to its token's largest
    learning_rate: float = 8e-5  # at the first of them
    words: int = 0  # texts of a single token in each step, besides its batch: the corpus has none


@dataclass(frozen=True)
class Recipe:
    """All that decides what comes out."""

    sources: tuple[Source, ...]
    # The student
    layers: tuple[int, ...] = (0, 1, 2, 3, 4, 5)  # of the first teacher, taken over in this order
    hidden: int = 512
    heads: int = 16
    intermediate: int = 1536
    constant: float = 2.0  # value of the dimension that is constant at the start, see initialize.py
    # Text
    seed: int = 1
    smallest_characters: int = 12
    longest_tokens: int = 192  # of a text in a batch of short texts
    batch_tokens: int = 3072
    document_tokens: tuple[int, ...] = (256, 512, 1024, 2048)  # of a document in a batch of long ones
    long_every: int = 4  # each such batch is one of long documents; 0: none
    pairs_every: int = 0  # each such batch is one of first sentences and what follows them; 0: none
    pair_tokens: int = 128  # of what follows, at most
    held_out_every: int = (
        0  # each such line of prose is kept out, for a retrieval score while training; 0: none
    )
    second_texts: int = 0  # texts that the second teacher is asked about; 0: it is not used
    second_tokens: int = 48  # of the longest of them
    # Optimisation
    steps: int = 2000
    warmup_steps: int = 50
    decay: float = 0.4  # the last share of the steps, in which the learning rate goes down to nothing
    learning_rate: float = 2e-4
    average: float = 0.99  # of the weights, per step
    noise_finetuning: tuple[NoiseFinetuning, ...] = ()  # what follows the steps
    temperature: float = 0.05
    second_weight: float = 0.4  # of the second teacher in how similar its texts should be
    weights: dict[str, float] = field(default_factory=lambda: dict(LOSS_WEIGHTS))


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    :param path: a TOML file: the fields of ``Recipe``, a table ``[[sources]]`` for each source and
        ``[[noise_finetuning]]`` for each stage under noise.
    :return: the recipe, checked.
    :raises ExportError: the file or a field is missing, unknown or of the wrong type.
    """
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"{path} cannot be read ({error.strerror}): give the recipe's file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} is not valid TOML: {error}") from None
    raw_sources = fields.pop("sources", None)
    if not isinstance(raw_sources, list) or not raw_sources:
        raise ExportError(f"{path} names no text: add [[sources]] tables with a file each")
    sources = tuple(_make(Source, source, f"{path}: [[sources]]") for source in raw_sources)
    raw_stages = fields.pop("noise_finetuning", [])
    if not isinstance(raw_stages, list):
        raise ExportError(f"{path}: noise_finetuning is {raw_stages!r}, expected tables [[noise_finetuning]]")
    stages = tuple(_make(NoiseFinetuning, part, f"{path}: [[noise_finetuning]]") for part in raw_stages)
    recipe: Recipe = _make(Recipe, {**fields, "sources": sources, "noise_finetuning": stages}, str(path))
    _check(recipe, path)
    return recipe


def fingerprint(recipe: Recipe) -> str:
    """Return all that a run must not change between its start and a resumption, as JSON.

    Steps may be added.
    """
    fields = dataclasses.asdict(recipe)
    for free in ("steps", "decay", "noise_finetuning"):
        del fields[free]
    return json.dumps(fields, sort_keys=True)


def _make(kind: Any, fields: Any, where: str) -> Any:
    if not isinstance(fields, dict):
        raise ExportError(f"{where} is {fields!r}, expected a table")
    known = {f.name: f for f in dataclasses.fields(kind)}
    for name, value in fields.items():
        if name not in known:
            raise ExportError(f"{where}: {name} is not a setting; there are {', '.join(known)}")
        if isinstance(value, list):
            fields[name] = value = tuple(value)
        default = known[name].default
        if default is dataclasses.MISSING:
            continue
        wanted = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool):
            raise ExportError(f"{where}: {name} is {value!r}, expected something like {default!r}")
    missing = [
        f.name
        for f in known.values()
        if f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and f.name not in fields
    ]
    if missing:
        raise ExportError(f"{where}: {', '.join(missing)} is missing")
    return kind(**fields)


def _check(recipe: Recipe, path: Path) -> None:
    for name in ("hidden", "heads", "intermediate", "longest_tokens", "batch_tokens", "steps"):
        if getattr(recipe, name) < 1:
            raise ExportError(f"{path}: {name} is {getattr(recipe, name)}, expected at least 1")
    if recipe.hidden % recipe.heads:
        raise ExportError(f"{path}: hidden {recipe.hidden} is not divisible by heads {recipe.heads}")
    if set(recipe.weights) != set(LOSS_WEIGHTS):
        raise ExportError(f"{path}: weights must name {', '.join(LOSS_WEIGHTS)}")
    for part in recipe.noise_finetuning:
        if part.steps < 1 or part.words < 0 or not 0 <= part.noise < 1:
            raise ExportError(
                f"{path}: [[noise_finetuning]] has {part}, expected at least 1 step and noise from 0 to 1"
            )
    if not 0 <= recipe.second_weight < 1 or not 0 <= recipe.average < 1 or not 0 <= recipe.decay <= 1:
        raise ExportError(f"{path}: second_weight, average and decay lie between 0 and 1")
