"""The surface of sentence-transformers' CrossEncoder, without torch: programs written for it run with this one.

    model = CrossEncoder("models/jina-reranker-v1-tiny-en")
    scores = model.predict([("Who wrote Faust?", "Goethe wrote Faust.")])

With the folder of an embedding model, or none, pairs are scored by their token vectors (late interaction).
Not here: training, devices, several labels. Needs no extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.errors import InputError
from runtime.integrations import shared_ranker
from runtime.reranker import Reranker
from runtime.texts import iter_items, iterate

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["CrossEncoder"]


class CrossEncoder:
    """A loaded model that scores pairs of a query and a document."""

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        device: str | None = None,
        max_length: int | None = None,
        threads: int | None = None,
    ) -> None:
        """Load the model, or share the one that another adapter of this process has loaded.

        :param model_name_or_path: model folder; None for the bundled model. Hub names are not looked up.
        :param device: None or "cpu".
        :param max_length: most tokens of a pair; of an embedding model, of each text.
        :param threads: as in Embedder.
        :raises ModelError: the folder or a file in it is missing, damaged or of another kind.
        :raises InputError: device is another one.
        """
        if device not in (None, "cpu"):
            raise InputError(f"device={device!r}: this runs on the CPU; leave it out or say 'cpu'")
        self.ranker = shared_ranker(model_name_or_path, threads)
        self.max_length = max_length
        self.num_labels = 1

    def predict(
        self,
        sentences: Sequence[tuple[str, str]] | Sequence[list[str]] | tuple[str, str],
        *,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[Any], Any] | None = None,
        convert_to_numpy: bool = True,
    ) -> NDArray[np.float32] | np.float32:
        """Score pairs.

        :param sentences: pairs (query, document), or one pair.
        :param batch_size: without effect: batches are made by length.
        :param show_progress_bar: without effect.
        :param activation_fn: what becomes of a cross-encoder's logits [n]; None for the logistic function.
        :param convert_to_numpy: only True.
        :return: [n] float32; one number for one pair. Of an embedding model at most 1, and 0 where the query is blank.
        :raises TypeError: a pair is not two str.
        :raises InputError: a query is too long, or convert_to_numpy is False.
        """
        if not convert_to_numpy:
            raise InputError("convert_to_numpy=False: only numpy arrays are returned; convert them yourself")
        given: list[Any] = list(iter_items(sentences, "sentences", getattr(sentences, "ndim", 2)))
        single = len(given) == 2 and isinstance(given[0], str)
        pairs = (
            [tuple(given)]
            if single
            else [tuple(iter_items(pair, f"sentences[{n}]")) for n, pair in enumerate(given)]
        )
        if isinstance(self.ranker, Reranker):
            logits = self.ranker.score(pairs, max_length=self.max_length)
            scores = np.asarray(
                _logistic(logits) if activation_fn is None else activation_fn(logits), np.float32
            )
        else:
            scores = self._by_tokens(pairs)
        return scores[0] if single else scores

    def rank(
        self,
        query: str,
        documents: list[str],
        top_k: int | None = None,
        return_documents: bool = False,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Rank documents.

        :param query: a text that is not empty.
        :param documents: texts.
        :param top_k: how many of the best to return; None for all.
        :param return_documents: return the texts too.
        :param options: of predict.
        :return: {"corpus_id", "score"} and perhaps "text" for each, the best first.
        """
        documents = list(iterate(documents, "documents"))
        scores = np.asarray(self.predict([(query, text) for text in documents], **options), np.float32)
        ranked = []
        for index in np.argsort(-scores, kind="stable")[:top_k].tolist():
            found: dict[str, Any] = {"corpus_id": index, "score": float(scores[index])}
            if return_documents:
                found["text"] = documents[index]
            ranked.append(found)
        return ranked

    def _by_tokens(self, pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
        """Scores by token vectors: each query is computed once."""
        scores = np.empty(len(pairs), np.float32)
        numbers: dict[str, list[int]] = {}
        for number, pair in enumerate(pairs):
            if len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise TypeError(
                    f"sentences[{number}] is {str(pair)[:40]!r}, not a pair of str (query, document)"
                )
            numbers.setdefault(pair[0], []).append(number)
        for query, own in numbers.items():
            if not query.strip():
                scores[own] = 0  # it has no token that a document could have
                continue
            documents = [pairs[number][1] for number in own]
            for ranked in self.ranker.rerank(query, documents, max_length=self.max_length, spans=False):
                scores[own[ranked.index]] = ranked.score
        return scores


def _logistic(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -80, 80)))
    return shares
