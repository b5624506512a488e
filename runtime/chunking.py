"""Late chunking: the model reads the whole text once, then each chunk is the mean of its own tokens' vectors.

A chunk's vector so knows the text around it (Günther et al., "Late Chunking", arXiv 2409.04701). [CLS] counts
to every chunk that holds the text's first token, [SEP] to every one that holds the last: a single chunk over
the whole text has the vector that encode gives. Texts over the maximum go through overlapping windows, and
each token is taken from the window in which it is furthest from an edge.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import pooling
from .errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from .session import Session
    from .tokenization.wordpiece import WordPiece

WINDOW_OVERLAP = 512  # tokens that neighbouring windows share, at most a quarter of a window


class Chunk(NamedTuple):
    """A part of a text with its vector."""

    start: int  # where it starts in the text, in characters
    end: int
    text: str  # text[start:end]
    tokens: int  # averaged, [CLS] and [SEP] counted where they belong to it
    vector: NDArray[np.float32]  # [D]


def encode_chunks(
    tokenizer: WordPiece,
    session: Session,
    text: str,
    *,
    chunk_tokens: int,
    overlap: int,
    spans: Iterable[tuple[int, int]] | None,
    max_length: int,
    normalize: bool,
) -> list[Chunk]:
    """Chunks of one text with vectors that were computed over the whole of it.

    :param tokenizer: gives ids and offsets.
    :param session: runs the graph.
    :param text: any length.
    :param chunk_tokens: tokens of a chunk, [CLS] and [SEP] not counted; the last chunk may have fewer.
    :param overlap: tokens that neighbouring chunks share, less than chunk_tokens.
    :param spans: character spans (start, end) to use instead of chunk_tokens and overlap, in any order; a
        token belongs to each span that it shares a character with.
    :param max_length: most tokens of one pass; longer texts go through overlapping windows of this size.
    :param normalize: give vectors of Euclidean length 1.
    :return: the chunks in order (of the spans, when given); none for a text without a token.
    :raises InputError: overlap too large, a span outside the text or without a token.
    :raises OutputError: a vector is not finite.
    """
    if overlap >= chunk_tokens:
        raise InputError(f"overlap={overlap}: fewer than the {chunk_tokens} tokens of a chunk wanted")
    ids, offsets = tokenizer.encode_with_offsets(text)
    last = len(ids) - 1  # of [SEP]; [CLS] is 0
    if spans is None:
        ranges = _equal_ranges(last, chunk_tokens, overlap)
        places = [(offsets[first][0], offsets[end - 1][1]) for first, end in ranges]
    else:
        places = [_span(number, span, len(text)) for number, span in enumerate(spans)]
        ranges = _ranges_of_spans(places, offsets[1:last])
    if not ranges:
        return []
    # The special tokens join the chunks at the ends.
    ranges = [(0 if first == 1 else first, end + 1 if end == last else end) for first, end in ranges]

    sums = np.zeros((len(ranges), session.dimension), np.float64)
    for start, first, end in windows(len(ids), max_length):
        stop = min(start + max_length - 2, last)  # the window's own tokens are start .. stop
        row = np.array([[ids[0], *ids[start:stop], ids[last]]], np.int64)
        hidden = session.run(row, np.ones_like(row))
        with np.errstate(over="ignore", invalid="ignore"):  # found by check_finite
            for number, (left, right) in enumerate(ranges):
                left, right = max(left, first), min(right, end)
                if left < right:
                    sums[number] += pooling.totals(hidden[:, left - start + 1 : right - start + 1])[0]
    counts = np.array([[end - first] for first, end in ranges], np.float64)
    vectors = pooling.finish(sums / counts, normalize)
    pooling.check_finite(vectors, "chunks", range(len(ranges)))
    return [
        Chunk(start, end, text[start:end], ranges[number][1] - ranges[number][0], vectors[number])
        for number, (start, end) in enumerate(places)
    ]


def find_spans(text: str, parts: Iterable[str], starts: Iterable[int | None] = ()) -> list[tuple[int, int]]:
    """Where the parts that a splitter cut out of a text stand in it.

    Parts come in the order of the text and may overlap: none starts or ends before the one before it. Each is taken to
    be at the first place where that holds, so that those after it are found too.

    :param text: the text that was split.
    :param parts: pieces of it, word for word; none of them empty.
    :param starts: for each part where it starts, as the splitter says; believed only if all of it is possible, since
        splitters lose count where a text repeats itself.
    :return: a pair (start, end) for each part, for encode_chunks(spans=...).
    :raises InputError: a part is empty, or does not stand in the text after the one before it.
    """
    parts = list(parts)
    told = [
        (start, start + len(part)) for start, part in zip(starts, parts, strict=False) if start is not None
    ]
    if len(told) == len(parts) and all(
        part and text.startswith(part, span[0]) and span > before and span[1] >= before[1]
        for part, span, before in zip(parts, told, [(-1, 0), *told], strict=False)
    ):
        return told
    spans: list[tuple[int, int]] = []
    last_start, last_end = 0, 0
    for number, part in enumerate(parts):
        if not part:
            raise InputError(f"parts[{number}] is empty: drop it")
        again = number > 0 and part == parts[number - 1]
        start = text.find(part, max(last_start + again, last_end - len(part)))
        if start < 0:
            raise InputError(
                f"parts[{number}] {part[:40]!r} does not stand in the text as it is: use a splitter that copies parts "
                "word for word, in order"
            )
        last_start, last_end = start, start + len(part)
        spans.append((last_start, last_end))
    return spans


def windows(count: int, max_length: int) -> list[tuple[int, int, int]]:
    """Windows over the tokens of a text of any length.

    :param count: tokens of the text, [CLS] and [SEP] included.
    :param max_length: tokens of a window, its own [CLS] and [SEP] included.
    :return: for each window (start, first, end): it covers the tokens from `start` on, as many as fit between
        its [CLS] and [SEP], and the vectors of tokens first to end - 1 are taken from it. Together they cover
        0 to count - 1.
    """
    inside = max_length - 2
    last = count - 1
    if count <= max_length:
        return [(1, 0, count)]
    shared = min(WINDOW_OVERLAP, inside // 4)
    starts = list(range(1, last - inside, inside - shared))
    starts.append(last - inside)  # the last window is full too, and so has context
    edges = [0]
    for one, following in pairwise(starts):
        edges.append((following + one + inside) // 2)  # the middle of what the two share
    edges.append(count)
    return [(start, *edge) for start, edge in zip(starts, pairwise(edges), strict=True)]


def _equal_ranges(last: int, chunk_tokens: int, overlap: int) -> list[tuple[int, int]]:
    ranges = []
    for first in range(1, last, chunk_tokens - overlap):
        ranges.append((first, min(first + chunk_tokens, last)))
        if ranges[-1][1] == last:
            break  # what follows would only repeat the end of this one
    return ranges


def _span(number: int, span: Any, length: int) -> tuple[int, int]:
    try:
        start, end = (int(edge) for edge in span)
    except (TypeError, ValueError):
        raise InputError(f"spans[{number}] is {span!r}: a pair (start, end) of characters wanted") from None
    if not 0 <= start < end <= length:
        raise InputError(
            f"spans[{number}] is ({start}, {end}): 0 <= start < end <= {length} (the text's length) wanted"
        )
    return start, end


def _ranges_of_spans(spans: list[tuple[int, int]], offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    starts = [start for start, _ in offsets]
    ends = [end for _, end in offsets]
    ranges = []
    for number, (start, end) in enumerate(spans):
        first, stop = bisect_right(ends, start), bisect_left(starts, end)
        if first >= stop:
            raise InputError(
                f"spans[{number}] is ({start}, {end}), which holds no token: drop it or widen it"
            )
        ranges.append((first + 1, stop + 1))
    return ranges
