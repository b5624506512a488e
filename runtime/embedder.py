"""Embedder: texts in, vectors out.

It ties together the tokenizer, the plan of batches and the model, each in a file of its own.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np

from . import batching, tokenized
from .arguments import check_int, check_overflow
from .errors import InputError, TextTooLongError
from .holder import ModelHolder
from .manifest import check_dimensions
from .prompts import NO_PROMPT, Prompt, choose_prompt, document_prompt, query_prompt, skipped_tokens
from .texts import check_text, iterate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    from .chunking import Chunk
    from .manifest import Manifest
    from .multivector import Multivector
    from .reranker import Ranked
    from .tokenization.tokenizer import Tokenizer

MIN_MAX_LENGTH = 3  # [CLS], one token, [SEP]


class EncodeStats(NamedTuple):
    """What one encode did."""

    texts: int
    tokens: int  # that were run, [CLS] and [SEP] included
    truncated_texts: int
    cut_tokens: int  # left out of the truncated texts
    seconds: float
    prompt: Prompt = NO_PROMPT  # what was put before each text


class Tokens(NamedTuple):
    """The tokens of one text with their vectors, which pooling and the folder's modules make what encode gives."""

    ids: NDArray[np.int64]  # [T]
    offsets: NDArray[np.int64]  # [T, 2] start and end in the text; (0, 0) for [CLS] and [SEP]
    vectors: NDArray[np.float32]  # [T, hidden_size], not normalised


class Embedder(ModelHolder):
    """A loaded JinaBert model. Safe to use from several threads; works on after a fork.

    Pickles and copies hold the folder's path, the threads and verify; they load the model at first use.
    """

    def __init__(
        self, model: str | os.PathLike[str] | None = None, *, threads: int | None = None, verify: bool = False
    ) -> None:
        """Load a model folder: check its files, read the vocabulary, open the graph.

        :param model: model folder made by `python -m export`; None for the bundled model.
        :param threads: threads to compute with; None for as many CPU cores as this process may use.
        :param verify: compare the SHA-256 of each file too, not only its size and checksum.
        :raises ModelError: the folder or a file in it is missing, damaged or of another kind.
        :raises InputError: threads is not a positive number.
        :raises TypeError: model is no path.
        """
        if threads is not None:
            threads = check_int("threads", threads, least=1)
        super().__init__(model, threads, verify)

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        return self._model.dimension

    @property
    def max_tokens(self) -> int:
        """Longest text the model was made for, in tokens with [CLS] and [SEP]: the default max_length."""
        return self.manifest.max_tokens

    @property
    def threads(self) -> int:
        """Threads that one run computes with."""
        return self._model.session.threads

    @property
    def manifest(self) -> Manifest:
        """What the model folder says about itself."""
        return self._model.manifest

    @property
    def tokenizer(self) -> Tokenizer:
        """What makes ids of texts: `tokenizer.encode(text)`."""
        return self._model.tokenizer

    @overload
    def encode(
        self,
        texts: str | Iterable[str],
        *,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        max_length: int | None = ...,
        normalize: bool | None = ...,
        dimensions: int | None = ...,
        batch_tokens: int = ...,
        overflow: str = ...,
        show_progress: bool | None = ...,
        return_stats: Literal[False] = ...,
        batch_size: int | None = ...,
        normalize_embeddings: bool | None = ...,
        convert_to_numpy: bool = ...,
        show_progress_bar: bool | None = ...,
    ) -> NDArray[np.float32]: ...

    @overload
    def encode(
        self,
        texts: str | Iterable[str],
        *,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        max_length: int | None = ...,
        normalize: bool | None = ...,
        dimensions: int | None = ...,
        batch_tokens: int = ...,
        overflow: str = ...,
        show_progress: bool | None = ...,
        return_stats: Literal[True],
        batch_size: int | None = ...,
        normalize_embeddings: bool | None = ...,
        convert_to_numpy: bool = ...,
        show_progress_bar: bool | None = ...,
    ) -> tuple[NDArray[np.float32], EncodeStats]: ...

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        max_length: int | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
        batch_tokens: int = batching.BATCH_TOKENS,
        overflow: str = "truncate",
        show_progress: bool | None = None,
        return_stats: bool = False,
        batch_size: int | None = None,
        normalize_embeddings: bool | None = None,
        convert_to_numpy: bool = True,
        show_progress_bar: bool | None = None,
    ) -> NDArray[np.float32] | tuple[NDArray[np.float32], EncodeStats]:
        """Vectors of texts, pooled and normalised as the model folder says.

        :param texts: a text, or any iterable of texts: a list, a generator, a Series of pandas or polars, an array of
            pyarrow or numpy. An empty text has the vector of [CLS][SEP].
        :param prompt_name: the prompt of the model folder to put before each text; None for its default prompt, if it
            has one.
        :param prompt: the prompt itself instead; "" for none.
        :param max_length: most tokens of a text, [CLS] and [SEP] included; None for max_tokens. It may be
            larger than max_tokens: the model extrapolates.
        :param normalize: give vectors of Euclidean length 1; None for what the model folder says.
        :param dimensions: keep only so many numbers of each vector, the first, of which a model folder made with
            --rotate has the most important; None for all.
        :param batch_tokens: budget of a batch in tokens (attention counted, see batching.py): time against
            memory.
        :param overflow: "truncate" keeps [CLS], the first max_length - 2 tokens and [SEP]; "error" refuses.
        :param show_progress: draw a line on standard error.
        :param return_stats: return (vectors, EncodeStats).
        :param batch_size: most texts in a batch; None for no limit but batch_tokens.
        :param normalize_embeddings: sentence-transformers' name of `normalize`; wins when given.
        :param convert_to_numpy: of sentence-transformers; only True.
        :param show_progress_bar: sentence-transformers' name of `show_progress`; wins when given.
        :return: [D] float32 for a str, else [n, D] in the order given ([0, D] for none); D is dimensions, if given.
        :raises TypeError: texts is no iterable of str: a text is something else, of which the message says the index
            and the type, or it is a container of something else (a table, a mapping, a set, bytes).
        :raises TextTooLongError: with overflow="error".
        :raises InputError: an argument is out of range.
        :raises OutputError: a vector is not finite.
        """
        start = time.perf_counter()
        limit = self._limit(max_length)
        size = check_dimensions(self.manifest, dimensions)
        chosen, skip = self._prompt(prompt_name, prompt, limit)
        check_overflow(overflow)
        batch_tokens = check_int("batch_tokens", batch_tokens, least=1)
        if batch_size is not None:
            batch_size = check_int("batch_size", batch_size, least=1)
        if not convert_to_numpy:
            raise InputError("convert_to_numpy=False: only numpy arrays are returned; convert them yourself")
        if normalize_embeddings is not None:
            normalize = normalize_embeddings
        if normalize is None:
            normalize = self.manifest.normalize
        if show_progress_bar is not None:
            show_progress = show_progress_bar

        single = isinstance(texts, str)
        several = [texts] if isinstance(texts, str) else texts
        found = tokenized.tokenize(self.tokenizer, several, chosen.text, limit, overflow)
        count = len(found.lengths)
        vectors = np.empty((count, size), np.float32)
        progress = None
        if show_progress:
            from .cli.progress import Progress

            progress = Progress(count)
        try:
            tokenized.embed(
                self._model,
                found,
                vectors,
                batch_tokens=batch_tokens,
                batch_size=batch_size,
                normalize=normalize,
                skip=skip,
                progress=progress,
            )
        finally:
            if progress:
                progress.close()
        output = vectors[0] if single else vectors
        if not return_stats:
            return output
        seconds = time.perf_counter() - start
        return output, EncodeStats(count, len(found.ids), found.truncated, found.cut, seconds, chosen)

    def encode_query(self, texts: str | Iterable[str], **options: Any) -> Any:
        """Vectors of search queries: encode with the prompt "query" of the model folder, or without any if it has none.

        :param texts: as in encode.
        :param options: as in encode; prompt_name or prompt win.
        :return: as encode.
        """
        return self._encode_with(query_prompt(self.manifest), texts, options)

    def encode_document(self, texts: str | Iterable[str], **options: Any) -> Any:
        """Encode what is searched.

        The prompt is the first of "document", "passage" and "corpus" that the model folder has and that is not empty;
        there may be none.

        :param texts: as in encode.
        :param options: as in encode; prompt_name or prompt win.
        :return: as encode.
        """
        return self._encode_with(document_prompt(self.manifest), texts, options)

    def choose_prompt(self, prompt_name: str | None = None, prompt: str | None = None) -> Prompt:
        """Say which prompt encode puts before texts for these arguments, see prompts.choose_prompt."""
        return choose_prompt(self.manifest, prompt_name, prompt)

    def encode_tokens(
        self,
        text: str,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        max_length: int | None = None,
        overflow: str = "truncate",
    ) -> Tokens:
        """Token ids, where they are in the text, and their vectors, for pooling by hand.

        :param text: one text.
        :param prompt_name: as in encode.
        :param prompt: as in encode.
        :param max_length: as in encode.
        :param overflow: as in encode.
        :return: ids [T], offsets [T, 2], vectors [T, hidden_size] float32, not normalised. Tokens of a prompt have the
            offsets (0, 0).
        :raises TypeError: text is not a str.
        :raises TextTooLongError: with overflow="error".
        :raises OutputError: a vector is not finite.
        """
        limit = self._limit(max_length)
        chosen, _ = self._prompt(prompt_name, prompt, limit)
        check_overflow(overflow)
        check_text(text)
        ids, offsets = self._model.tokenizer.encode_with_offsets(chosen.text + text)
        if shift := len(chosen.text):
            offsets = [(max(start - shift, 0), max(end - shift, 0)) for start, end in offsets]
        if len(ids) > limit:
            if overflow == "error":
                raise TextTooLongError(0, len(ids), limit)
            ids, offsets = self.tokenizer.truncate(ids, limit), self.tokenizer.truncate(offsets, limit)
        vectors = self._model.embed_tokens(ids)
        return Tokens(np.array(ids, np.int64), np.array(offsets, np.int64).reshape(-1, 2), vectors)

    def encode_chunks(
        self,
        text: str,
        chunk_tokens: int = 256,
        overlap: int = 0,
        spans: Iterable[tuple[int, int]] | None = None,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        max_length: int | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
    ) -> list[Chunk]:
        """Encode the chunks of a text with late chunking, so that each knows its context.

        There is one pass over the whole text, then one vector per chunk. A prompt stands before the whole text, and no
        chunk's `text` holds it.

        See chunking.encode_chunks for the parameters, and encode for dimensions.
        """
        from .chunking import encode_chunks

        check_text(text)
        limit = self._limit(max_length)
        chosen, skip = self._prompt(prompt_name, prompt, limit)
        return encode_chunks(
            self._model,
            text,
            prompt=chosen.text,
            skip=skip,
            chunk_tokens=check_int("chunk_tokens", chunk_tokens, least=1),
            overlap=check_int("overlap", overlap, least=0),
            spans=spans,
            max_length=limit,
            normalize=self.manifest.normalize if normalize is None else normalize,
            dimensions=check_dimensions(self.manifest, dimensions),
        )

    @overload
    def count_tokens(self, texts: str) -> int: ...  # type: ignore[overload-overlap]

    @overload
    def count_tokens(self, texts: Iterable[str]) -> list[int]: ...

    def count_tokens(self, texts: str | Iterable[str]) -> int | list[int]:
        """Tokens of texts before any truncation, [CLS] and [SEP] included, without a prompt.

        :param texts: a text, or any iterable of texts.
        :return: a number for a str, else a list of them.
        :raises TypeError: a text is not a str.
        """
        if isinstance(texts, str):
            return self._model.tokenizer.count(texts)
        return [self._model.tokenizer.count(text) for text in iterate(texts)]

    def rerank(
        self,
        query: str,
        documents: Iterable[str],
        top_n: int | None = None,
        *,
        max_length: int | None = None,
        token_weights: ArrayLike | None = None,
        spans: bool = True,
        return_documents: bool = False,
    ) -> list[Ranked]:
        """Rank documents for a query by their token vectors (late interaction), and find where each answers it.

        See reranker.rerank for the parameters.
        """
        from .reranker import rerank

        return rerank(
            self._model,
            query,
            documents,
            top_n,
            max_length=self._limit(max_length),
            token_weights=token_weights,
            spans=spans,
            return_documents=return_documents,
        )

    def encode_multivector(
        self,
        texts: Iterable[str],
        *,
        query: bool = False,
        dimensions: int | None = None,
        dtype: str = "float32",
        max_length: int | None = None,
        token_weights: ArrayLike | None = None,
    ) -> list[Multivector]:
        """Compute the token vectors of texts, ready to store and to compare with `runtime.maxsim`.

        See reranker.encode_multivector for the parameters.
        """
        from .reranker import encode_multivector

        return encode_multivector(
            self._model,
            texts,
            query=query,
            dimensions=dimensions,
            dtype=dtype,
            max_length=self._limit(max_length),
            token_weights=token_weights,
        )

    def token_weights(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Compute the inverse document frequency of each token in a corpus of one's own, for rerank.

        :param texts: the corpus, or a good part of it.
        :return: [V] float32.
        :raises TypeError: a text is not a str.
        """
        from .multivector import inverse_document_frequencies

        found = tokenized.tokenize(self.tokenizer, texts, "", self.max_tokens, "truncate")
        return inverse_document_frequencies(found.texts(), max(len(self.tokenizer), self.manifest.vocabulary))

    def similarity(
        self, a: str | Iterable[str] | ArrayLike, b: str | Iterable[str] | ArrayLike
    ) -> NDArray[np.float32]:
        """Cosine of each pair of a and b, which are texts or vectors.

        :param a: a text, texts, a vector [D] or vectors [n, D]. Vectors need not have length 1.
        :param b: the same.
        :return: float32 [n, m]; a single text or vector on either side drops that axis.
        :raises InputError: vectors of other than D numbers (of other lengths than each other, where the model's can be
            cut).
        """
        from .similarity import similarity

        return similarity(a, b, lambda texts: self.encode(texts, normalize=True), self.manifest)

    def warmup(self, tokens: int = 64) -> None:
        """Run once, so that the first real text finds memory allocated, pages read and weights packed.

        A process that embeds one text is faster without: onnxruntime then reads weights as they are stored, and packs
        them when a second run comes.

        :param tokens: length of the run.
        """
        self._model.warmup(check_int("tokens", tokens, least=1))

    def _encode_with(self, chosen: Prompt, texts: str | Iterable[str], options: dict[str, Any]) -> Any:
        if options.get("prompt_name") is None and options.get("prompt") is None:
            named = {"prompt": chosen.text} if chosen.name is None else {"prompt_name": chosen.name}
            options = {**options, **named}
        return self.encode(texts, **options)

    def _prompt(self, name: str | None, text: str | None, limit: int) -> tuple[Prompt, int]:
        """The prompt of a call, and how many tokens pooling leaves out for it."""
        prompt = choose_prompt(self.manifest, name, text)
        if prompt.text and (tokens := self.tokenizer.count(prompt.text)) >= limit:
            raise InputError(
                f"max_length={limit}: the prompt {prompt.text[:40]!r} alone has {tokens} tokens; raise max_length"
            )
        return prompt, skipped_tokens(self.manifest, self.tokenizer, prompt)

    def _limit(self, max_length: int | None) -> int:
        if max_length is None:
            return self.manifest.max_tokens
        return check_int("max_length", max_length, least=MIN_MAX_LENGTH)
