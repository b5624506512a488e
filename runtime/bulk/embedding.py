"""Vectors of lists of texts, as the workers of a job and ArrowEmbedder make them; nothing of Arrow is needed here.

What can be pickled is the model's folder and the options; each process loads the model once, at its first texts.
"""

from __future__ import annotations

import os
import threading
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from runtime.batching import BATCH_TOKENS
from runtime.errors import InputError, OutputError
from runtime.multivector import DTYPES as TOKEN_DTYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime import Embedder
    from runtime.manifest import Manifest

DTYPES = ("float32", "float16")
_loaded: dict[tuple[str | None, int | None], Embedder] = {}  # of this process
_loading = threading.Lock()


class Embedded(NamedTuple):
    """What was made of some texts."""

    vectors: NDArray[Any]  # [n, D]; a row of zeros where there is an error
    errors: list[str | None]
    tokens: int
    truncated_texts: int
    cut_tokens: int
    token_vectors: list[NDArray[Any]] | None = None  # n times [T, d]; [0, d] where there is an error

    def chosen(self, rows: list[int]) -> Embedded:
        """Some of the texts."""
        if len(rows) == len(self.errors):
            return self
        own = None if self.token_vectors is None else [self.token_vectors[row] for row in rows]
        return self._replace(
            vectors=self.vectors[rows], errors=[self.errors[row] for row in rows], token_vectors=own
        )


@dataclass(eq=False)
class TextEmbedder:
    """Options of embedding, and the embedding. No model is loaded before the first texts.

    :param model: model folder that each machine has; None for the bundled model.
    :param field: column with the texts; doc.text for a field of a struct. A column of that very name comes first.
    :param vector_column: name of the new column.
    :param error_column: name of the other one: null, or why the row has no vector.
    :param max_length: most tokens of a text; None for the model's.
    :param overflow: "truncate" cuts a longer text, "error" gives it no vector.
    :param normalize: vectors of length 1; None for what the model folder says.
    :param dimensions: numbers of a vector, of a model that can be cut; None for all.
    :param prompt_name: prompt of the model folder to put before each text; None for its default, if any.
    :param prompt: text to put before each text instead.
    :param dtype: "float32" or "float16".
    :param token_vectors: "int8", "float16" or "float32": a third column, with a vector a token for `maxsim`. Texts
        then are documents: with the model folder's prompt for these, and vectors of length 1.
    :param token_dimensions: numbers of a token's vector, see Embedder.encode_multivector; None for all.
    :param token_column: name of that column.
    :param fixed_size: FixedSizeList; False for List, which is all that Spark has.
    :param threads: None for as many as this process may use; 1 where an engine runs a process for each core.
    :raises InputError: an option that does not exist, or two that exclude each other.
    """

    model: str | None = None
    _: KW_ONLY
    field: str = "text"
    vector_column: str = "embedding"
    error_column: str = "embedding_error"
    max_length: int | None = None
    overflow: str = "truncate"
    normalize: bool | None = None
    dimensions: int | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    dtype: str = "float32"
    token_vectors: str | None = None
    token_dimensions: int | None = None
    token_column: str = "token_vectors"
    fixed_size: bool = True
    threads: int | None = None

    long_texts = 1  # of a worker: see layout.Layout
    batch_tokens = BATCH_TOKENS  # see batching.py; nothing of both changes a vector

    def __post_init__(self) -> None:
        """Check the options."""
        if self.dtype not in DTYPES or self.overflow not in ("truncate", "error"):
            raise InputError(
                f"dtype={self.dtype!r}, overflow={self.overflow!r}: must be float32 or float16, and truncate or error"
            )
        if self.token_vectors not in (None, *TOKEN_DTYPES):
            raise InputError(
                f"token_vectors={self.token_vectors!r}: must be one of {', '.join(TOKEN_DTYPES)}"
            )
        if self.token_vectors is None and self.token_dimensions is not None:
            raise InputError("token_dimensions: is for token_vectors: say of which type, such as int8")
        given = [name for name in ("dimensions", "prompt_name", "prompt") if getattr(self, name) is not None]
        given += ["normalize=False"] if self.normalize is False else []
        if self.token_vectors is not None and given:
            raise InputError(
                f"token_vectors with {given[0]}: MaxSim compares documents as the model folder says: leave one out"
            )

    def embed(self, texts: list[str], errors: list[str | None] | None = None) -> Embedded:
        """Vectors of texts.

        :param errors: of each text, why it is none, or None; those with an error are passed over.
        :raises OutputError: a vector is out of the range of dtype, or not finite.
        """
        embedder = load(self.model, self.threads)
        errors = [None] * len(texts) if errors is None else list(errors)
        limit = self.max_length or embedder.max_tokens
        counts: list[int] = []
        if self.overflow == "error" or self.token_vectors is not None:
            prompt = self._prompt_text(embedder)
            counts = embedder.count_tokens([prompt + text for text in texts])
        if self.overflow == "error":
            for number, count in enumerate(counts):
                if errors[number] is None and count > limit:
                    errors[number] = f"{count:,} tokens, more than --max-length {limit:,}"
        good = [number for number, error in enumerate(errors) if error is None]
        chosen = [texts[number] for number in good]
        tokens: list[NDArray[Any]] | None = None
        if self.token_vectors is None:
            vectors, stats = embedder.encode(
                chosen,
                max_length=self.max_length,
                normalize=self.normalize,
                dimensions=self.dimensions,
                prompt_name=self.prompt_name,
                prompt=self.prompt,
                return_stats=True,
                batch_tokens=self.batch_tokens,
            )
            sums = (stats.tokens, stats.truncated_texts, stats.cut_tokens)
        else:
            found = embedder.encode_multivector(
                chosen, dimensions=self.token_dimensions, dtype=self.token_vectors, max_length=limit
            )
            vectors = np.array([one.pooled for one in found], np.float32).reshape(-1, self.dimension)
            none = np.empty((0, self.token_dimension), self.token_vectors)
            tokens = [none] * len(texts)
            for number, one in zip(good, found, strict=True):
                tokens[number] = one.vectors
            cut = [counts[number] - limit for number in good if counts[number] > limit]
            sums = (sum(len(one.ids) for one in found), len(cut), sum(cut))
        if self.dtype == "float16":
            with np.errstate(over="ignore"):  # told as what it is
                vectors = vectors.astype(np.float16)
            if not np.isfinite(vectors).all():
                raise OutputError(
                    "a vector is out of the range of float16: leave out --no-normalize, or use --dtype float32"
                )
        if len(good) < len(texts):
            every = np.zeros((len(texts), self.dimension), vectors.dtype)
            every[good] = vectors
            vectors = every
        return Embedded(vectors, errors, *sums, tokens)

    def _prompt_text(self, embedder: Embedder) -> str:
        if self.token_vectors is None:
            return embedder.choose_prompt(self.prompt_name, self.prompt).text
        from runtime.prompts import document_prompt

        return document_prompt(embedder.manifest).text

    @property
    def folder(self) -> str:
        """The model's."""
        from runtime.bundled import bundled_model

        return self.model or bundled_model()

    @property
    def manifest(self) -> Manifest:
        """Of the model, which need not be loaded for it."""
        from runtime.manifest import load_manifest

        return load_manifest(self.folder)

    @cached_property
    def dimension(self) -> int:
        """D, the length of a vector."""
        from runtime.manifest import check_dimensions

        return check_dimensions(self.manifest, self.dimensions)

    @cached_property
    def token_dimension(self) -> int:
        """d, the length of a token's vector.

        :raises InputError: the model folder has no such rotation.
        """
        from runtime.multivector import TOKEN_ROTATION, check_rotation

        manifest = self.manifest
        if self.token_dimensions is None:
            return manifest.hidden_size
        rotation = None
        if TOKEN_ROTATION in manifest.files:
            rotation = np.load(os.path.join(self.folder, TOKEN_ROTATION), mmap_mode="r")
        try:
            return int(check_rotation(rotation, self.token_dimensions, manifest.hidden_size).shape[1])
        except InputError as error:
            raise InputError(f"token_{error}") from None

    @cached_property
    def special_tokens(self) -> tuple[int, int]:
        """How many tokens before and after a text's own are none of it."""
        from runtime.prompts import document_prompt
        from runtime.tokenization.loading import load_tokenizer

        manifest = self.manifest
        tokenizer = load_tokenizer(self.folder, manifest.tokenizer, manifest.vocabulary)
        after = len(tokenizer.suffix)
        return len(tokenizer.encode(document_prompt(manifest).text)) - after, after


def load(model: str | None, threads: int | None) -> Embedder:
    """The model of this process, loaded at the first call."""
    with _loading:
        if (model, threads) not in _loaded:
            from runtime import Embedder

            _loaded[model, threads] = Embedder(model, threads=threads)
        return _loaded[model, threads]
