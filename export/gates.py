"""Gates: how a checkpoint is compared with what others have published of it. The numbers are in ``published``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Digits",
    "Direction",
    "Gate",
    "HiddenStates",
    "IdHash",
    "Ids",
    "Official",
    "PairCosine",
    "Scores",
    "Subject",
    "TokenizerHash",
]

LEAST_COSINE = 0.9999  # of components where GELU was approximated
NORM_TOLERANCE = 5e-3  # relative, of the same


class Subject(Protocol):
    """What is checked: a checkpoint as the export reads it."""

    folder: Path  # that holds its tokenizer
    score: Callable[[str, str], float] | None  # of a query and a document, where it has a head for that

    def ids(self, text: str) -> list[int]:
        """Give the token ids of a text."""
        ...

    def hidden(self, ids: Sequence[int], mask: Sequence[int]) -> NDArray[np.float32]:
        """Give the last hidden states of a text, float32 [tokens, hidden]."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What a gate found."""

    what: str
    figure: str
    allowed: str
    passed: bool

    def document(self, source: str) -> dict[str, object]:
        """Give it as manifest.json has it."""
        told = {"source": source, "what": self.what, "figure": self.figure, "allowed": self.allowed}
        return {**told, "passed": self.passed}


@dataclass(frozen=True)
class Gate:
    """A published figure."""

    source: str

    def run(self, subject: Subject) -> Outcome | None:
        """Compare; None where the subject does not have what is compared."""
        raise NotImplementedError


def _mean(subject: Subject, text: str) -> NDArray[np.float64]:
    ids = subject.ids(text)
    mean: NDArray[np.float64] = subject.hidden(ids, [1] * len(ids)).mean(axis=0, dtype=np.float64)
    return mean


def _near(what: str, found: Any, expected: Any, tolerance: float) -> Outcome:
    difference = float(np.abs(np.asarray(found) - np.asarray(expected)).max())
    return Outcome(what, f"{difference:.1e} away", f"at most {tolerance:g}", difference <= tolerance)


@dataclass(frozen=True)
class Digits(Gate):
    """Some components of the mean vector of a text."""

    text: str
    values: tuple[float, ...]
    tolerance: float
    first: int = 0  # which component they begin with
    unit: bool = True  # whether the vector has length 1

    def run(self, subject: Subject) -> Outcome:
        """Compare the checkpoint with the published figure."""
        mean = _mean(subject, self.text)
        vector = mean / np.linalg.norm(mean) if self.unit else mean
        part = vector[self.first : self.first + len(self.values)]
        return _near(f"the vector of {_shown(self.text)}", part, self.values, self.tolerance)


@dataclass(frozen=True)
class Direction(Gate):
    """The first and the last components of a vector that a slightly different GELU made, and its length."""

    text: str
    start: tuple[float, ...]
    end: tuple[float, ...]
    norm: float

    def run(self, subject: Subject) -> Outcome:
        """Compare the checkpoint with the published figure."""
        mean = _mean(subject, self.text)
        norm = float(np.linalg.norm(mean))
        part = np.concatenate([mean[: len(self.start)], mean[len(mean) - len(self.end) :]])
        expected = np.array([*self.start, *self.end])
        cosine = float(part @ expected / (np.linalg.norm(part) * np.linalg.norm(expected)))
        off = abs(norm / self.norm - 1)
        return Outcome(
            f"the vector of {_shown(self.text)}",
            f"cosine {cosine:.6f} over {len(expected)} components, length {norm:.4f} for {self.norm:.4f}",
            f"cosine at least {LEAST_COSINE}, length within {NORM_TOLERANCE:.1%}",
            cosine >= LEAST_COSINE and off <= NORM_TOLERANCE,
        )


@dataclass(frozen=True)
class PairCosine(Gate):
    """Cosine of two texts."""

    texts: tuple[str, str]
    cosine: float
    tolerance: float

    def run(self, subject: Subject) -> Outcome:
        """Compare the checkpoint with the published figure."""
        one, two = (_mean(subject, text) for text in self.texts)
        cosine = float(one @ two / (np.linalg.norm(one) * np.linalg.norm(two)))
        what = f"the cosine of {_shown(self.texts[0])} and {_shown(self.texts[1])}"
        return _near(what, cosine, self.cosine, self.tolerance)


@dataclass(frozen=True)
class HiddenStates(Gate):
    """A corner of the last hidden states."""

    ids: tuple[int, ...]
    mask: tuple[int, ...]
    first: int  # row and column that the values begin with
    values: tuple[tuple[float, ...], ...]
    tolerance: float

    def run(self, subject: Subject) -> Outcome:
        """Compare the checkpoint with the published figure."""
        rows, columns = (slice(self.first, self.first + size) for size in np.shape(self.values))
        found = subject.hidden(self.ids, self.mask)[rows, columns]
        return _near(f"hidden states of {len(self.ids)} tokens", found, self.values, self.tolerance)


@dataclass(frozen=True)
class Ids(Gate):
    """Token ids of a text."""

    text: str
    expected: tuple[int, ...]

    def run(self, subject: Subject) -> Outcome:
        """Compare the checkpoint with the published figure."""
        found = subject.ids(self.text)
        same = tuple(found) == self.expected
        figure = "equal" if same else f"{found}, published {list(self.expected)}"
        return Outcome(f"the token ids of {_shown(self.text)}", figure, "equal", same)


@dataclass(frozen=True)
class IdHash(Gate):
    """SHA-256 of ``str`` of the token ids of a text."""

    text: str
    digest: str

    def run(self, subject: Subject) -> Outcome:
        """Compare the checkpoint with the published figure."""
        found = hashlib.sha256(str(list(subject.ids(self.text))).encode()).hexdigest()
        same = found == self.digest
        figure = f"{found[:12]}…" if same else f"{found[:12]}…, published {self.digest[:12]}…"
        return Outcome(f"the hash of the token ids of {_shown(self.text)}", figure, "equal", same)


@dataclass(frozen=True)
class TokenizerHash(Gate):
    """SHA-256 of the ordered vocabulary and of the merges in tokenizer.json, each as compact JSON."""

    vocabulary: str
    merges: str

    def run(self, subject: Subject) -> Outcome | None:
        """Compare the checkpoint with the published figure."""
        path = subject.folder / "tokenizer.json"
        if not path.is_file():
            return None
        model = json.loads(path.read_text(encoding="utf-8-sig"))["model"]
        tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        compact = (json.dumps(part, ensure_ascii=False, separators=(",", ":")) for part in (tokens, merges))
        found = tuple(hashlib.sha256(part.encode()).hexdigest() for part in compact)
        same = found == (self.vocabulary, self.merges)
        figure = f"{found[0][:12]}…, {found[1][:12]}…"
        return Outcome("the hashes of vocabulary and merges in tokenizer.json", figure, "equal", same)


@dataclass(frozen=True)
class Scores(Gate):
    """Scores of documents for a query, as logits."""

    query: str
    documents: tuple[str, ...]
    values: tuple[float, ...]
    tolerance: float

    def run(self, subject: Subject) -> Outcome | None:
        """Compare the checkpoint with the published figure."""
        if subject.score is None:
            return None
        found = [subject.score(self.query, document) for document in self.documents]
        return _near(f"the scores for {_shown(self.query)}", found, self.values, self.tolerance)


@dataclass(frozen=True)
class Official:
    """An official checkpoint."""

    shape: tuple[str, int, int, int]  # architecture, layers, hidden size, vocabulary
    gates: tuple[Gate, ...]
    weights: tuple[str, ...] = ()  # SHA-256 of files of weights, of any revision and form
    files: tuple[str, ...] = ()  # the same of its configuration and tokenizer


def _shown(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 40 else f"{shown[:36]}…'"
