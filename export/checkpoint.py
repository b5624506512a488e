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

from export import layouts
from export.errors import ExportError, listing
from export.layouts import weight_files
from export.models import EncoderModel, load_config, recognize
from export.prefixes import split_prefix
from export.vocabulary import Vocabulary, load_vocabulary

__all__ = ["Vocabulary", "load_model", "load_vocabulary", "read_state", "weight_files"]

# First part of the names of what stands on an encoder for a task other than embedding.
_HEADS = (
    "classifier",
    "score",
    "qa_outputs",
    "out_proj",
    "lm_head",
    "generator_lm_head",
    "classification_head",
)


def read_state(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint as they are stored.

    :param folder: the checkpoint folder.
    :return: key in the file -> tensor.
    :raises ExportError: a file is missing, broken, or holds anything but tensors.
    """
    state: dict[str, Tensor] = {}
    for file in weight_files(folder):
        tensors = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickled(file)
        if repeated := sorted(state.keys() & tensors.keys()):
            raise ExportError(f"{file} repeats tensors of another shard: {listing(repeated)}")
        state |= tensors
    index = next(path for name in layouts.WEIGHTS if (path := folder / name).is_file())
    if absent := sorted(layouts.shard_map(index).keys() - state.keys()):
        raise ExportError(f"{index} promises tensors that no shard holds: {listing(absent)}")
    return state


def load_model(
    folder: Path, *, without_head: bool = False, rerank: bool = False, notes: list[str] | None = None
) -> EncoderModel:
    """Load a checkpoint.

    :param folder: a folder in Hugging Face layout.
    :param without_head: leave out a head for another task, such as classification, instead of refusing it.
    :param rerank: it is to be a reranker: refuse an encoder without a head for that.
    :param notes: gets a line for each liberty that was taken with the names.
    :return: the model in float32, for inference.
    :raises ExportError: the configuration or the architecture is not implemented, a key is left over or missing, a
        shape is wrong, or a weight is not finite.
    """
    config = load_config(folder)
    state = read_state(folder)
    architecture = recognize(folder, state)
    # On the meta device: no time goes into random weights that are replaced anyway.
    with torch.device("meta"):
        model = architecture.model(config)
    model.architecture = architecture
    expected = dict(model.named_parameters())
    state, removed = split_prefix(folder, state, expected)
    used = architecture.used(state)
    head = None if without_head else architecture.head(folder, state, config.hidden_size)
    if head is not None:
        model.head = head
        used = {key: value for key, value in used.items() if key.partition(".")[0] != "classifier"}
    elif rerank and not without_head:
        raise ExportError(
            f"{folder} has no trained head (classifier.weight), so that its scores would be random: give the "
            "checkpoint of a reranker, or pass --without-head to export the encoder for embeddings"
        )
    heads = sorted(key for key in used.keys() - expected.keys() if key.partition(".")[0] in _HEADS)
    if heads and not without_head:
        raise ExportError(
            f"{folder} has a head for another task on its encoder ({listing(heads, 4)}), which takes no part in "
            "embedding: pass --without-head to leave it out"
        )
    used = {key: value for key, value in used.items() if key not in heads}
    _check(folder, architecture.title, expected, used)
    if notes is not None:
        notes += [f"the weights' names begin with {removed!r}: removed"] if removed else []
        notes += [f"left out as asked: the head {listing(heads, 4)}"] if heads else []
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
    from safetensors import safe_open

    def read() -> dict[str, Tensor]:
        with safe_open(file, framework="pt") as opened:
            state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - no mapping
            # save_model() stores tied weights once, and names the others here.
            for key, kept in (opened.metadata() or {}).items():
                if key not in state and kept in state:
                    state[key] = state[kept]
        return state

    return _reading(file, read)


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
