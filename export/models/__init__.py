"""The architectures that the export knows, one file each (``interface`` says what a file gives).

Which one a checkpoint is of is told by its parameter names; the repository that ``auto_map`` of config.json names must
not say otherwise. It never guesses: a plain BERT and every JinaBert say ``model_type: "bert"``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from export.config import CONFIG, read_json, require
from export.errors import ExportError, listing
from export.models import jinabert, jinabert_qk, t5
from export.models.interface import Architecture, EncoderConfig, EncoderModel

__all__ = ["ARCHITECTURES", "Architecture", "EncoderConfig", "EncoderModel", "load_config", "recognize"]

ARCHITECTURES = (jinabert.ARCHITECTURE, jinabert_qk.QK_DEVLIN_NORM, jinabert_qk.QK_POST_NORM, t5.ARCHITECTURE)


def load_config(folder: Path) -> EncoderConfig:
    """Read ``config.json`` of a checkpoint folder.

    :param folder: the checkpoint folder.
    :return: the configuration, every field checked.
    :raises ExportError: the file is missing or broken, or a field names something that is not implemented.
    """
    path = folder / CONFIG
    fields = read_json(path)
    types = [name for architecture in ARCHITECTURES for name in architecture.model_types]
    require(path, fields, "model_type", tuple(dict.fromkeys(types)), missing=None)
    kind = next(kind for kind in ARCHITECTURES if fields["model_type"] in kind.model_types)
    return kind.read_config(path, fields)


def recognize(folder: Path, keys: Iterable[str]) -> Architecture:
    """Tell the architecture of a checkpoint.

    :param folder: the checkpoint folder.
    :param keys: its parameter names, without a common prefix.
    :return: the architecture.
    :raises ExportError: the names are those of none, or of several, or config.json names another one.
    """
    marks = frozenset[str]().union(*(kind.marks for kind in ARCHITECTURES))
    found = frozenset(mark for key in keys for mark in marks if key.endswith("." + mark))
    by_names = next((kind for kind in ARCHITECTURES if kind.marks == found), None)
    if by_names is None:
        known = "; ".join(f"{kind.title}: {', '.join(sorted(kind.marks))}" for kind in ARCHITECTURES)
        seen = listing(sorted(found)) if found else "none of the parameters that tell an architecture"
        raise ExportError(f"{folder} is of no architecture that is implemented: it has {seen} ({known})")
    path = folder / CONFIG
    stated = _stated(path, read_json(path))
    if stated is not None and stated is not by_names:
        raise ExportError(
            f"{path} names the code of {stated.title}, and the weights are those of {by_names.title}: "
            "fetch both from one place"
        )
    return by_names


def _stated(path: Path, fields: dict[str, Any]) -> Architecture | None:
    """Which architecture config.json names by the code that it is made for."""
    for field in ("auto_map", "_name_or_path", "architectures", "model_type"):
        text = json.dumps(fields.get(field)).lower().replace("_", "-")
        for kind in ARCHITECTURES:
            if any(name in text for name in kind.code):
                return kind
    return None
