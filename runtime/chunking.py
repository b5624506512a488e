"""Late chunking: the model reads the whole text once, then each chunk is the mean of its own tokens' vectors.

A chunk's vector so knows the text around it (Günther et al., "Late Chunking", arXiv 2409.04701). [CLS] counts
to every chunk that holds the text's first token, [SEP] to every one that holds the last: a single chunk over
the whole text has the vector that encode gives. Texts over the maximum go through overlapping windows, and
each token is taken from the window in which it is furthest from an edge.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import pooling
from .errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from .model import Model
    from .tokenization.tokenizer import Tokenizer


class Chunk(NamedTuple):
    """A part of a text with its vector."""

    start: int  # where it starts in the text, in characters
    end: int
    text: str  # text[start:end]
    tokens: int  # averaged, [CLS] and [SEP] counted where they belong to it
    vector: NDArray[np.float32]  # [D]


def encode_chunks(
    model: Model,
    text: str,
    *,
    chunk_tokens: int,
    overlap: int,
    spans: Iterable[tuple[int, int]] | None,
    max_length: int,
    normalize: bool,
    dimensions: int,
    prompt: str = "",
    skip: int = 0,
) -> list[Chunk]:
    """Cut one text into chunks, with vectors that were computed over the whole of it.

    :param model: a loaded model.
    :param text: any length.
    :param chunk_tokens: tokens of a chunk, [CLS] and [SEP] not counted; the last chunk may have fewer.
    :param overlap: tokens that neighbouring chunks share, less than chunk_tokens.
    :param spans: character spans (start, end) to use instead of chunk_tokens and overlap, in any order; a
        token belongs to each span that it shares a character with.
    :param max_length: most tokens of one pass; longer texts go through overlapping windows of this size.
    :param normalize: give vectors of Euclidean length 1.
    :param dimensions: how many numbers of a vector to keep.
    :param prompt: what stands before the text; it is read with it, and no chunk's span or text holds it.
    :param skip: tokens at the start that no chunk has, see prompts.skipped_tokens. 0: the first chunk has those of the
        prompt.
    :return: the chunks in order (of the spans, when given); none for a text without a token.
    :raises InputError: overlap too large, a span outside the text or without a token.
    :raises OutputError: a vector is not finite.
    """
    if overlap >= chunk_tokens:
        raise InputError(f"overlap={overlap}: must be less than chunk_tokens={chunk_tokens}")
    ids, offsets = model.tokenizer.encode_with_offsets(prompt + text)
    own = len(model.tokenizer.prefix), len(ids) - len(model.tokenizer.suffix)  # the text's own tokens
    if prompt:
        offsets = [(max(start - len(prompt), 0), end - len(prompt)) for start, end in offsets]
        first = max(own[0], skip)
        own = next((number for number in range(first, own[1]) if offsets[number][1] > 0), own[1]), own[1]
    if spans is None:
        ranges = _equal_ranges(own, chunk_tokens, overlap)
        spans = [(offsets[first][0], offsets[end - 1][1]) for first, end in ranges]
    else:
        spans = [_check_span(number, span, len(text)) for number, span in enumerate(spans)]
        ranges = _ranges_of_spans(spans, offsets, own)
    if not ranges:
        return []
    ranges = _with_special_tokens(ranges, own, len(ids), skip)
    vectors = model.embed_ranges(ids, ranges, max_length=max_length, normalize=normalize)
    vectors = pooling.cut(vectors, dimensions, normalize)
    return [
        Chunk(start, stop, text[start:stop], end - first, vector)
        for (start, stop), (first, end), vector in zip(spans, ranges, vectors, strict=True)
    ]


def joined_length(tokenizer: Tokenizer, texts: Sequence[NDArray[np.int32]]) -> int:
    """Count the tokens of texts that are read as one, see embed_joined.

    :param tokenizer: what made them.
    :param texts: token ids of each, special tokens included.
    """
    return tokenizer.added_count + sum(len(text) - tokenizer.added_count for text in texts)


def embed_joined(
    model: Model, texts: Sequence[NDArray[np.int32]], *, max_length: int, normalize: bool
) -> NDArray[np.float32]:
    """Late chunking of texts that are tokenized already: read as one text, a vector each.

    :param model: a loaded model.
    :param texts: n times token ids, special tokens included. One without a token of its own has no part in the
        whole: its vector is that of an empty text.
    :param max_length: most tokens of one pass; more go through overlapping windows of this size.
    :param normalize: give vectors of Euclidean length 1.
    :return: [n, D] float32.
    :raises OutputError: a vector is not finite.
    """
    prefix, suffix = model.tokenizer.prefix, model.tokenizer.suffix
    parts = [model.tokenizer.strip_special(text.tolist()) for text in texts]
    ids = [*prefix, *chain.from_iterable(parts), *suffix]
    own = len(prefix), len(ids) - len(suffix)
    ranges = pairwise(accumulate(map(len, parts), initial=own[0]))
    filled = {number: edges for number, edges in enumerate(ranges) if edges[0] < edges[1]}
    vectors = np.empty((len(texts), model.dimension), np.float32)
    if len(filled) < len(texts):
        vectors[:] = model.embed_batch([[*prefix, *suffix]], normalize=normalize)
    if filled:
        widened = _with_special_tokens(filled.values(), own, len(ids))
        vectors[list(filled)] = model.embed_ranges(ids, widened, max_length=max_length, normalize=normalize)
    return vectors


def find_spans(text: str, parts: Iterable[str], starts: Iterable[int | None] = ()) -> list[tuple[int, int]]:
    """Find where the parts that a splitter cut out of a text stand in it.

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


def _equal_ranges(own: tuple[int, int], chunk_tokens: int, overlap: int) -> list[tuple[int, int]]:
    ranges = []
    start, last = own
    for first in range(start, last, chunk_tokens - overlap):
        ranges.append((first, min(first + chunk_tokens, last)))
        if ranges[-1][1] == last:
            break  # what follows would only repeat the end of this one
    return ranges


def _with_special_tokens(
    ranges: Iterable[tuple[int, int]], own: tuple[int, int], count: int, skip: int = 0
) -> list[tuple[int, int]]:
    """Widen ranges of a text's tokens by a prompt and special tokens, where they hold its first or its last one.

    :param ranges: pairs (first, end).
    :param own: where the text's own tokens start and end.
    :param count: all tokens.
    :param skip: how many tokens at the start stay out.
    """
    return [(skip if first == own[0] else first, count if end == own[1] else end) for first, end in ranges]


def _check_span(number: int, span: Any, length: int) -> tuple[int, int]:
    try:
        start, end = (int(edge) for edge in span)
    except (TypeError, ValueError):
        raise InputError(f"spans[{number}] is {span!r}: expected a pair (start, end) of characters") from None
    if not 0 <= start < end <= length:
        raise InputError(
            f"spans[{number}] is ({start}, {end}): must be 0 <= start < end <= {length} (the text's length)"
        )
    return start, end


def _ranges_of_spans(
    spans: list[tuple[int, int]], offsets: list[tuple[int, int]], own: tuple[int, int]
) -> list[tuple[int, int]]:
    starts, ends = zip(*offsets, strict=True)
    ranges = []
    for number, (start, end) in enumerate(spans):
        first, stop = bisect_right(ends, start, *own), bisect_left(starts, end, *own)
        if first >= stop:
            raise InputError(
                f"spans[{number}] is ({start}, {end}), which holds no token: drop it or widen it"
            )
        ranges.append((first, stop))
    return ranges
