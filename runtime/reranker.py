"""Which documents answer a query best: by the token vectors of an embedding model, or by a cross-encoder.

`Embedder.rerank` and `Embedder.encode_multivector` are `rerank` and `encode_multivector` here (late interaction,
multivector.py). `Reranker` is for model folders with the task "rerank", whose one number a pair is the score.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from . import multivector
from .errors import InputError, ModelError, TextTooLongError
from .model import Model, load_model
from .multivector import TOKEN_ROTATION, TOKEN_WEIGHTS, Multivector
from .prompts import document_prompt, query_prompt, skipped_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from .prompts import Prompt


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document and its score."""

    index: int  # among the documents given
    score: float  # the higher the better
    start: (
        int | None
    )  # the part that answers the query best, in characters of the document; None: not looked for
    end: int | None
    truncated: bool  # whether the document was cut to the maximum length
    text: str | None  # the document, when asked for

    def moved(self, by: int) -> Ranked:
        """The same, of a document that stands later in a longer list."""
        return replace(self, index=self.index + by)


def rerank(
    model: Model,
    query: str,
    documents: Iterable[str],
    top_n: int | None = None,
    *,
    max_length: int,
    token_weights: ArrayLike | None = None,
    spans: bool = True,
    return_documents: bool = False,
) -> list[Ranked]:
    """Rank documents by the token vectors of an embedding model.

    :param model: of an Embedder.
    :param query: a text with at least one token.
    :param documents: texts; one of more than max_length tokens is cut, and its `truncated` says so.
    :param top_n: how many of the best to return; None for all.
    :param max_length: most tokens of a text, special tokens included.
    :param token_weights: [V] a weight for each token id, for example of encode's corpus (Embedder.token_weights); None
        for those of the model folder, and equal ones where it has none.
    :param spans: find the part of each returned document that answers best.
    :param return_documents: return the texts too.
    :return: best first; of equal scores the document that came first.
    :raises TypeError: the query or a document is not a str; the message names its index and type.
    :raises InputError: the query is empty or has more than max_length tokens, or top_n is not a positive integer.
    :raises OutputError: a vector is not finite.
    """
    texts, top_n = check_request(query, documents, top_n)
    weights = _token_weights(model, token_weights)
    asked = _query(model, query, weights, max_length)
    own = _Texts(model, texts, document_prompt(model.manifest), max_length)
    scores = np.empty(len(texts), np.float32)
    windows = np.zeros((len(texts), 2), np.int64)

    def score(number: int, document: Multivector) -> None:
        scores[number] = multivector.maxsim(asked, [document])[0]
        if spans:
            windows[number] = multivector.best_window(asked, document)

    own.for_each(score, None, "float32", weights)
    ranked = []
    for index in _best(scores, top_n):
        start, end = own.span(index, *windows[index].tolist()) if spans else (None, None)
        text = texts[index] if return_documents else None
        ranked.append(Ranked(index, float(scores[index]), start, end, own.truncated[index], text))
    return ranked


def encode_multivector(
    model: Model,
    texts: Iterable[str],
    *,
    query: bool = False,
    dimensions: int | None = None,
    dtype: str = "float32",
    max_length: int,
    token_weights: ArrayLike | None = None,
) -> list[Multivector]:
    """Compute token vectors that are ready to store, and to compare with `multivector.maxsim`.

    :param model: of an Embedder.
    :param texts: any texts; one of more than max_length tokens is cut.
    :param query: they are queries: the model folder's prompt "query" stands before them instead of that of documents,
        and one of more than max_length tokens is refused.
    :param dimensions: numbers a token: rotated by the model folder's rotation and cut; None for all of them, unrotated.
        A query and its documents need the same.
    :param dtype: of the vectors: "float32", "float16" or "int8". Queries are float32, also against int8 documents.
    :param max_length: most tokens of a text, special tokens included.
    :param token_weights: as in rerank.
    :return: one for each text.
    :raises TypeError: a text is not a str.
    :raises TextTooLongError: a query has more than max_length tokens.
    :raises InputError: dimensions or dtype is none of those that there are.
    :raises OutputError: a vector is not finite.
    """
    several = _check_texts(texts, "texts")
    if dtype not in multivector.DTYPES:
        raise InputError(f"dtype={dtype!r}: must be one of {', '.join(multivector.DTYPES)}")
    weights = _token_weights(model, token_weights)
    prompt = (query_prompt if query else document_prompt)(model.manifest)
    own = _Texts(model, several, prompt, max_length)
    if query and any(own.truncated):
        number = own.truncated.index(True)
        raise TextTooLongError(number, model.tokenizer.count(prompt.text + several[number]), max_length)
    found: list[Multivector | None] = [None] * len(several)

    def keep(number: int, vectors: Multivector) -> None:
        found[number] = vectors

    own.for_each(keep, dimensions, dtype, weights)
    return [each for each in found if each is not None]


class Reranker:
    """A loaded cross-encoder: it reads query and document together. Safe to use from several threads."""

    def __init__(
        self, model: str | os.PathLike[str], *, threads: int | None = None, verify: bool = False
    ) -> None:
        """Load a model folder with the task "rerank".

        :param model: model folder made by `python -m export` from a cross-encoder.
        :param threads: threads to compute with; None for as many CPU cores as this process may use.
        :param verify: compare the SHA-256 of each file too.
        :raises ModelError: the folder or a file in it is missing, damaged or of another kind.
        """
        self._model = load_model(model, threads=threads, verify=verify, task="rerank")

    @property
    def model(self) -> Model:
        """The loaded folder."""
        return self._model

    @property
    def max_tokens(self) -> int:
        """Most tokens of a pair, special tokens included: the default max_length."""
        return self._model.manifest.max_tokens

    def score(
        self, pairs: Iterable[tuple[str, str]], *, max_length: int | None = None
    ) -> NDArray[np.float32]:
        """Score pairs of a query and a document.

        :param pairs: (query, document); a document is cut where the pair has more than max_length tokens.
        :param max_length: most tokens of a pair, special tokens included; None for max_tokens.
        :return: [n] float32 logits, the higher the better; 1 / (1 + exp(-logit)) is between 0 and 1.
        :raises TypeError: a pair is not two str.
        :raises InputError: a query alone leaves no room for a document.
        :raises OutputError: a score is not finite.
        """
        scores, _ = self._score(list(pairs), max_length)
        return scores

    def rerank(
        self,
        query: str,
        documents: Iterable[str],
        top_n: int | None = None,
        *,
        max_length: int | None = None,
        return_documents: bool = False,
    ) -> list[Ranked]:
        """Rank documents for a query.

        :param query: a text with at least one token.
        :param documents: texts; each is cut where it does not fit beside the query, and `truncated` says so.
        :param top_n: how many of the best to return; None for all.
        :param max_length: as in score.
        :param return_documents: return the texts too.
        :return: best first, with logits as scores; of equal scores the document that came first.
        :raises TypeError: the query or a document is not a str.
        :raises InputError: the query is empty or leaves no room for a document, or top_n is not a positive integer.
        :raises OutputError: a score is not finite.
        """
        texts, top_n = check_request(query, documents, top_n)
        if not self._model.tokenizer.strip_special(self._model.tokenizer.encode(query)):
            raise InputError("the query is empty: it must have a token of its own")
        scores, cut = self._score([(query, text) for text in texts], max_length)
        return [
            Ranked(
                index,
                float(scores[index]),
                None,
                None,
                cut[index],
                texts[index] if return_documents else None,
            )
            for index in _best(scores, top_n)
        ]

    def _score(
        self, pairs: list[tuple[str, str]], max_length: int | None
    ) -> tuple[NDArray[np.float32], list[bool]]:
        model, tokenizer = self._model, self._model.tokenizer
        limit = self.max_tokens if max_length is None else max_length
        sequences, cut = [], []
        for number, pair in enumerate(pairs):
            if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise TypeError(f"pairs[{number}] is {str(pair)[:40]!r}, not a pair of str (query, document)")
            query, document = pair
            if tokenizer.count(query) + len(tokenizer.middle) >= limit:
                raise InputError(
                    f"pairs[{number}]: the query alone has {tokenizer.count(query):,} tokens, which leaves no room for "
                    f"a document in {limit:,}: shorten it or raise max_length"
                )
            ids, _, left_out = tokenizer.encode_pair(query, document, limit)
            sequences.append(np.array(ids, np.int32))
            cut.append(left_out > 0)
        scores = np.empty(len(pairs), np.float32)

        def work(batch: list[int], shrink: bool, batch_parallel: bool) -> None:
            scores[batch] = model.embed_batch(
                [sequences[number] for number in batch],
                normalize=False,
                numbers=batch,
                shrink=shrink,
                batch_parallel=batch_parallel,
            )[:, 0]

        model.for_each_batch([len(ids) for ids in sequences], work)
        return scores, cut

    def close(self) -> None:
        """Free the model."""
        self._model.close()

    def __enter__(self) -> Reranker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Reranker({self._model.folder!r}: {self._model.manifest.name})"


def check_request(query: object, documents: Iterable[object], top_n: object) -> tuple[list[str], int | None]:
    """Check what every rerank takes.

    :return: the documents and top_n.
    :raises TypeError: the query or a document is not a str.
    :raises InputError: top_n is not a positive integer.
    """
    if not isinstance(query, str):
        raise TypeError(f"query is {type(query).__name__}, not str")
    if top_n is not None and (isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 1):
        raise InputError(f"top_n={top_n!r}: must be an integer of at least 1, or None for all documents")
    return _check_texts(documents, "documents"), top_n


def _check_texts(texts: Iterable[object], name: str) -> list[str]:
    if isinstance(texts, (str, bytes, bytearray, dict, set, frozenset)) or not hasattr(texts, "__iter__"):
        raise TypeError(f"{name} is {type(texts).__name__}: expected a list of str")
    several = list(texts)
    for number, text in enumerate(several):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{number}] is {type(text).__name__}, not str: convert or drop it")
    return several  # type: ignore[return-value]


def _best(scores: NDArray[np.float32], top_n: int | None) -> list[int]:
    order: list[int] = np.argsort(-scores, kind="stable")[:top_n].tolist()
    return order


def _query(model: Model, query: str, weights: NDArray[np.float32], max_length: int) -> Multivector:
    prompt = query_prompt(model.manifest)
    own = _Texts(model, [query], prompt, max_length)
    if own.truncated[0]:
        count = model.tokenizer.count(prompt.text + query)
        raise InputError(
            f"the query has {count:,} tokens, more than max_length {max_length:,}: shorten it or raise max_length"
        )
    found: list[Multivector] = []
    own.for_each(lambda _, vectors: found.append(vectors), None, "float32", weights)
    if found[0].special.all():
        raise InputError("the query is empty: it must have a token of its own")
    return found[0]


class _Texts:
    """Texts as token ids, and what computes their token vectors."""

    def __init__(self, model: Model, texts: Sequence[str], prompt: Prompt, max_length: int) -> None:
        tokenizer = model.tokenizer
        self.model, self.texts, self.prompt = model, texts, prompt
        self.ids: list[NDArray[np.int32]] = []
        self.truncated: list[bool] = []
        for text in texts:
            ids = tokenizer.encode(prompt.text + text)
            self.truncated.append(len(ids) > max_length)
            self.ids.append(np.array(tokenizer.truncate(ids, max_length), np.int32))
        self.max_length = max_length
        # The tokens of a prompt are special too: nobody searches for them.
        self.before = len(tokenizer.encode(prompt.text)) - len(tokenizer.suffix)
        self.skip = skipped_tokens(model.manifest, tokenizer, prompt)

    def for_each(
        self,
        use: Callable[[int, Multivector], None],
        dimensions: int | None,
        dtype: str,
        weights: NDArray[np.float32],
    ) -> None:
        """Compute the token vectors of each text, and have them used: nothing is held but the current batches."""
        model = self.model
        rotation = None if dimensions is None else _rotation(model, dimensions)
        after = len(model.tokenizer.suffix)

        def work(batch: list[int], shrink: bool, batch_parallel: bool) -> None:
            ids = [self.ids[number] for number in batch]
            lengths = [len(each) for each in ids]
            hidden = model.run(ids, shrink=shrink, batch_parallel=batch_parallel)
            pooled = model.pool(hidden, lengths, skip=[self.skip] * len(batch), numbers=batch)
            for row, number in enumerate(batch):
                units = multivector.unit_rows(hidden[row, : lengths[row]])
                if rotation is not None and dimensions is not None:
                    units = multivector.rotate(units, rotation, dimensions)
                special = np.zeros(lengths[row], np.bool_)
                special[: self.before] = special[lengths[row] - after :] = True
                own = np.where(special, np.float32(0), weights[ids[row]])
                vectors = multivector.as_dtype(units, dtype)
                use(number, Multivector(vectors, ids[row], special, own, pooled[row]))

        model.for_each_batch([len(each) for each in self.ids], work)

    def span(self, number: int, first: int, end: int) -> tuple[int, int]:
        """Where tokens first to end of a text stand in it, in characters."""
        if first == end:
            return 0, 0
        _, offsets = self.model.tokenizer.encode_with_offsets(self.prompt.text + self.texts[number])
        offsets = self.model.tokenizer.truncate(offsets, self.max_length)
        shift = len(self.prompt.text)
        return max(offsets[first][0] - shift, 0), max(offsets[end - 1][1] - shift, 0)


def _token_weights(model: Model, given: ArrayLike | None) -> NDArray[np.float32]:
    vocabulary = max(len(model.tokenizer), model.manifest.vocabulary)
    if given is None:
        stored = model.array(TOKEN_WEIGHTS)
        weights = np.ones(vocabulary, np.float32) if stored is None else stored.astype(np.float32)
    else:
        weights = np.asarray(given, np.float32)
    if weights.shape != (vocabulary,) or not np.isfinite(weights).all() or (weights < 0).any():
        raise InputError(
            f"token_weights of shape {list(weights.shape)}: expected [{vocabulary}], numbers of at least 0"
        )
    return weights


def _rotation(model: Model, dimensions: int) -> NDArray[np.int16]:
    rotation = model.array(TOKEN_ROTATION)
    most = 0 if rotation is None else rotation.shape[1]
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= most:
        have = (
            f"an integer from 1 to {most}"
            if most
            else f"None, since the model folder has no {TOKEN_ROTATION}"
        )
        raise InputError(f"dimensions={dimensions!r}: must be {have}, or None for all")
    if rotation is None or rotation.dtype != np.int16 or rotation.shape[0] != model.manifest.hidden_size:
        raise ModelError(
            f"{TOKEN_ROTATION} is not int16 [{model.manifest.hidden_size}, K]: export the model again"
        )
    return rotation
