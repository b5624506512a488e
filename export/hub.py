"""Fetches a checkpoint from the Hugging Face hub: of a repository, only the files that an export reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from export.errors import ExportError, listing
from export.layouts import PICKLED, PICKLED_INDEX, SAFETENSORS, SAFETENSORS_INDEX
from export.quiet import quiet

__all__ = ["fetch", "needed"]

# Configuration of models, tokenizers and sentence-transformers' modules; adapters, to be refused by what they are.
_CONFIGURATION = re.compile(
    r"config\.json|config_sentence_transformers\.json|sentence_\w+_config\.json|modules\.json|adapter_config\.json"
    r"|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\.txt|vocab\.json|merges\.txt|spiece\.model|sentencepiece\.bpe\.model"
)
# Folders that hold parts of the checkpoint: the modules of sentence-transformers, such as 0_Transformer and 2_Dense.
_MODULE = re.compile(r"\d+_\w+")
# Ways to store weights, the best first: the file that must be there, and its shards.
_WEIGHTS = (
    (SAFETENSORS, None),
    (SAFETENSORS_INDEX, re.compile(r"model-\d+-of-\d+\.safetensors")),
    (PICKLED, None),
    (PICKLED_INDEX, re.compile(r"pytorch_model-\d+-of-\d+\.bin")),
)
_TIMEOUT = 5.0  # seconds until a silent network counts as none


def needed(files: Sequence[str]) -> list[str]:
    """Pick what an export reads out of a repository.

    :param files: paths of all files.
    :return: configuration and tokenizers, and of each folder one form of its weights: pickled ones only where there are
        no others; never ONNX, Core ML, OpenVINO, other frameworks or code.
    """
    folders: dict[str, list[str]] = {}
    for path in map(PurePosixPath, files):
        if len(path.parts) == 1 or (len(path.parts) == 2 and _MODULE.fullmatch(path.parts[0])):
            folders.setdefault(str(path.parent), []).append(path.name)
    picked = []
    for folder, names in folders.items():
        kept = [name for name in names if _CONFIGURATION.fullmatch(name)]
        for single, shards in _WEIGHTS:
            if single in names:
                kept.append(single)
                kept += [name for name in names if shards is not None and shards.fullmatch(name)]
                break
        picked += [name if folder == "." else f"{folder}/{name}" for name in kept]
    return sorted(picked)


def fetch(name: str, revision: str | None, progress: Callable[[str], None] = lambda line: None) -> Path:
    """Fetch a checkpoint, or find it in the cache where there is no network.

    :param name: of the repository, ``ORG/NAME``.
    :param revision: branch, tag or commit; None for the main branch.
    :param progress: gets a line for what is fetched.
    :return: its folder in the cache of huggingface_hub.
    :raises ExportError: it is not there, not allowed, or cannot be fetched.
    """
    import requests
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub import errors as hub

    def cached(reason: str) -> Path:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        if not _has_weights(needed(names)):
            raise ExportError(
                f"{name} is in the cache without its weights ({folder}), and {reason}: fetch it where there is a "
                f"network (hf download {name})"
            )
        progress(f"{reason}: taking {name} from the cache, commit {folder.name}")
        return folder

    try:
        with quiet(["huggingface_hub", "urllib3"]):
            try:
                # snapshot_download asks this too, but without a time limit.
                info = HfApi().model_info(name, revision=revision, timeout=_TIMEOUT)
            except hub.OfflineModeIsEnabled:
                return cached("HF_HUB_OFFLINE is set")
            except (requests.ConnectionError, requests.Timeout):
                return cached("the hub cannot be reached")
            files = [entry.rfilename for entry in info.siblings or []]
            wanted = needed(files)
            if not _has_weights(wanted):
                holds = listing(sorted(files), 6) or "no file"
                raise ExportError(
                    f"{name} on the hub holds no weights that can be read (it has {holds}): name the repository that "
                    "it was made from"
                )
            progress(f"fetching {len(wanted)} of the {len(files)} files of {name}, commit {info.sha}")
            # By the name of the revision, not by its commit: only then does the cache find it by that name later.
            return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except hub.GatedRepoError:
        raise ExportError(
            f"{name} is gated: accept its terms on its page of the hub and log in with `hf auth login`, or pass a "
            "folder"
        ) from None
    except hub.DisabledRepoError:
        raise ExportError(f"{name} was disabled on the hub: pass a folder") from None
    except hub.RevisionNotFoundError:
        raise ExportError(
            f"{name} has no revision {revision!r} on the hub: name a branch, tag or commit"
        ) from None
    except hub.RepositoryNotFoundError:
        raise ExportError(
            f"{name} is neither a folder here nor a model on the hub: check the name, or log in with `hf auth login` "
            "if it is private"
        ) from None
    except hub.HFValidationError as error:
        raise ExportError(f"{name!r} is not a hub name ({error})") from None
    except hub.LocalEntryNotFoundError:
        raise ExportError(
            f"{name} is neither a folder here nor in the cache, and the hub cannot be reached: fetch the model where "
            f"there is a network (hf download {name} --local-dir DIR) and pass that folder instead of the name"
        ) from None
    except (requests.RequestException, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401:
            raise ExportError(
                f"the hub refuses your token (401) for {name}: log in again with `hf auth login`, or unset HF_TOKEN"
            ) from None
        reason = f"the hub answers {status}" if status else _reason(error)
        raise ExportError(
            f"{name} could not be fetched ({reason}): run the same again, which goes on where it stopped, or pass a "
            "folder"
        ) from None


def _has_weights(files: Sequence[str]) -> bool:
    weights = {single for single, _ in _WEIGHTS} | {
        "adapter_config.json"
    }  # an adapter is refused as what it is
    return any(PurePosixPath(file).name in weights for file in files)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 200 else lines[0][:197] + "..."
