"""Finds the checkpoint: a folder as it is, or a hub name fetched with huggingface_hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from export import hub
from export.errors import ExportError

__all__ = ["provenance", "resolve"]

_HUB_NAME = re.compile(r"(?P<name>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w][\w./-]*))?", re.ASCII)


def resolve(
    source: str, revision: str | None = None, progress: Callable[[str], None] = lambda line: None
) -> Path:
    """Find the folder of a checkpoint, fetching it where it is a hub name.

    :param source: a folder in Hugging Face layout, or a hub name such as ``jinaai/jina-embeddings-v2-small-en``,
        with ``@REVISION`` behind it for a branch, tag or commit.
    :param revision: the revision of a hub name, if not in ``source``.
    :param progress: gets a line for what is fetched.
    :return: the folder.
    :raises ExportError: there is no such folder, no such name, or no network.
    """
    folder = Path(source).expanduser()
    if source and folder.is_dir():
        if revision is not None:
            raise ExportError(f"revision {revision!r} is for hub names, and {source!r} is a folder")
        return folder
    if source and folder.exists():
        raise ExportError(
            f"{source!r} is not a folder: give the folder that holds config.json and the weights"
        )
    match = _HUB_NAME.fullmatch(source)
    if match is None:
        raise ExportError(
            f"{source!r} is neither a folder nor a hub name: give a folder with config.json, or a name such as "
            "jinaai/jina-embeddings-v2-small-en"
        )
    if revision is not None and match["revision"] is not None:
        raise ExportError(f"{source!r} and revision {revision!r} both name a revision: give one")
    return hub.fetch(match["name"], revision or match["revision"], progress)


def provenance(source: str, folder: Path) -> dict[str, str | None]:
    """Say where a checkpoint came from, for the manifest.

    :param source: what was given to :func:`resolve`.
    :param folder: what it returned.
    :return: ``name`` (of the hub or of the folder) and ``revision`` (the commit on the hub, or None).
    """
    match = _HUB_NAME.fullmatch(source)
    if match is not None and not Path(source).expanduser().is_dir():
        # The cache of huggingface_hub keeps each commit in snapshots/COMMIT.
        return {"name": match["name"], "revision": folder.name}
    return {"name": folder.resolve().name, "revision": None}
