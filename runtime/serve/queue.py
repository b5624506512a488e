"""A queue: tasks that wait, and threads that compute them in batches made of all requests that wait together.

Requests take turns batch by batch, so that a query waits for a batch of each request before it, not for all their
texts. A batch is what batching.plan makes of the texts in reach of that turn: vectors do not depend on it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from runtime import batching
from runtime.api.errors import ServiceError
from runtime.errors import OutOfMemoryError, OutputError
from runtime.model import SHRINK_BATCHES

from .cores import Cores
from .tasks import IndivisibleTask, Task, TextsTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.model import Model

    from .metrics import Metrics

LOOKAHEAD_REQUESTS = 64  # that one batch may be made of
LOOKAHEAD_TEXTS = (
    256  # of all of them: the more, the nearer in length; planning them takes a hundredth of the batch's time
)
FIRST_RATE = 4000.0  # tokens a second, until the first batch has been timed
RATE_MEMORY = 0.9  # of the moving mean
MOST_WAIT = 60  # seconds of Retry-After


class Waiting(NamedTuple):
    """A request's texts in this queue that no batch has taken yet."""

    task: Task
    numbers: list[int]  # of its parts, shortest first


class Batch(NamedTuple):
    """What one run computes: the longest text first."""

    parts: list[tuple[Task, int]]
    only: bool  # nothing else waits or runs: it may have all threads


class Queue:
    """Tasks that wait, bounded in tokens, and the threads that compute them."""

    def __init__(
        self,
        name: str,
        open_model: Callable[[], Model],
        metrics: Metrics,
        *,
        runners: int,
        max_tokens: int,
        batch_tokens: int,
        max_dense_tokens: int | None,
        cores: Cores | None = None,
        yields: bool = False,
        others: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start the threads.

        :param name: for metrics and threads.
        :param open_model: called once, by the first thread.
        :param metrics: where texts and batches are counted.
        :param runners: threads. Several compute a batch each, with one thread; a single one lets the session use its.
        :param max_tokens: that may wait or run.
        :param batch_tokens: budget of a batch, see batching.py.
        :param max_dense_tokens: texts with more tokens share no batch; None for no such limit.
        :param cores: that queues share; None for a queue by itself.
        :param yields: leave a core to the others as long as they have work.
        :param others: whether another queue computes now, so that all threads are not to be had.
        :raises JinaBertError: the model cannot be opened.
        """
        self.name = name
        self.tokens = 0
        self.max_tokens = max_tokens
        self._batch_tokens = batch_tokens
        self._max_dense_tokens = max_dense_tokens
        self._cores = cores or Cores()
        self._yields = yields
        self._others = others
        self._metrics = metrics
        self._ready = threading.Condition()
        self._waiting: deque[Waiting] = deque()
        self._busy = 0
        self._since_shrink = 0
        self._closing = False
        self._rate = FIRST_RATE
        self._several = runners > 1
        self._opened: Model | BaseException | None = None
        metrics.watch(self)
        self._threads = [self._start(number, open_model) for number in range(runners)]

    def _start(self, number: int, open_model: Callable[[], Model]) -> threading.Thread:
        opened = threading.Event()

        def body() -> None:
            if number == 0:
                try:
                    with self._cores.opening() if self._yields else contextlib.nullcontext():
                        self._opened = model = open_model()
                    if self._several:
                        model.session.open_single_thread_session()
                except BaseException as error:
                    self._opened = error
                finally:
                    opened.set()
            if not isinstance(self._opened, BaseException):
                self._loop()

        thread = threading.Thread(target=body, name=f"jinabert-{self.name}-{number}", daemon=True)
        thread.start()
        if number == 0:
            opened.wait()
            if isinstance(self._opened, BaseException):
                raise self._opened
        return thread

    @property
    def alive(self) -> bool:
        """Whether its threads run and take tasks."""
        return not self._closing and all(thread.is_alive() for thread in self._threads)

    @property
    def busy(self) -> bool:
        """Whether it computes now."""
        return self._busy > 0

    def check_room(self, tokens: int) -> None:
        """Refuse what the queue has no room for.

        :param tokens: to be added.
        :raises ServiceError: 429.
        """
        with self._ready:
            if self.tokens + tokens <= self.max_tokens:
                return
            over = self.tokens + tokens - self.max_tokens
            wait = min(MOST_WAIT, max(1, round(over / self._rate + 0.5)))
        raise ServiceError(429, "overloaded", f"the queue is full: try again in {wait} s", retry_after=wait)

    def add(self, task: Task, numbers: list[int]) -> None:
        """Have parts of a request computed.

        :param task: whose.
        :param numbers: of its parts.
        :raises ServiceError: 429, they do not fit now.
        """
        tokens = sum(task.lengths[number] for number in numbers)
        if not self._yields:
            self._cores.leave_one()
        with self._ready:
            self.check_room(tokens)
            self.tokens += tokens
            self._waiting.append(Waiting(task, sorted(numbers, key=task.lengths.__getitem__)))
            self._ready.notify(min(len(self._threads), len(numbers)))

    def drop(self, task: Task) -> None:
        """Forget the parts of a request that wait; those being computed are finished for nobody."""
        with self._ready:
            for waiting in [waiting for waiting in self._waiting if waiting.task is task]:
                self._waiting.remove(waiting)
                self.tokens -= sum(task.lengths[number] for number in waiting.numbers)

    def close(self, seconds: float) -> None:
        """End the threads after the batches they compute.

        :param seconds: to wait for that.
        """
        with self._ready:
            self._closing = True
            self._ready.notify_all()
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _loop(self) -> None:
        while True:
            with self._ready:
                while not self._waiting and not self._closing:
                    if not self._ready.wait(None if self._yields else self._cores.remaining()):
                        self._cores.take_all()
                if self._closing:
                    return
                batch = self._take()
                self._busy += 1
            tokens = sum(task.lengths[number] for task, number in batch.parts)
            wanted = [task.lengths[number] for task, number in batch.parts if not task.done]
            start = time.perf_counter()
            try:
                self._run(batch)
            except BaseException as error:
                for task, _ in batch.parts:
                    task.fail(error)
            seconds = time.perf_counter() - start
            if wanted:
                self._metrics.batch.labels(self.name).observe(len(wanted))
                self._metrics.texts.labels(self.name).inc(len(wanted))
                self._metrics.tokens.labels(self.name).inc(sum(wanted))
            with self._ready:
                self._busy -= 1
                self.tokens -= tokens
                rate = tokens * len(self._threads) / max(seconds, 1e-6)
                self._rate = RATE_MEMORY * self._rate + (1 - RATE_MEMORY) * rate

    def _take(self) -> Batch:
        """The batch of the request whose turn it is, filled up with what others wait for."""
        # The pool is what this batch may be made of: the longest texts of the request whose turn it is, then those of
        # the requests behind it, until it holds LOOKAHEAD_TEXTS. A request's numbers are sorted by length, so the
        # longest stand at the end of its list.
        first = self._waiting[0]
        if isinstance(first.task, IndivisibleTask):
            taken = [(first, first.numbers[0])]
        else:
            longest_first = first.numbers[: -LOOKAHEAD_TEXTS - 1 : -1]
            pool = [(first, number) for number in longest_first]
            for position in range(1, min(len(self._waiting), LOOKAHEAD_REQUESTS)):
                other = self._waiting[position]
                if isinstance(other.task, TextsTask) and len(pool) < LOOKAHEAD_TEXTS:
                    pool += [(other, number) for number in other.numbers[len(pool) - LOOKAHEAD_TEXTS :]]
            # The plan puts texts of about the same length together. Of its batches, that with the longest text of the
            # request whose turn it is (the pool's first) is taken: each turn so ends with something of that request
            # done, and no request waits for ever behind others whose texts fit together better.
            seed = 0
            lengths = [waiting.task.lengths[number] for waiting, number in pool]
            plan = batching.plan(
                lengths, batch_tokens=self._batch_tokens, max_dense_tokens=self._max_dense_tokens
            )
            taken = [pool[index] for index in next(batch for batch in plan if seed in batch)]
        self._waiting.popleft()
        for waiting in {id(waiting): waiting for waiting, _ in taken}.values():
            gone = {number for other, number in taken if other is waiting}
            waiting.numbers[:] = [number for number in waiting.numbers if number not in gone]
            if waiting is not first and not waiting.numbers:
                self._waiting.remove(waiting)
        if first.numbers:
            self._waiting.append(first)
        return Batch(
            [(waiting.task, number) for waiting, number in taken],
            only=not self._waiting and not self._busy and not self._others(),
        )

    def _run(self, batch: Batch) -> None:
        assert not isinstance(self._opened, BaseException)
        model = self._opened
        assert model is not None
        wanted = [(task, number) for task, number in batch.parts if not task.done]
        for task, _ in wanted:
            if isinstance(task, IndivisibleTask):  # is alone in its batch
                task.set_result(task.compute(model))
        parts = [(task, number) for task, number in wanted if isinstance(task, TextsTask)]
        if not parts:
            return
        try:
            vectors = model.reduce_batch(
                [task.texts[number] for task, number in parts],
                [task.reduce for task, _ in parts],
                normalize=[task.normalize for task, _ in parts],
                skip=[task.skip for task, _ in parts],
                numbers=[number for _, number in parts],
                shrink=self._shrinks(),
                batch_parallel=self._several and not batch.only,
            )
        except (OutOfMemoryError, OutputError) as error:
            if len(parts) == 1:
                parts[0][0].fail(error)
            else:
                for part in parts:  # what fails alone fails its request, not its neighbours
                    self._run(Batch([part], only=False))
            return
        for (task, number), vector in zip(parts, vectors, strict=True):
            task.set_result(number, vector)

    def _shrinks(self) -> bool:
        """Whether to give memory back after this run: it is the last one of many for now."""
        with self._ready:
            self._since_shrink += 1
            if self._since_shrink < SHRINK_BATCHES or self._waiting or self._busy > 1:
                return False
            self._since_shrink = 0
            return True
