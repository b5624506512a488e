"""How much memory a text of so many tokens takes: to refuse a text instead of being killed over it.

The constants are fits to `python -m tests.bench memory` (peak RSS of a process with one thread, small-en in
int8, onnxruntime 1.32), which prints measurement and estimate side by side; they are scaled to other models by the
shapes that the terms come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.batching import ATTENTION_TOKENS
from runtime.resources import MEGABYTE, rss_bytes

if TYPE_CHECKING:
    from runtime.manifest import Manifest

# A text that runs whole (up to max_dense_tokens): activations by token, scores by pair of tokens.
TOKEN_BYTES = 19  # a unit of the intermediate layer and token
PAIR_BYTES = 24  # a pair of tokens: the scores of one head after another
HEAD_PAIR_BYTES = 4  # a head and pair of tokens: T5's bias, which other architectures have by distance
# A longer text runs in blocks: only what spans the whole text grows.
BLOCK_BYTES = 28 * MEGABYTE  # of a model of 8 heads and 2048 units
LONG_TOKEN_BYTES = 8  # a unit of the intermediate layer and token
# Of the request: its bytes, its characters, their tokens.
CHARACTER_BYTES = 16
# Of a value of an answer: float32, a Python float in a list, its digits twice; or its digits in base64.
VALUE_BYTES = {"float": 80, "base64": 20}
SPARE_BYTES = 16 * MEGABYTE  # estimates are not exact, and Python allocates in steps
LIBRARY_BYTES = 16 * MEGABYTE  # of onnxruntime, once loaded


def run_bytes(tokens: int, manifest: Manifest, threads: int = 1) -> int:
    """What the longest text of a call takes while it runs, beyond the loaded model.

    :param tokens: its length; shorter texts take no more, in batches either.
    :param manifest: of the model.
    :param threads: that may run as many batches in parallel (batching.py); a text in blocks has them all.
    :return: bytes, an upper estimate.
    """
    alone = manifest.max_dense_tokens
    whole = tokens if alone is None else min(tokens, alone)
    need = whole * (manifest.intermediate * TOKEN_BYTES + whole * _pair_bytes(manifest))
    if threads > 1:
        need = need * threads + model_bytes(manifest)  # of a second session
    if alone is None or tokens <= alone:
        return need
    blocks = BLOCK_BYTES * manifest.heads // 8
    return max(need, blocks + tokens * manifest.intermediate * LONG_TOKEN_BYTES)


def _pair_bytes(manifest: Manifest) -> int:
    return PAIR_BYTES + manifest.heads * HEAD_PAIR_BYTES


def model_bytes(manifest: Manifest) -> int:
    """Size of a model's files."""
    return sum(facts.size for facts in manifest.files.values())


def threads_for(limit_bytes: int, most: int, most_tokens: int, manifest: Manifest) -> int:
    """How many threads leave as much room for long texts as one does.

    :param limit_bytes: memory that may be used; nothing is loaded yet.
    :param most: threads asked for.
    :param most_tokens: length that is long enough.
    :param manifest: of the model.
    :return: 1 to most.
    """
    free = limit_bytes - rss_bytes() - model_bytes(manifest) - LIBRARY_BYTES - SPARE_BYTES
    alone = longest_text(free, most_tokens, manifest)
    if alone == 0:
        return 1
    return next(
        (count for count in range(most, 1, -1) if longest_text(free, most_tokens, manifest, count) == alone),
        1,
    )


def batch_tokens(free: int, manifest: Manifest, threads: int = 1) -> int:
    """The budget of a batch (batching.py: tokens, with their attention) that fits.

    :param free: bytes beyond the loaded model.
    :param manifest: of the model.
    :param threads: as in run_bytes.
    :return: token equivalents, at least 1.
    """
    if threads > 1:
        free = (free - model_bytes(manifest)) // threads
    # A batch of texts of L tokens takes tokens x (units x TOKEN_BYTES + L x bytes of a pair), its cost is
    # tokens x (1 + L / ATTENTION_TOKENS): the larger of the two ratios holds for every L.
    of_tokens = manifest.intermediate * TOKEN_BYTES
    of_pairs = _pair_bytes(manifest) * ATTENTION_TOKENS
    return max(1, free // max(of_tokens, of_pairs))


def longest_text(free: int, most: int, manifest: Manifest, threads: int = 1) -> int:
    """The longest text that fits.

    :param free: bytes beyond the loaded model.
    :param most: length that is long enough.
    :param manifest: of the model.
    :param threads: as in run_bytes.
    :return: tokens, at most `most`; 0 if nothing fits.
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if run_bytes(middle, manifest, threads) <= free:
            low = middle
        else:
            high = middle - 1
    return low
