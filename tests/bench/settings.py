"""What a benchmark is told: models, threads, how often, where its files go; and the peers started that way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.manifest import VOCABULARY
from tests.bench.artifacts import Artifacts
from tests.bench.environments import python_of
from tests.bench.harness import Worker, WorkerError
from tests.bench.peers import ENVIRONMENT

__all__ = ["Settings", "SettingsError"]


class SettingsError(ValueError):
    """One line: what was asked for that there is not."""


@dataclass
class Settings:
    """Options of one run."""

    artifacts: Artifacts
    threads: int
    rounds: int
    folder: Path  # temporary: texts and vectors on their way to and from the workers
    quick: bool = False  # so little work that figures mean nothing: does it run at all
    only: frozenset[str] = frozenset()  # peers; empty for all
    cases: frozenset[str] = field(default_factory=frozenset)  # empty for all
    teacher: Path | None = None  # of quality: the model that ours was distilled from

    def chosen(self, peers: Iterable[str]) -> list[str]:
        """Return those of the peers that take part."""
        return [peer for peer in peers if not self.only or peer in self.only]

    def start(self, peer: str, **options: Any) -> Worker:
        """Start the process of a peer.

        :param peer: key of peers.PEERS, followed by the form where it has several: "optimum int8".
        :param options: for the peer, on top of what follows from the settings.
        :return: its worker; the peer is loaded.
        :raises WorkerError: the peer cannot be had here.
        """
        kind, _, precision = peer.partition(" ")
        artifacts = self.artifacts
        vocabulary = str(artifacts.model / VOCABULARY)
        given: dict[str, Any]
        match kind:
            case "ours":
                given = {"model": str(artifacts.model)}
            case "products":
                given = {
                    "folder": str(artifacts.products()),
                    "vocabulary": vocabulary,
                    "max_dense_tokens": artifacts.manifest.max_dense_tokens,
                }
            case "torch":
                given = {"checkpoint": str(artifacts.checkpoint), "vocabulary": vocabulary}
            case "openvino":
                of = precision.removesuffix(" int8")  # "default" is the fp32 graph
                model = self._made(
                    peer,
                    lambda: artifacts.plain() / "model.onnx" if of == "default" else artifacts.openvino(of),
                )
                given = {"model": model, "vocabulary": vocabulary}
            case "llama.cpp":
                given = {"model": self._made(peer, lambda: artifacts.gguf(precision.lower()))}
            case _:
                given = {"folder": str(artifacts.optimum() if precision == "int8" else artifacts.plain())}
        python = self._made(peer, lambda: python_of(ENVIRONMENT[kind]))
        return Worker(peer, python, kind, {"threads": self.threads, **given, **options})

    @staticmethod
    def _made(peer: str, make: Callable[[], object]) -> str:
        """What a peer needs, made where it is missing, as a str."""
        try:
            return str(make())
        except OSError as error:
            raise WorkerError(f"{peer}: {error}") from None
