"""Late chunking against pooling by hand from encode_tokens."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import Embedder, InputError
from runtime.batching import windows
from runtime.chunking import find_spans

TEXT = "hello world, a b c d e f g"  # 10 tokens and two special ones


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("normalize", [True, False])
def test_chunks_are_means_of_the_whole_texts_token_vectors(tiny: Embedder, normalize: bool) -> None:
    tokens = tiny.encode_tokens(TEXT)
    chunks = tiny.encode_chunks(TEXT, chunk_tokens=4, normalize=normalize)
    rows = [(0, 5), (5, 9), (9, 12)]  # [CLS] belongs to the first chunk, [SEP] to the last
    assert [chunk.text for chunk in chunks] == ["hello world, a", "b c d e", "f g"]
    for chunk, (first, end) in zip(chunks, rows, strict=True):
        expected = tokens.vectors[first:end].mean(axis=0)
        np.testing.assert_allclose(chunk.vector, unit(expected) if normalize else expected, atol=1e-6)
        assert chunk.tokens == end - first
        assert TEXT[chunk.start : chunk.end] == chunk.text
        assert chunk.vector.dtype == np.float32


def test_overlap_repeats_tokens_and_stops_at_the_end(tiny: Embedder) -> None:
    chunks = tiny.encode_chunks(TEXT, chunk_tokens=4, overlap=2)
    assert [chunk.text for chunk in chunks] == ["hello world, a", ", a b c", "b c d e", "d e f g"]


def test_one_chunk_over_everything_is_what_encode_gives(tiny: Embedder) -> None:
    (chunk,) = tiny.encode_chunks(TEXT)
    assert np.array_equal(chunk.vector, tiny.encode(TEXT))
    (chunk,) = tiny.encode_chunks(TEXT, spans=[(0, len(TEXT))])
    assert np.array_equal(chunk.vector, tiny.encode(TEXT))


def test_spans_take_each_token_they_touch_in_the_order_given(tiny: Embedder) -> None:
    tokens = tiny.encode_tokens(TEXT)
    chunks = tiny.encode_chunks(TEXT, spans=[(13, 17), (3, 8), (0, 5)])
    assert [(chunk.start, chunk.end, chunk.text) for chunk in chunks] == [
        (13, 17, "a b "),
        (3, 8, "lo wo"),
        (0, 5, "hello"),
    ]
    for chunk, (first, end) in zip(chunks, [(4, 6), (1, 3), (0, 2)], strict=True):
        first = 0 if first == 1 else first
        np.testing.assert_allclose(chunk.vector, unit(tokens.vectors[first:end].mean(axis=0)), atol=1e-6)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 5), (5, 5)], r"spans\[1\]"),
        ([(3, 2)], r"spans\[0\]"),
        ([(-1, 4)], r"spans\[0\]"),
        ([(0, 99)], "text's length"),
        ([(5, 6)], "no token"),
        ([7], "pair"),
        ([("a", "b")], "pair"),
        ([(1, 2, 3)], "pair"),
    ],
)
def test_spans_that_cannot_be_are_named(tiny: Embedder, spans: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny.encode_chunks(TEXT, spans=spans)


@pytest.mark.parametrize(
    "options",
    [{"chunk_tokens": 0}, {"overlap": -1}, {"chunk_tokens": 4, "overlap": 4}, {"chunk_tokens": 2.5}],
)
def test_sizes_that_cannot_be_are_named(tiny: Embedder, options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"chunk_tokens|overlap"):
        tiny.encode_chunks(TEXT, **options)


@pytest.mark.parametrize("text", ["", "  \n "])
def test_a_text_without_tokens_has_no_chunks(tiny: Embedder, text: str) -> None:
    assert tiny.encode_chunks(text) == []
    assert tiny.encode_chunks(text, spans=[]) == []


def test_parts_are_found_in_order_even_where_they_repeat() -> None:
    assert find_spans("ab ab ab", ["ab", "ab", "ab"]) == [(0, 2), (3, 5), (6, 8)]
    assert find_spans("one two three", ["one two", "two three"]) == [(0, 7), (4, 13)]  # they may overlap
    assert find_spans("a b a b c", ["a b", "b c"]) == [(0, 3), (6, 9)]
    assert find_spans("a", []) == []


def test_parts_may_start_or_end_together() -> None:
    assert find_spans("a b c. a b", ["a", "a b", "a b c."]) == [(0, 1), (0, 3), (0, 6)]
    assert find_spans("one two", ["one two", "two"]) == [(0, 7), (4, 7)]


def test_a_splitters_own_starts_are_believed_where_all_of_them_are_possible() -> None:
    assert find_spans("ab ab ab", ["ab", "ab"], [0, 6]) == [(0, 2), (6, 8)]
    assert find_spans("ab ab ab", ["ab", "ab", "ab"], [0, -1, None]) == [(0, 2), (3, 5), (6, 8)]
    assert find_spans("ab ab ab", ["ab", "ab"], [6, 0]) == [(0, 2), (3, 5)]
    assert find_spans("ab ab ab", ["ab", "ab"], [0, 0]) == [(0, 2), (3, 5)]
    assert find_spans("ab ab ab", ["ab", "ab"], [0]) == [(0, 2), (3, 5)]
    assert find_spans("ab abc d", ["ab", "abc", "c d"], [0, 5, 5]) == [(0, 2), (3, 6), (5, 8)]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["hello", ""], r"parts\[1\] is empty"),
        (["hello", "World"], r"parts\[1\] 'World' does not stand"),
        (["world", "hello"], r"parts\[1\] 'hello' does not stand"),
    ],
)
def test_parts_that_are_not_in_the_text_are_named(parts: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_spans("hello world", parts)


@given(
    st.text("ab ", min_size=150, max_size=150),
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), max_size=25),
)
def test_whatever_a_splitter_cut_in_order_is_found(text: str, cuts: list[tuple[int, int]]) -> None:
    spans, start, end = [], 0, 0
    for longer, later in cuts:
        end += longer
        start = min(start + later, end - 1)
        spans.append((start, end))
    parts = [text[start:end] for start, end in spans]
    assert find_spans(text, parts, [start for start, _ in spans]) == spans
    found = find_spans(text, parts)  # may be earlier where the text repeats itself
    assert [text[start:end] for start, end in found] == parts
    assert all(place <= own for place, own in zip(found, spans, strict=True))


@pytest.mark.parametrize(("before", "after"), [(1, 1), (0, 1), (2, 0)])
def test_windows_of_tokenizers_with_other_special_tokens(before: int, after: int) -> None:
    count, max_length = 100, 20
    inside = max_length - before - after
    found = windows(count, max_length, before, after)
    assert found[0][:2] == (before, 0)
    assert found[-1][0] + inside == count - after
    assert found[-1][2] == count
    assert all(own[1] == last[2] for last, own in itertools.pairwise(found))
    assert all(start - before <= first < end <= start + inside + after for start, first, end in found)


@given(st.integers(2, 3000), st.integers(3, 700))
def test_windows_cover_each_token_once_with_context_on_both_sides(count: int, max_length: int) -> None:
    found = windows(count, max_length)
    inside = max_length - 2
    assert found[0][1] == 0
    assert found[-1][2] == count
    for number, (start, first, end) in enumerate(found):
        assert first <= end
        if number:
            assert first == found[number - 1][2]  # goes on where the one before ended
        if count > max_length:
            assert start >= 1
            assert start + inside <= count - 1
            assert start - 1 <= first  # its own [CLS] stands just before its first token
            assert end <= start + inside + 1
            assert number == 0 or first >= start
            assert number == len(found) - 1 or end <= start + inside


def test_texts_over_the_maximum_go_through_windows(tiny: Embedder) -> None:
    text = "a b c d e f g h " * 20  # 160 tokens through windows of 32
    chunks = tiny.encode_chunks(text, chunk_tokens=16)
    assert len(chunks) == 10
    assert chunks[0].start == 0
    assert chunks[-1].end == len(text) - 1
    # By hand: each window by itself, its rows where the windows' edges say.
    words = text.split()
    rows = []
    for start, first, end in windows(162, 32):
        tokens = tiny.encode_tokens(" ".join(words[start - 1 : start - 1 + 30]))
        rows.append(tokens.vectors[first - start + 1 : end - start + 1])
    together = np.concatenate(rows)
    assert together.shape == (162, 16)
    edges = [0, *range(17, 160, 16), 162]
    for chunk, first, end in zip(chunks, edges[:-1], edges[1:], strict=True):
        np.testing.assert_allclose(chunk.vector, unit(together[first:end].mean(axis=0)), atol=1e-6)


def test_max_length_may_hold_the_text_in_one_pass(tiny: Embedder) -> None:
    text = "a b c d e f g h " * 20
    (chunk,) = tiny.encode_chunks(text, chunk_tokens=1000, max_length=1000)
    assert np.array_equal(chunk.vector, tiny.encode(text, max_length=1000))
