"""Loads the weights and the vocabulary of a checkpoint folder, and fails rather than guess.

Loading weights into another architecture leaves random weights behind a warning; here every key of the
checkpoint is consumed or on a named list, and every parameter is filled, or the export stops and lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.config import read_json
from export.errors import ExportError, listing
from export.models import EncoderModel, load_config, recognize
from export.vocabulary import Vocabulary, load_vocabulary

__all__ = ["Vocabulary", "load_model", "load_vocabulary", "read_state", "weight_files"]

_SINGLE = "model.safetensors"
_SHARDED = "model.safetensors.index.json"
_PICKLED = "pytorch_model.bin"


def weight_files(folder: Path) -> list[Path]:
    """Find the files that hold the weights.

    :param folder: the checkpoint folder.
    :return: model.safetensors, or the shards that its index names, or pytorch_model.bin.
    :raises ExportError: none of them is there, or the index or a shard is broken.
    """
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if (folder / _SHARDED).is_file():
        return sorted({folder / name for name in _shard_map(folder).values()})
    if (folder / _PICKLED).is_file():
        return [folder / _PICKLED]
    raise ExportError(f"{folder} holds no weights: expected {_SINGLE}, {_SHARDED} or {_PICKLED}")


def read_state(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint as they are stored.

    :param folder: the checkpoint folder.
    :return: key in the file -> tensor.
    :raises ExportError: a file is missing, broken, or holds anything but tensors.
    """
    files = weight_files(folder)
    if files[0].name == _PICKLED:
        return _read_pickled(files[0])
    state: dict[str, Tensor] = {}
    for file in files:
        tensors = _read_safetensors(file)
        if repeated := sorted(state.keys() & tensors.keys()):
            raise ExportError(f"{file} repeats tensors of another shard: {listing(repeated)}")
        state |= tensors
    if not (folder / _SINGLE).is_file():
        _check_index(folder, state)
    return state


def load_model(folder: Path) -> EncoderModel:
    """Load a checkpoint.

    :param folder: a folder in Hugging Face layout.
    :return: the model in float32, for inference.
    :raises ExportError: the configuration or the architecture is not implemented, a key is left over or missing, a
        shape is wrong, or a weight is not finite.
    """
    config = load_config(folder)
    state = {key.removeprefix("bert."): value for key, value in read_state(folder).items()}
    architecture = recognize(folder, state)
    # On the meta device: no time goes into random weights that are replaced anyway.
    with torch.device("meta"):
        model = architecture.model(config)
    model.architecture = architecture
    expected = dict(model.named_parameters())
    used = architecture.split_state(state)
    _check(folder, architecture.title, expected, used)
    model.load_state_dict({key: value.to(torch.float32) for key, value in used.items()}, assign=True)
    model.fill_buffers()
    model.requires_grad_(False)
    return model.eval()


def _check(
    folder: Path, title: str, expected: dict[str, torch.nn.Parameter], state: dict[str, Tensor]
) -> None:
    problems: list[str] = []

    def note(what: str, names: list[str]) -> None:
        if names:
            problems.append(f"{what}: {listing(names)}")

    note("missing", sorted(expected.keys() - state.keys()))
    note(f"not used by {title}", sorted(state.keys() - expected.keys()))
    both = sorted(expected.keys() & state.keys())
    shapes = [
        f"{key} {list(state[key].shape)} instead of {list(expected[key].shape)}"
        for key in both
        if state[key].shape != expected[key].shape
    ]
    note("wrong shape", shapes)
    note(
        "not floating point",
        [f"{key} {state[key].dtype}" for key in both if not state[key].is_floating_point()],
    )
    # In float32, where a float64 beyond its range would become infinite.
    numbers = [key for key in both if state[key].is_floating_point()]
    note(
        "not finite", [key for key in numbers if not bool(torch.isfinite(state[key].to(torch.float32)).all())]
    )
    if problems:
        raise ExportError(f"{folder} does not fit its config.json: {'; '.join(problems)}")


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return _reading(file, lambda: load_file(file))


def _read_pickled(file: Path) -> dict[str, Tensor]:
    state = _reading(file, lambda: torch.load(file, map_location="cpu", weights_only=True))
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ExportError(
            f"{file} holds something other than a dict of tensors: give the state dict of the model"
        )
    return state


def _reading(file: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except FileNotFoundError:
        raise ExportError(f"{file} is missing: fetch the checkpoint again") from None
    except (
        Exception
    ) as error:  # a damaged file raises anything, and torch's text about pickles runs over pages
        if "weights_only" in str(error).lower() or "Weights only" in str(error):
            raise ExportError(
                f"{file} holds pickled code, not only tensors, and was not loaded: convert it to safetensors"
            ) from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"{file} cannot be read as weights ({reason}): fetch it again") from None


def _shard_map(folder: Path) -> dict[str, str]:
    index = folder / _SHARDED
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ExportError(f"{index} has no weight_map: fetch it again")
    for name in shards.values():
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
            raise ExportError(f"{index} names the shard {name!r}, which is not a plain file name")
    return shards


def _check_index(folder: Path, state: dict[str, Tensor]) -> None:
    promised = _shard_map(folder).keys()
    if absent := sorted(promised - state.keys()):
        raise ExportError(f"{folder / _SHARDED} promises tensors that no shard holds: {listing(absent)}")
