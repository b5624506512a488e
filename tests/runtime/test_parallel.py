"""Batch-parallel runs: every batch is run once, errors arrive, and vectors are bit-identical."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime.model
from runtime import Embedder, JinaBertError, OutputError
from runtime.batching import run_parallel
from tests.tiny import make_model


def test_every_call_is_made_once_and_several_threads_take_part() -> None:
    seen: list[int] = []
    names: set[str] = set()

    def work(number: int) -> None:
        time.sleep(0.002)
        seen.append(number)
        names.add(threading.current_thread().name)

    run_parallel(work, 40, threads=3)
    assert sorted(seen) == list(range(40))
    assert len(names) == 3


def test_the_first_failure_is_raised_and_nothing_starts_after_it() -> None:
    started: list[int] = []

    def work(number: int) -> None:
        started.append(number)
        time.sleep(0.01 if number == 1 else 0.002)
        if number in (1, 2):
            raise ValueError(f"number {number}")

    before = set(threading.enumerate())  # other tests in this process may have threads of their own
    with pytest.raises(ValueError, match="number 1"):
        run_parallel(work, 100, threads=2)
    assert len(started) < 10
    assert set(threading.enumerate()) <= before


def test_an_interrupt_is_passed_on() -> None:
    def work(number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_parallel(work, 1000, threads=2)


@pytest.fixture
def several(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Embedder:
    monkeypatch.setattr(runtime.model, "PARALLEL_TOKENS", 100)
    return Embedder(tiny_folder, threads=2)


TEXTS = [" ".join(["hello"] * (1 + number % 29)) for number in range(200)]  # some above max_dense_tokens


def test_vectors_are_bit_identical_to_a_text_alone(
    several: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = several.model.session.run
    alone: list[bool] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        alone.append(bool(options.get("batch_parallel")))
        return run(*arguments, **options)

    monkeypatch.setattr(several.model.session, "run", watched)
    together, stats = several.encode(TEXTS, batch_tokens=64, return_stats=True)
    assert sum(alone) > 4  # most batches did run in parallel
    assert stats.texts == len(TEXTS)
    assert np.array_equal(together, np.stack([several.encode(text) for text in TEXTS]))


def test_a_vector_that_is_not_finite_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.model, "PARALLEL_TOKENS", 100)
    texts = [*TEXTS, "z", *TEXTS]
    with Embedder(make_model(tmp_path / "poison", poison=True), threads=2) as embedder:
        with pytest.raises(OutputError, match=rf"texts\[{len(TEXTS)}\]"):
            embedder.encode(texts, batch_tokens=64)
        assert np.isfinite(embedder.encode(TEXTS, batch_tokens=64)).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork is missing here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_encodes_in_parallel_too(several: Embedder) -> None:
    expected = several.encode(TEXTS, batch_tokens=64)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if np.array_equal(several.encode(TEXTS, batch_tokens=64), expected) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_after_close_it_says_so(several: Embedder) -> None:
    several.encode(TEXTS, batch_tokens=64)
    several.close()
    with pytest.raises(JinaBertError, match="closed"):
        several.encode(TEXTS, batch_tokens=64)


def test_where_no_thread_can_start_the_calling_one_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[int] = []
    run_parallel(done.append, 10, 4)
    assert done == list(range(10))
