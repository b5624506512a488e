"""What a benchmark is told: models, threads, how often, and where its files go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.artifacts import Artifacts

__all__ = ["Settings"]


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

    def chosen(self, peers: Iterable[str]) -> list[str]:
        """:return: Those of the peers that take part."""
        return [peer for peer in peers if not self.only or peer in self.only]
