"""Who is computed when: batches across requests, turns, what is dropped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("prometheus_client")

from runtime.api.errors import ServiceError
from runtime.errors import OutputError
from runtime.model import Model
from runtime.serve.metrics import Metrics
from runtime.serve.queue import Queue
from runtime.serve.tasks import IndivisibleTask, TextsTask

DIMENSION = 4
POISON = 666  # token whose text has no finite vector
MANIFEST, TOKENIZER = (
    SimpleNamespace(dimension=DIMENSION, pooling=("mean",)),
    SimpleNamespace(pad_id=0, prefix=(1,), suffix=(2,)),
)


class Recorder:
    """Stands for a Session: keeps what it ran, and runs only when it may."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.batches: list[list[int]] = []  # first own token of each text

    def open_single_thread_session(self) -> None:
        pass

    def run(self, ids: Any, mask: Any, **_: Any) -> Any:
        self.gate.wait(60)
        self.batches.append(ids[:, 1].tolist())
        hidden = np.ones((*ids.shape, DIMENSION), np.float32) * ids[:, 1, None, None]
        hidden[ids[:, 1] == POISON] = np.nan
        return hidden


class Bench:
    """A queue of one thread with a recorder."""

    def __init__(self, max_tokens: int = 100_000) -> None:
        self.session = Recorder()
        self.queue = Queue(
            "test",
            lambda: Model("", MANIFEST, TOKENIZER, self.session),  # type: ignore[arg-type]
            Metrics(),
            runners=1,
            max_tokens=max_tokens,
            batch_tokens=512,
            max_dense_tokens=None,
        )

    def add(self, name: int, count: int, length: int = 10) -> tuple[TextsTask, threading.Event]:
        """A request of texts whose tokens are its name."""
        task, done = (
            TextsTask(
                [[1, *[name] * (length - 2), 2]] * count,
                np.empty((count, DIMENSION), np.float32),
                normalize=False,
            ),
            threading.Event(),
        )
        task.on_done = done.set
        self.queue.add(task, list(range(count)))
        return task, done


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield make
    for one in made:
        one.session.gate.set()
        one.queue.close(60)


def started(queue: Queue) -> None:
    """Wait until its thread has taken a batch."""
    while queue._busy == 0:
        threading.Event().wait(0.001)


def test_requests_that_wait_together_share_a_batch(bench: Callable[..., Bench]) -> None:
    made = bench()
    made.add(100, 1)
    started(made.queue)
    tasks = [made.add(name, 2) for name in (101, 102, 103)]
    made.session.gate.set()
    for task, done in tasks:
        assert done.wait(60)
        assert task.error is None
    assert [sorted(batch) for batch in made.session.batches] == [[100], [101, 101, 102, 102, 103, 103]]
    for name, (task, _) in zip((101, 102, 103), tasks, strict=True):
        assert task.vectors.shape == (2, DIMENSION)
        assert (task.vectors[0] > 0.7 * name).all()
    assert made.queue.tokens == 0


def test_a_query_waits_for_a_batch_of_a_large_request_not_for_all_of_it(bench: Callable[..., Bench]) -> None:
    made = bench()
    _, large_done = made.add(100, 1000)
    started(made.queue)
    query, query_done = made.add(101, 1, length=40)
    made.session.gate.set()
    assert query_done.wait(60)
    assert large_done.wait(60)
    assert any(101 in batch for batch in made.session.batches[:3])
    assert len(made.session.batches) > 10
    assert query.error is None


def test_large_requests_take_turns(bench: Callable[..., Bench]) -> None:
    made = bench()
    made.add(100, 1)
    started(made.queue)
    dones = [made.add(name, 60, length=length)[1] for name, length in ((101, 400), (102, 440), (103, 480))]
    made.session.gate.set()
    assert all(done.wait(60) for done in dones)
    assert [batch[0] for batch in made.session.batches[1:7]] == [101, 102, 103, 101, 102, 103]


def test_the_queue_is_bounded_and_says_when_to_come_again(bench: Callable[..., Bench]) -> None:
    made = bench(max_tokens=1000)
    made.add(100, 100)
    with pytest.raises(ServiceError, match="queue is full") as caught:
        made.add(101, 1)
    assert caught.value.status == 429
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= 1
    assert made.queue.tokens == 1000


def test_what_is_dropped_is_not_computed(bench: Callable[..., Bench]) -> None:
    made = bench()
    made.add(100, 1)
    started(made.queue)
    task, done = made.add(101, 5)
    _, other = made.add(102, 5)
    task.cancel()
    made.queue.drop(task)
    made.session.gate.set()
    assert other.wait(60)
    assert not done.is_set()
    assert not any(101 in batch for batch in made.session.batches)


def test_a_task_in_one_piece_shares_nothing(bench: Callable[..., Bench]) -> None:
    made = bench()
    made.add(100, 1)
    started(made.queue)
    made.add(101, 3)
    whole = IndivisibleTask(10, 2, DIMENSION, lambda model: np.full((2, DIMENSION), 7, np.float32))
    done = threading.Event()
    whole.on_done = done.set
    made.queue.add(whole, [0])
    made.session.gate.set()
    assert done.wait(60)
    assert (whole.vectors == 7).all()
    assert made.queue.alive


def test_a_vector_that_is_not_finite_fails_its_request_alone(bench: Callable[..., Bench]) -> None:
    made = bench()
    made.add(100, 1)
    started(made.queue)
    tasks = [made.add(name, 2) for name in (101, POISON, 103)]
    made.session.gate.set()
    assert all(done.wait(60) for _, done in tasks)
    assert [type(task.error) for task, _ in tasks] == [type(None), OutputError, type(None)]
    assert "texts[" in str(tasks[1][0].error)
    assert made.queue.tokens == 0


def test_a_session_that_cannot_be_opened_is_an_error() -> None:
    def fail() -> Any:
        raise OSError("no such graph")

    with pytest.raises(OSError, match="no such graph"):
        Queue("test", fail, Metrics(), runners=2, max_tokens=1, batch_tokens=1, max_dense_tokens=None)
