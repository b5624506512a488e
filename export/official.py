"""Official checkpoints: what others have published about them is checked whenever one of them is exported.

Their weights are on the Hugging Face hub only, so that no test of this project sees them. A folder holds them for
certain if it has an official name, if a file of weights has a published hash, or if its vector of "hello world" is the
published one: then each figure that is missed refuses the export. A folder that only shares configuration or tokenizer
with one of them may be fine-tuned: what it misses is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from export.errors import ExportError
from export.gates import Digits, IdHash, Official, Scores, Subject, TokenizerHash
from export.published import OFFICIAL
from runtime.manifest import file_facts

__all__ = ["Known", "check", "identify", "official_name"]

_WEIGHTS = (".safetensors", ".bin")


class Known(NamedTuple):
    """An official checkpoint that a folder holds, or was made from."""

    name: str  # on the hub
    by: str  # what tells it
    certain: bool  # the weights are the official ones


def official_name(*candidates: str | None) -> str | None:
    """Tell whether a name is an official one.

    :param candidates: names that a checkpoint goes by: the source, ``_name_or_path`` of its config, ``--name``.
    :return: the official hub name that one of them is (with or without ``jinaai/``, or as the last part of a
        path or of a hub cache folder), or None.
    """
    for candidate in candidates:
        parts = (candidate or "").partition("@")[0].replace("--", "/").rstrip("/").split("/")
        for name in OFFICIAL:
            organisation, short = name.split("/")
            if (
                parts[-1] == short
                or parts[-2:] == [organisation, short]
                or f"models/{name}" in "/".join(parts)
            ):
                return name
    return None


def identify(
    candidates: Sequence[str | None], shape: tuple[str, int, int, int], subject: Subject
) -> Known | None:
    """Tell which official checkpoint a folder holds, or was made from.

    :param candidates: names that it goes by.
    :param shape: architecture, layers, hidden size, vocabulary.
    :param subject: the checkpoint.
    :return: what is known; None where nothing tells it.
    """
    if name := official_name(*candidates):
        return Known(name, "its name", True)
    entries = {name: entry for name, entry in OFFICIAL.items() if entry.shape == shape}
    known = {digest for entry in entries.values() for digest in (*entry.weights, *entry.files)}
    hashes = _hashes(subject, weights=any(entry.weights for entry in entries.values())) if known else {}
    for name, entry in entries.items():
        if own := [file for file, digest in hashes.items() if digest in entry.weights]:
            return Known(name, f"the hash of {own[0]}", True)
    for name, entry in entries.items():
        telling = next((gate for gate in entry.gates if isinstance(gate, Digits | Scores)), None)
        outcome = telling.run(subject) if telling is not None else None
        if outcome is not None and outcome.passed:
            return Known(name, outcome.what, True)
    for name, entry in entries.items():
        if own := [file for file, digest in hashes.items() if digest in entry.files]:
            return Known(name, f"the hash of {' and '.join(own)}", False)
        if _has_tokenizer(entry, subject):
            return Known(name, "its shape and the hash of its tokenizer", False)
    return None


def _hashes(subject: Subject, *, weights: bool) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint that may be known."""
    endings = (".json", *_WEIGHTS) if weights else (".json",)
    files = sorted(file for file in subject.folder.iterdir() if file.name.endswith(endings))
    return {file.name: file_facts(file).sha256 for file in files}


def _has_tokenizer(entry: Official, subject: Subject) -> bool:
    outcomes = [gate.run(subject) for gate in entry.gates if isinstance(gate, IdHash | TokenizerHash)]
    found = [outcome.passed for outcome in outcomes if outcome is not None]
    return bool(found) and all(found)


def check(known: Known, subject: Subject) -> dict[str, Any]:
    """Run the gates of an official checkpoint.

    :param known: which it is.
    :param subject: the checkpoint.
    :return: the figure of each gate, and whether it passed.
    :raises ExportError: the weights are official for certain, and one gate is missed.
    """
    outcomes = [(gate, gate.run(subject)) for gate in OFFICIAL[known.name].gates]
    found = [(gate, outcome) for gate, outcome in outcomes if outcome is not None]
    for gate, outcome in found:
        if known.certain and not outcome.passed:
            raise ExportError(
                f"{known.name}, known by {known.by}: {outcome.what}: {outcome.figure}, from what {gate.source} "
                f"publishes ({outcome.allowed}): not the official weights and tokenizer, or read wrongly"
            )
    gates = [outcome.document(gate.source) for gate, outcome in found]
    return {"name": known.name, "known_by": known.by, "gates": gates}
