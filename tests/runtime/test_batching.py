"""The plan of batches: complete, within the budget, with little padding."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.batching import WASTE_TOKENS, cost, pad, plan

LENGTHS = st.lists(st.integers(2, 3000), max_size=300)


@given(LENGTHS, st.integers(1, 20_000), st.none() | st.integers(1, 9), st.none() | st.integers(2, 2000))
def test_each_text_is_in_one_batch_and_no_limit_is_passed(
    lengths: list[int], batch_tokens: int, batch_size: int | None, max_dense_tokens: int | None
) -> None:
    batches = plan(
        lengths, batch_tokens=batch_tokens, batch_size=batch_size, max_dense_tokens=max_dense_tokens
    )
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = lengths[batch[0]]
        assert longest == max(lengths[index] for index in batch)
        if len(batch) > 1:
            assert len(batch) * cost(longest) <= batch_tokens
            assert batch_size is None or len(batch) <= batch_size
            assert max_dense_tokens is None or longest <= max_dense_tokens
        waste = sum(cost(longest) - cost(lengths[index]) for index in batch)
        assert waste <= WASTE_TOKENS + 1e-6


def test_one_long_text_among_short_ones_costs_at_most_a_tenth_more_than_apart() -> None:
    lengths = [12] * 128 + [1000] + [9] * 127

    def padded(numbers: list[int]) -> float:
        lengths_of = [lengths[number] for number in numbers]
        return sum(len(batch) * cost(max(lengths_of[index] for index in batch)) for batch in plan(lengths_of))

    together = padded(list(range(256)))
    apart = padded([number for number in range(256) if number != 128]) + padded([128])
    assert together <= 1.1 * apart


def test_the_budget_counts_attention() -> None:
    # 4,096 tokens either way, but the long texts' attention would take much more memory and time.
    assert len(plan([16] * 256, batch_tokens=4096)) == 2
    assert len(plan([1024] * 4, batch_tokens=4096)) == 4


def test_texts_of_one_length_share_batches_and_the_first_runs_longest() -> None:
    batches = plan([5, 9, 5, 9, 700], batch_tokens=4096)
    assert batches == [[4], [1, 3, 0, 2]]


def test_padding_stands_at_the_end_under_a_zero_mask() -> None:
    ids, mask = pad([np.array([4, 5, 6, 7], np.int32), [1, 2, 3]], pad_id=9)
    assert ids.tolist() == [[4, 5, 6, 7], [1, 2, 3, 9]]
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert ids.dtype == mask.dtype == np.int64


def test_the_longest_text_need_not_be_the_first() -> None:
    ids, mask = pad([[4, 5], [1, 2, 3]], pad_id=0)
    assert ids.tolist() == [[4, 5, 0], [1, 2, 3]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]
