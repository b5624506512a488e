"""Official checkpoints: what others have published about them is checked whenever one of them is exported.

Their weights are on the Hugging Face hub only, so that no test of this project sees them. An official checkpoint is
known by its name, or by its vectors: a folder of any name whose weights give the published vector of "hello world"
holds them.
"""

from __future__ import annotations

from export.errors import ExportError
from export.gates import Digits, Scores, Subject
from export.published import OFFICIAL

__all__ = ["check", "official_name", "recognize"]


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


def recognize(shape: tuple[str, int, int, int], subject: Subject) -> str | None:
    """Tell an official checkpoint by its vectors.

    :param shape: architecture, layers, hidden size, vocabulary.
    :param subject: the checkpoint.
    :return: its hub name; None where it gives no published vector, or where none is published for its shape.
    """
    for name, entry in OFFICIAL.items():
        telling = next((gate for gate in entry.gates if isinstance(gate, Digits | Scores)), None)
        if entry.shape == shape and telling is not None:
            outcome = telling.run(subject)
            if outcome is not None and outcome.passed:
                return name
    return None


def check(name: str, subject: Subject) -> dict[str, object]:
    """Run the gates of an official checkpoint.

    :param name: its hub name.
    :param subject: the checkpoint.
    :return: the figure of each gate.
    :raises ExportError: one of them is missed.
    """
    found = [(gate, outcome) for gate in OFFICIAL[name].gates if (outcome := gate.run(subject)) is not None]
    for gate, outcome in found:
        if not outcome.passed:
            raise ExportError(
                f"{name}: {outcome.what}: {outcome.figure}, from what {gate.source} publishes ({outcome.allowed}): "
                "not the official weights and tokenizer, or read wrongly"
            )
    return {"name": name, "gates": [outcome.document(gate.source) for gate, outcome in found]}
