"""Which texts run together: batches of nearly equal length under a budget that counts attention.

Costs are in token equivalents: a token of a text padded to L tokens costs 1 for the matrix products of its
own row and L / ATTENTION_TOKENS for its attention to the others. Nothing here changes a vector, only the time
and memory.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

# Budget of one batch, in token equivalents: its activations then stay in the CPU's cache. 4096 takes 1.15 to
# 1.2 times as long a token; below 512 the many small nodes begin to cost.
BATCH_TOKENS = 1024
PARALLEL_BATCH_TOKENS = 512  # the most where each thread has a batch of its own
ATTENTION_TOKENS = 512  # length at which attention costs as much as everything else
WASTE_TOKENS = 64  # padding worth accepting to save one more run, in token equivalents
WINDOW_OVERLAP = 512  # tokens that neighbouring windows over a long text share, at most a quarter of a window


def cost(length: int) -> float:
    """Token equivalents of one text padded to `length` tokens."""
    return length * (1 + length / ATTENTION_TOKENS)


def plan(
    lengths: Sequence[int],
    *,
    batch_tokens: int = BATCH_TOKENS,
    batch_size: int | None = None,
    max_dense_tokens: int | None = None,
) -> list[list[int]]:
    """Batches of text numbers, longest texts first.

    A batch is closed when one more text would pass the budget, or when the padding of its texts together
    would cost more than WASTE_TOKENS; so the padding of a batch never costs more than a run by itself does.

    :param lengths: tokens of each text, as they will be run.
    :param batch_tokens: budget of a batch in token equivalents; a text above it runs alone.
    :param batch_size: most texts in a batch; None for no limit.
    :param max_dense_tokens: texts with more tokens than this run alone, without padding; None for no such limit.
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
            alone = max_dense_tokens is not None and lengths[index] > max_dense_tokens
            room = 1 if alone else max(1, int(batch_tokens / own_cost))
            if batch_size is not None:
                room = min(room, batch_size)
        batch.append(index)
        room -= 1
    return batches


def pad(texts: Sequence[ArrayLike], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Make the graph's two inputs for one batch.

    :param texts: B times the token ids of a text.
    :param pad_id: id of [PAD].
    :return: ids and mask, both [B, L] int64, padded at the end.
    """
    lengths = np.array([np.size(text) for text in texts], np.int64)
    real = np.arange(lengths.max(initial=0)) < lengths[:, None]
    ids = np.full(real.shape, pad_id, np.int64)
    if len(texts):
        ids[real] = np.concatenate(texts)
    return ids, real.astype(np.int64)


def windows(count: int, max_length: int, before: int = 1, after: int = 1) -> list[tuple[int, int, int]]:
    """Cut the tokens of a text of any length into overlapping windows.

    :param count: tokens of the text, special tokens included.
    :param max_length: tokens of a window, its own special tokens included.
    :param before: special tokens before a text, 1 for [CLS].
    :param after: special tokens after it, 1 for [SEP].
    :return: for each window (start, first, end): it covers the tokens from `start` on, as many as fit between
        its special tokens, and the vectors of tokens first to end - 1 are taken from it. Together they cover
        0 to count - 1.
    """
    if count <= max_length:
        return [(before, 0, count)]
    inside = max_length - before - after
    shared = min(WINDOW_OVERLAP, inside // 4)
    last = count - after - inside  # the last window is full too, and so has context
    starts = [*range(before, last, inside - shared), last]
    edges = [0]
    for one, following in pairwise(starts):
        edges.append((following + one + inside) // 2)  # the middle of what the two share
    edges.append(count)
    return [(start, *edge) for start, edge in zip(starts, pairwise(edges), strict=True)]


def run_parallel(work: Callable[[int], None], count: int, threads: int) -> None:
    """Call work(0) ... work(count - 1), in that order of starting, from several threads of which this one is one.

    For many batches, each computed by one thread instead of each by all. Threads that share one batch wait for each
    other at every operation, and leave the small ones to one of them. With several batches at hand none waits: 8 to
    12 % less time on 2 quiet cores, a quarter less where others use them too.

    :param work: safe to call from several threads at once.
    :param count: how many calls.
    :param threads: how many threads.
    :raises Exception: what a call raised, the first call's if several did; no call starts after that, and those under
        way have ended.
    """
    from threading import Lock, Thread

    lock = Lock()
    jobs = iter(range(count))
    failures: list[tuple[int, BaseException]] = []

    def run() -> None:
        while True:
            with lock:
                job = None if failures else next(jobs, None)
            if job is None:
                return
            try:
                work(job)
            except BaseException as error:
                with lock:
                    failures.append((job, error))

    helpers = [Thread(target=run, name=f"jinabert-{number}", daemon=True) for number in range(1, threads)]
    try:
        for helper in helpers:
            try:
                helper.start()
            except RuntimeError:  # no more threads to be had: those that run do all
                break
        run()
    except BaseException as error:  # interrupted between two calls
        with lock:
            failures.append((-1, error))
    for helper in helpers:
        if helper.ident is not None:
            helper.join()
    if failures:
        raise min(failures, key=lambda failure: failure[0])[1]
