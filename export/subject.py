"""A checkpoint as it is compared with what others have published of it: through its tokenizer and its fp32 graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export import official, reranking, verify
from export.config import read_json
from export.job import ExportSettings, Job
from export.verify import Figures

if TYPE_CHECKING:
    from runtime.modules import Module
    from runtime.tokenization.tokenizer import Tokenizer

__all__ = ["is_reranker", "published_figures"]


class _Checkpoint:
    """The checkpoint as published figures are compared with it: its tokenizer and its fp32 graph."""

    score: Callable[[str, str], float] | None = None

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, graph: Path, head: tuple[Module, ...], threads: int
    ) -> None:
        self.folder = folder
        self._tokenizer, self._session = tokenizer, verify.open_session(graph, threads)
        if head:
            self.score = lambda query, document: float(
                reranking.score(self._session, head, [tokenizer.encode_pair(query, document)[0]])[0]
            )

    def ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def hidden(self, ids: Sequence[int], mask: Sequence[int]) -> NDArray[np.float32]:
        feed = {"input_ids": np.array([ids], np.int64), "attention_mask": np.array([mask], np.int64)}
        (hidden,) = self._session.run(["last_hidden_state"], feed)
        states: NDArray[np.float32] = hidden[0]
        return states


def is_reranker(settings: ExportSettings, backbone: Path) -> bool:
    """Tell whether the folder or its name says that it is a cross-encoder."""
    name = official.official_name(settings.source, settings.name)
    architectures = read_json(backbone / "config.json").get("architectures") or []
    return "reranker" in (name or "") or any(
        "ForSequenceClassification" in str(kind) for kind in architectures
    )


def published_figures(job: Job, fp32: Path) -> Figures | None:
    """Check published figures. They are enforced for official weights; else a miss is said.

    A fine-tuned checkpoint keeps the tokenizer, and often the configuration, of what it was made from.

    :param job: what is exported.
    :param fp32: its graph.
    :return: the figures; None where none are published.
    :raises ExportError: official weights miss one.
    """
    settings, model, config = job.settings, job.model, job.model.config
    subject = _Checkpoint(job.stated.backbone, job.tokenizer, fp32, model.head, job.threads)
    shape = (model.architecture.name, config.num_hidden_layers, config.hidden_size, config.vocab_size)
    known = official.identify((settings.source, settings.name), shape, subject)
    if known is None:
        claimed = read_json(subject.folder / "config.json").get("_name_or_path")
        if (name := official.official_name(claimed if isinstance(claimed, str) else None)) is None:
            return None
        known = official.Known(name, f"_name_or_path, {claimed!r}", False)
    job.progress(f"checking the published figures of {known.name}, known by {known.by}")
    found = official.check(known, subject)
    if missed := [gate["what"] for gate in found["gates"] if not gate["passed"]]:
        job.progress(
            f"not the weights of {known.name}, or read wrongly: {len(missed)} published figures are missed, "
            f"{missed[0]} first; --name {known.name.rpartition('/')[2]} refuses that"
        )
    return found
