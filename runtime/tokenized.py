"""Many texts as token ids, and their vectors."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import pooling
from .errors import TextTooLongError
from .texts import iterate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from .cli.progress import Progress
    from .model import Model
    from .tokenization.tokenizer import Tokenizer


class Tokenized(NamedTuple):
    """Token ids of n texts, one after the other: a million short texts then cost 4 bytes a token."""

    ids: NDArray[np.int32]  # of all texts
    lengths: list[int]  # n
    truncated: int  # texts that were cut
    cut: int  # tokens that were left out of them

    def texts(self) -> list[NDArray[np.int32]]:
        """The ids of each text."""
        return np.split(self.ids, np.cumsum(self.lengths)[:-1])


def tokenize(tokenizer: Tokenizer, texts: Iterable[str], prompt: str, limit: int, overflow: str) -> Tokenized:
    """Make ids of texts.

    :param tokenizer: of the model.
    :param texts: any iterable of texts.
    :param prompt: stands before each.
    :param limit: most tokens of a text, special tokens included.
    :param overflow: "truncate" or "error".
    :raises TypeError: see texts.iterate.
    :raises TextTooLongError: with overflow="error".
    """
    flat, lengths = array("i"), []
    truncated = cut = 0
    encode = tokenizer.encode
    for number, text in enumerate(iterate(texts)):
        ids = encode(prompt + text if prompt else text)
        if len(ids) > limit:
            if overflow == "error":
                raise TextTooLongError(number, len(ids), limit)
            truncated += 1
            cut += len(ids) - limit
            ids = tokenizer.truncate(ids, limit)
        flat.fromlist(ids)
        lengths.append(len(ids))
    return Tokenized(np.frombuffer(flat, np.int32), lengths, truncated, cut)


def embed(
    model: Model,
    tokenized: Tokenized,
    vectors: NDArray[np.float32],
    *,
    batch_tokens: int,
    batch_size: int | None,
    normalize: bool,
    skip: int,
    progress: Progress | None,
) -> None:
    """Compute a vector a text, longest texts first.

    :param model: computes them.
    :param tokenized: n texts.
    :param vectors: [n, D], which is filled; D numbers of each vector are kept.
    :param batch_tokens: budget of a batch, see batching.plan.
    :param batch_size: most texts in a batch; None for no limit.
    :param normalize: give vectors of Euclidean length 1.
    :param skip: tokens at each text's start that pooling leaves out.
    :param progress: told of each batch.
    :raises OutputError: a vector is not finite; the message names the text.
    """
    lengths = tokenized.lengths
    ends = np.cumsum(lengths, dtype=np.int64)
    starts = ends - lengths

    def work(batch: list[int], shrink: bool, batch_parallel: bool) -> None:
        found = model.embed_batch(
            [tokenized.ids[starts[text] : ends[text]] for text in batch],
            normalize=normalize,
            skip=[skip] * len(batch),
            numbers=batch,
            shrink=shrink,
            batch_parallel=batch_parallel,
        )
        vectors[batch] = pooling.cut(found, vectors.shape[1], normalize)
        if progress:
            progress.add(len(batch), sum(lengths[text] for text in batch))

    model.for_each_batch(lengths, work, batch_tokens=batch_tokens, batch_size=batch_size)
