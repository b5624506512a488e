"""Which documents answer a query best: by the token vectors of an embedding model, or by a cross-encoder.

`Embedder.rerank` and `Embedder.encode_multivector` are `rerank` and `encode_multivector` here (late interaction,
multivector.py). `Reranker` is for model folders with the task "rerank", whose one number a pair is the score.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from . import multivector
from .errors import InputError, TextTooLongError
from .holder import ModelHolder
from .multivector import TOKEN_ROTATION, TOKEN_WEIGHTS, Multivector, check_rotation, stored
from .prompts import document_prompt, query_prompt, skipped_tokens
from .texts import check_text, iter_items, iterate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from .model import Model
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
    :param query: a text that is not empty.
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
    tokenizer, prompt = model.tokenizer, document_prompt(model.manifest)
    scorer = TokenScorer(model, query, max_length, token_weights, spans=spans)
    ids, truncated = _encode(model, texts, prompt, max_length)
    found = np.empty((len(texts), TokenScorer.SIZE), np.float32)
    skip = skipped_tokens(model.manifest, tokenizer, prompt)

    def work(batch: list[int], shrink: bool, batch_parallel: bool) -> None:
        found[batch] = model.reduce_batch(
            [ids[number] for number in batch],
            [scorer] * len(batch),
            skip=[skip] * len(batch),
            numbers=batch,
            shrink=shrink,
            batch_parallel=batch_parallel,
        )

    model.for_each_batch(list(map(len, ids)), work)
    ranked = []
    for index in best_first(found[:, 0], top_n):
        score, first, end = found[index].tolist()
        start = stop = None
        if spans:
            start, stop = span_of(model, prompt.text, texts[index], int(first), int(end), max_length)
        text = texts[index] if return_documents else None
        ranked.append(Ranked(index, score, start, stop, truncated[index], text))
    return ranked


class TokenScorer:
    """Scores documents against one query by their token vectors: a function for Model.reduce_batch.

    The query is computed with the first document. Safe from several threads.
    """

    SIZE = 3  # score, and the first token of the best window and the one after its last

    def __init__(
        self,
        model: Model,
        query: str,
        max_length: int,
        token_weights: ArrayLike | None = None,
        *,
        spans: bool = True,
    ) -> None:
        """Check the query.

        :param model: that the query is tokenized for.
        :param query: a text.
        :param max_length: most tokens of it, special tokens and those of a prompt included.
        :param token_weights: see rerank.
        :param spans: look for windows; else both numbers are 0.
        :raises InputError: the query has more than max_length tokens.
        """
        tokenizer, prompt = model.tokenizer, query_prompt(model.manifest)
        (self._ids,), (truncated,) = _encode(model, [query], prompt, max_length)
        if truncated:
            raise InputError(
                f"the query has {tokenizer.count(prompt.text + query):,} tokens, more than max_length {max_length:,}: "
                "shorten it or raise max_length"
            )
        self._before = _before(model, prompt)
        self._skip = skipped_tokens(model.manifest, tokenizer, prompt)
        self._document_before = _before(model, document_prompt(model.manifest))
        self._weights = _token_weights(model, token_weights)
        self._spans = spans
        self._lock = Lock()
        self._query: Multivector | None = None

    @property
    def tokens(self) -> int:
        """Tokens of the query, special tokens included."""
        return len(self._ids)

    def __call__(
        self,
        model: Model,
        ids: NDArray[np.int32],
        hidden: NDArray[np.float32],
        pooled: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Score a document.

        :param model: computes the query when it is first needed.
        :param ids: [T] of the document.
        :param hidden: [T, hidden_size] its token vectors.
        :param pooled: [D] its vector, of length 1.
        :return: [SIZE].
        """
        with self._lock:
            if self._query is None:
                own = model.run([self._ids])
                vector = model.pool(own, [len(self._ids)], skip=[self._skip])[0]
                self._query = _multivector(
                    model, self._ids, stored(own[0]), vector, self._before, self._weights
                )
        document = _multivector(model, ids, stored(hidden), pooled, self._document_before, self._weights)
        (score,) = multivector.maxsim(self._query, [document])
        first, end = multivector.best_window(self._query, document) if self._spans else (0, 0)
        return np.array([score, first, end], np.float32)


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
    several = list(iterate(texts))
    if dtype not in multivector.DTYPES:
        raise InputError(f"dtype={dtype!r}: must be one of {', '.join(multivector.DTYPES)}")
    weights = _token_weights(model, token_weights)
    rotation = None
    if dimensions is not None:
        rotation = check_rotation(model.array(TOKEN_ROTATION), dimensions, model.manifest.hidden_size)
    prompt = (query_prompt if query else document_prompt)(model.manifest)
    ids, truncated = _encode(model, several, prompt, max_length)
    if query and any(truncated):
        number = truncated.index(True)
        raise TextTooLongError(number, model.tokenizer.count(prompt.text + several[number]), max_length)
    before, skip = _before(model, prompt), skipped_tokens(model.manifest, model.tokenizer, prompt)
    found: list[Multivector | None] = [None] * len(several)

    def work(batch: list[int], shrink: bool, batch_parallel: bool) -> None:
        own = [ids[number] for number in batch]
        hidden = model.run(own, shrink=shrink, batch_parallel=batch_parallel)
        pooled = model.pool(hidden, list(map(len, own)), skip=[skip] * len(batch), numbers=batch)
        for row, number in enumerate(batch):
            vectors = stored(hidden[row, : len(own[row])], dtype, rotation)
            found[number] = _multivector(model, own[row], vectors, pooled[row], before, weights)

    model.for_each_batch(list(map(len, ids)), work)
    return [each for each in found if each is not None]


class Reranker(ModelHolder):
    """A loaded cross-encoder: it reads query and document together. Safe to use from several threads.

    Pickles and copies are as an Embedder's.
    """

    TASK = "rerank"

    def __init__(
        self, model: str | os.PathLike[str], *, threads: int | None = None, verify: bool = False
    ) -> None:
        """Load a model folder with the task "rerank".

        :param model: model folder made by `python -m export` from a cross-encoder.
        :param threads: threads to compute with; None for as many CPU cores as this process may use.
        :param verify: compare the SHA-256 of each file too.
        :raises ModelError: the folder or a file in it is missing, damaged or of another kind.
        """
        super().__init__(model, threads, verify)

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
        scores, _ = self._score(list(iter_items(pairs, "pairs", 2)), max_length)
        return scores

    def rerank(
        self,
        query: str,
        documents: Iterable[str],
        top_n: int | None = None,
        *,
        max_length: int | None = None,
        spans: bool = True,
        return_documents: bool = False,
    ) -> list[Ranked]:
        """Rank documents for a query.

        :param query: a text that is not empty.
        :param documents: texts; each is cut where it does not fit beside the query, and `truncated` says so.
        :param top_n: how many of the best to return; None for all.
        :param max_length: as in score.
        :param spans: as in Embedder.rerank; a cross-encoder knows none.
        :param return_documents: return the texts too.
        :return: best first, with logits as scores; of equal scores the document that came first.
        :raises TypeError: the query or a document is not a str.
        :raises InputError: the query is empty or leaves no room for a document, or top_n is not a positive integer.
        :raises OutputError: a score is not finite.
        """
        texts, top_n = check_request(query, documents, top_n)
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
            for index in best_first(scores, top_n)
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


def check_request(query: Any, documents: Iterable[object], top_n: object) -> tuple[list[str], int | None]:
    """Check what every rerank takes.

    :return: the documents and top_n.
    :raises TypeError: the query or a document is not a str.
    :raises InputError: the query is empty, or top_n is not a positive integer.
    """
    check_text(query, "query")
    if not query.strip():
        raise InputError("the query is empty: expected a text")
    if top_n is not None and (isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 1):
        raise InputError(f"top_n={top_n!r}: must be an integer of at least 1, or None for all documents")
    return list(iterate(documents, "documents")), top_n


def best_first(scores: NDArray[np.float32], top_n: int | None) -> list[int]:
    """Order documents by score.

    :param scores: [n].
    :param top_n: how many of the best; None for all.
    :return: their numbers; of equal scores the one that came first.
    """
    order: list[int] = np.argsort(-scores, kind="stable")[:top_n].tolist()
    return order


def span_of(model: Model, prompt: str, text: str, first: int, end: int, max_length: int) -> tuple[int, int]:
    """Find where tokens of a document stand in it.

    :param model: whose tokenizer made them.
    :param prompt: that stood before the text.
    :param text: the document.
    :param first: index of the first token.
    :param end: index after the last one.
    :param max_length: tokens to which the document was cut.
    :return: start and end in characters of the text.
    """
    if first == end:
        return 0, 0
    _, offsets = model.tokenizer.encode_with_offsets(prompt + text)
    offsets = model.tokenizer.truncate(offsets, max_length)
    return max(offsets[first][0] - len(prompt), 0), max(offsets[end - 1][1] - len(prompt), 0)


def _encode(
    model: Model, texts: Sequence[str], prompt: Prompt, max_length: int
) -> tuple[list[NDArray[np.int32]], list[bool]]:
    """Token ids of each text, and whether it was cut."""
    own = [model.tokenizer.encode(prompt.text + text) for text in texts]
    kept = [np.array(model.tokenizer.truncate(ids, max_length), np.int32) for ids in own]
    return kept, [len(ids) > max_length for ids in own]


def _before(model: Model, prompt: Prompt) -> int:
    """Tokens before a text's own: nobody searches for those of a prompt."""
    return len(model.tokenizer.encode(prompt.text)) - len(model.tokenizer.suffix)


def _multivector(
    model: Model,
    ids: NDArray[np.int32],
    vectors: NDArray[Any],
    pooled: NDArray[np.float32],
    before: int,
    weights: NDArray[np.float32],
) -> Multivector:
    special = np.zeros(len(ids), np.bool_)
    special[:before] = special[len(ids) - len(model.tokenizer.suffix) :] = True
    return Multivector(vectors, ids, special, np.where(special, np.float32(0), weights[ids]), pooled)


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
