"""Which texts run together: batches of nearly equal length under a budget that counts attention.

Costs are in token equivalents: a token of a text padded to L tokens costs 1 for the matrix products of its
own row and L / ATTENTION_TOKENS for its attention to the others. Nothing here changes a vector, only the time
and memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Budget of one batch, in token equivalents: its activations then stay in the processor's cache. 4096 takes 1.15 to
# 1.2 times as long a token; below 512 the many small nodes begin to cost.
BATCH_TOKENS = 1024
SIDE_BY_SIDE_TOKENS = 512  # the most where each thread has a batch of its own
ATTENTION_TOKENS = 512  # length at which attention costs as much as everything else
WASTE_TOKENS = 64  # padding worth accepting to save one more run, in token equivalents


def cost(length: int) -> float:
    """Token equivalents of one text padded to `length` tokens."""
    return length * (1 + length / ATTENTION_TOKENS)


def plan(
    lengths: Sequence[int],
    *,
    batch_tokens: int = BATCH_TOKENS,
    batch_size: int | None = None,
    alone_tokens: int | None = None,
) -> list[list[int]]:
    """Batches of text numbers, longest texts first.

    A batch is closed when one more text would pass the budget, or when the padding of its texts together
    would cost more than WASTE_TOKENS; so the padding of a batch never costs more than a run by itself does.

    :param lengths: tokens of each text, as they will be run.
    :param batch_tokens: budget of a batch in token equivalents; a text above it runs alone.
    :param batch_size: most texts in a batch; None for no limit.
    :param alone_tokens: texts with more tokens than this run alone, without padding; None for no such limit.
    :return: numbers into `lengths`; each appears once. In a batch the first is the longest.
    """
    batches: list[list[int]] = []
    batch: list[int] = []
    row_cost = waste = 0.0  # of the batch being filled: one padded row, all padding so far
    room = 0  # texts that still fit
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        own_cost = cost(lengths[index])
        waste += row_cost - own_cost
        if room == 0 or waste > WASTE_TOKENS:
            batch = []
            batches.append(batch)
            row_cost, waste = own_cost, 0.0
            alone = alone_tokens is not None and lengths[index] > alone_tokens
            room = 1 if alone else max(1, int(batch_tokens / own_cost))
            if batch_size is not None:
                room = min(room, batch_size)
        batch.append(index)
        room -= 1
    return batches


def pad(
    flat: NDArray[np.int32], starts: NDArray[np.int64], lengths: NDArray[np.int64], pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The graph's two inputs for one batch.

    :param flat: the token ids of all texts, one text after the other.
    :param starts: [B] where the batch's texts start in `flat`.
    :param lengths: [B] their tokens, the longest first.
    :param pad_id: id of [PAD].
    :return: ids and mask, both [B, L] int64, padded at the end.
    """
    positions = np.arange(lengths[0])
    ids = flat.take(starts[:, None] + positions, mode="clip").astype(np.int64)
    if lengths.min() == lengths[0]:
        return ids, np.ones_like(ids)
    real = positions < lengths[:, None]
    ids[~real] = pad_id
    return ids, real.astype(np.int64)
