"""Finds the checkpoint: a folder as it is, or a hub name fetched with huggingface_hub."""

from __future__ import annotations

import re
from pathlib import Path

from export.errors import ExportError
from export.quiet import quiet

__all__ = ["provenance", "resolve"]

# What an export reads; the rest of a repository (other frameworks, ONNX files, remote code) is not fetched.
_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json", "vocab.txt")
_SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
_PICKLED_WEIGHTS = ("pytorch_model.bin",)
_HUB_NAME = re.compile(r"(?P<name>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w][\w./-]*))?", re.ASCII)
# Seconds until a silent network counts as none.
_TIMEOUT = 5.0


def resolve(source: str, revision: str | None = None) -> Path:
    """Find the folder of a checkpoint, fetching it where it is a hub name.

    :param source: a folder in Hugging Face layout, or a hub name such as ``jinaai/jina-embeddings-v2-small-en``,
        with ``@REVISION`` behind it for a branch, tag or commit.
    :param revision: the revision of a hub name, if not in ``source``.
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
    return _fetch(match["name"], revision or match["revision"])


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


def _fetch(name: str, revision: str | None) -> Path:
    import requests
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub import errors as hub

    def download(commit: str | None, weights: tuple[str, ...], *, offline: bool = False) -> Path:
        patterns = [*_FILES, *weights]
        return Path(
            snapshot_download(name, revision=commit, allow_patterns=patterns, local_files_only=offline)
        )

    try:
        with quiet(["huggingface_hub", "urllib3"]):
            try:
                # snapshot_download asks this too, but without a time limit.
                commit = HfApi().model_info(name, revision=revision, timeout=_TIMEOUT).sha
            except (requests.ConnectionError, requests.Timeout, hub.OfflineModeIsEnabled):
                # Where it was fetched before, the cache will do.
                return download(revision, (*_SAFE_WEIGHTS, *_PICKLED_WEIGHTS), offline=True)
            folder = download(commit, _SAFE_WEIGHTS)
            return folder if any(folder.glob("*.safetensors")) else download(commit, _PICKLED_WEIGHTS)
    except hub.GatedRepoError:
        raise ExportError(
            f"{name} is gated on the hub: log in with `hf auth login`, or pass a folder"
        ) from None
    except hub.RevisionNotFoundError:
        raise ExportError(f"{name} has no revision {revision!r} on the hub") from None
    except hub.RepositoryNotFoundError:
        raise ExportError(f"{name} is neither a folder here nor a model on the hub: check the name") from None
    except hub.HFValidationError as error:
        raise ExportError(f"{name!r} is not a hub name ({error})") from None
    except (hub.LocalEntryNotFoundError, requests.ConnectionError, requests.Timeout):
        raise ExportError(
            f"{name} is not a folder here, and the hub cannot be reached: fetch the model where there is a network "
            f"(hf download {name} --local-dir DIR) and pass that folder instead of the name"
        ) from None
    except (hub.HfHubHTTPError, requests.RequestException, OSError) as error:
        raise ExportError(f"{name} could not be fetched ({error}): try again, or pass a folder") from None
