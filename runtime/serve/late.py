"""Late chunking of a request's inputs: read as one text, a vector each.

runtime/chunking.py cuts a text at character spans. Here the tokens are there already, so each of them stands for one
character: inputs that are token ids then work as texts do, and nothing is tokenized twice.
"""

from __future__ import annotations

from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, cast

import numpy as np

from runtime import pooling
from runtime.chunking import encode_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from runtime.session import Session
    from runtime.tokenization.wordpiece import WordPiece


class _Tokens:
    """What encode_chunks asks of a tokenizer, for tokens that are known."""

    def __init__(self, ids: list[int]) -> None:
        self._ids = ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        return self._ids, [(0, 0), *((place, place + 1) for place in range(len(text))), (0, 0)]


def late_chunks(
    texts: Sequence[NDArray[np.int32]], max_length: int, normalize: bool
) -> tuple[int, Callable[[Session], NDArray[np.float32]]]:
    """One pass over several texts.

    :param texts: ids of each, [CLS] and [SEP] included. One without a token between them has no part in the whole: its
        vector is that of an empty text.
    :param max_length: most tokens of a pass; more go through overlapping windows.
    :param normalize: give vectors of length 1.
    :return: tokens of the whole, and what computes the vectors [n, D].
    """
    own: list[list[int]] = [text[1:-1].tolist() for text in texts]
    ids = [int(texts[0][0]), *chain.from_iterable(own), int(texts[0][-1])]
    edges = accumulate(map(len, own), initial=0)
    spans = list(pairwise(edges))
    filled = [number for number, (start, end) in enumerate(spans) if start < end]

    def compute(session: Session) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), session.dimension), np.float32)
        if len(filled) < len(texts):
            empty = np.array([[ids[0], ids[-1]]], np.int64)
            hidden = session.run(empty, np.ones_like(empty))
            vectors[:] = pooling.finish(pooling.means(hidden, np.array([2])), normalize)
        chunks = encode_chunks(
            cast("WordPiece", _Tokens(ids)),
            session,
            "\0" * (len(ids) - 2),
            chunk_tokens=1,
            overlap=0,
            spans=[spans[number] for number in filled],
            max_length=max_length,
            normalize=normalize,
        )
        for number, chunk in zip(filled, chunks, strict=True):
            vectors[number] = chunk.vector
        return vectors

    return len(ids), compute
