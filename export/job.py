"""What an export is told, and what it works with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export import verify
from export.unfinished import Unfinished
from export.verify import Progress
from export.vocabulary import LearnedTokenizer, Vocabulary
from runtime.tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    from export.declared import Declared
    from export.models import EncoderModel

__all__ = ["ExportSettings", "Job"]


@dataclass(frozen=True)
class ExportSettings:
    """What to export, and where to."""

    source: str  # folder in Hugging Face layout, or hub name
    output: Path
    precision: str = "int8"  # or "fp32"
    scheme: str | None = "per-token"  # or "optimum"; None for fp32
    texts: Path | None = None
    revision: str | None = None
    force: bool = False
    name: str | None = None
    min_cosine: float = verify.INT8_WORST_COSINE  # of int8 to fp32, the least
    compare: bool = False  # measure optimum's int8 beside ours
    max_tokens: int | None = None  # the default max_length, instead of what the folder declares
    tokenizer: str | None = None  # "tokenizer.json" or "vocab.txt", where the two disagree
    without_head: bool = False  # leave out a head for another task
    rotate: bool = (
        False  # make vectors that can be cut, see export/rotate.py; source may be a model folder then
    )
    head: Path | None = None  # the same with a trained matrix instead of a rotation
    task: str | None = None  # "embed" or "rerank"; None: what the checkpoint has a head for

    @property
    def turned(self) -> bool:
        """Whether vectors are made that can be cut."""
        return self.rotate or self.head is not None


@dataclass(frozen=True)
class Job:
    """A checkpoint that was read, and where its export is made."""

    settings: ExportSettings
    checkpoint_folder: Path
    stated: Declared
    model: EncoderModel
    vocabulary: Vocabulary | LearnedTokenizer
    tokenizer: Tokenizer
    corpus: Sequence[str]
    unfinished: Unfinished
    final: Path  # for the files of the model folder
    threads: int
    progress: Progress

    def tokens(self, longest: int) -> list[list[int]]:
        """The verification texts as token ids."""
        self.progress(f"tokenizing {len(self.corpus):,} verification texts")
        tokenizer = self.tokenizer
        return [tokenizer.truncate(tokenizer.encode(text), longest) for text in self.corpus]
