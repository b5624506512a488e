"""Common prefixes of weight names, as wrappers and other programs put them before an encoder's own."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from export.errors import ExportError, listing

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["split_prefix"]

# torch.compile, FSDP, activation checkpointing and DeepSpeed put these anywhere in a name.
_WRAPPERS = re.compile(
    r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)


def split_prefix(
    folder: Path, state: Mapping[str, Tensor], expected: Collection[str]
) -> tuple[dict[str, Tensor], str]:
    """Remove what stands before the names of an encoder's parameters.

    :param folder: of the checkpoint, for messages.
    :param state: name -> tensor, as stored.
    :param expected: the names of the encoder's parameters.
    :return: the same tensors without the prefix, and what was removed ("" for nothing). A name that has not the
        whole prefix loses as much of it as it has: the head beside ``bert.`` under ``module.`` is ``classifier``.
    :raises ExportError: the encoder is there more than once, with different weights.
    """
    unwrapped: dict[str, Tensor] = {}
    wrappers: set[str] = set()
    for name, tensor in state.items():
        short = _WRAPPERS.sub("", name)
        wrappers.update(match[2] + "." for match in _WRAPPERS.finditer(name))
        if short in unwrapped:
            raise ExportError(
                f"{folder} has {short} with and without {listing(sorted(wrappers))}: keep one of them"
            )
        unwrapped[short] = tensor
    removed = "".join(sorted(wrappers))
    prefix = _common(folder, unwrapped, expected)
    if not prefix:
        return unwrapped, removed
    parts = prefix.split(".")[:-1]
    starts = ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts), 0, -1)]
    # The encoder's own names come last, so that they win over a second copy of the same weights without the prefix.
    ordered = sorted(unwrapped.items(), key=lambda item: item[0].startswith(prefix))
    split: dict[str, Tensor] = {}
    for name, tensor in ordered:
        start = next((start for start in starts if name.startswith(start)), "")
        split[name.removeprefix(start)] = tensor
    return split, removed + prefix


def _common(folder: Path, state: Mapping[str, Tensor], expected: Collection[str]) -> str:
    """The prefix under which most of the expected names stand."""
    counts: dict[str, int] = {}
    for wanted in expected:
        for name in state:
            if name.endswith(wanted) and (name == wanted or name[-len(wanted) - 1] == "."):
                prefix = name[: -len(wanted)]
                counts[prefix] = counts.get(prefix, 0) + 1
    most = max(counts.values(), default=0)
    # The shortest of those that have as many.
    first, *others = sorted((prefix for prefix in counts if counts[prefix] == most), key=len) or [""]
    for other in others:
        same = (
            state[first + wanted].equal(state[other + wanted])
            for wanted in expected
            if first + wanted in state and other + wanted in state
        )
        if not all(same):
            raise ExportError(
                f"{folder} holds several encoders, under {first or 'no prefix'!r} and {other!r}, with different "
                "weights: save the one that is wanted by itself"
            )
    return first
