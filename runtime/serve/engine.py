"""The loaded model behind the routes: limits, and two queues that compute.

A text that would fill a batch alone (SHORT_TOKENS) goes to the second queue, with a session and a thread of its own. A
long document so holds up neither a short text's computation nor its place in the queue; and while short texts come, the
second queue leaves them a CPU core (cores.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime import batching
from runtime.api import budget
from runtime.api.context import Context, Limits, created
from runtime.api.errors import ServiceError
from runtime.api.inputs import MIN_TOKENS
from runtime.chunking import embed_joined, joined_length
from runtime.errors import InputError, OutOfMemoryError
from runtime.model import Model, load_model
from runtime.resources import rss_bytes

from .cores import Cores
from .queue import Queue
from .tasks import IndivisibleTask, Task, TextsTask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from runtime.api.context import Computation

    from .metrics import Metrics
    from .settings import ServerSettings

SHORT_TOKENS = 512  # batching.cost of it is BATCH_TOKENS: longer texts never share a batch
QUEUE_TOKEN_BYTES = 64  # of a token that waits: its characters in the body, its id, its share of the vector


class Engine:
    """Model and queues."""

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        """Load the model and start the threads.

        :param settings: see there.
        :param metrics: told of batches and cut texts.
        :raises JinaBertError: the model cannot be loaded, or no text fits into memory.
        """
        model = load_model(settings.model, threads=settings.threads, verify=settings.verify, task=None)
        model.session.pack()
        self.settings = settings
        self.manifest = manifest = model.manifest
        self.tokenizer = model.tokenizer
        self.threads = model.session.threads
        self.max_length = settings.max_length or manifest.max_tokens
        if self.max_length < MIN_TOKENS:
            raise InputError(f"--max-length {self.max_length}: must be at least {MIN_TOKENS}")
        self.short_tokens = min(SHORT_TOKENS, manifest.max_dense_tokens or SHORT_TOKENS)
        self.batch_tokens = batching.PARALLEL_BATCH_TOKENS if self.threads > 1 else batching.BATCH_TOKENS
        self._metrics = metrics
        limits = Limits(
            model.dimension,
            len(model.tokenizer),
            self.max_length,
            settings.max_texts,
            settings.max_request_tokens,
            settings.max_body_bytes,
            accept_token_ids=settings.accept_token_ids,
            prompts=tuple(manifest.prompts),
            truncatable=manifest.truncatable,
            max_token_vectors=self._token_vectors(),
        )
        # What a request takes is reserved already, with the rest of what may wait: see _longest.
        self.context = Context(model, limits, lambda request_bytes: self.longest, created(model.folder))

        cores = Cores()

        def queue(name: str, open_model: Callable[[], Model], runners: int, **options: Any) -> Queue:
            return Queue(
                name,
                open_model,
                metrics,
                runners=runners,
                cores=cores,
                max_tokens=settings.max_queue_tokens,
                batch_tokens=self.batch_tokens,
                max_dense_tokens=manifest.max_dense_tokens,
                **options,
            )

        self.long = queue("long", model.with_own_session, 1, yields=True)
        self.short = queue("short", lambda: model, self.threads, others=lambda: self.long.busy)
        self.longest = self._longest()

    def _longest(self) -> int:
        """Tokens of the longest text that fits into memory beside a batch of short ones on each thread."""
        limit = self.settings.memory
        if limit is None:
            return self.max_length
        free = limit - rss_bytes() - budget.SPARE_BYTES - self.settings.max_queue_tokens * QUEUE_TOKEN_BYTES
        free -= self.threads * budget.run_bytes(self.short_tokens, self.manifest)
        longest = budget.longest_text(free, self.max_length, self.manifest)
        if longest < MIN_TOKENS:
            raise OutOfMemoryError(
                f"{limit >> 20} MB of memory are too little: lower --threads ({self.threads}) or "
                f"--max-queue-tokens ({self.settings.max_queue_tokens:,}), or give more"
            )
        return longest

    def _token_vectors(self) -> int | None:
        """Tokens whose vectors take no more memory than is kept for what waits."""
        if self.settings.memory is None:
            return None
        kept = self.settings.max_queue_tokens * QUEUE_TOKEN_BYTES
        fit = kept // (self.manifest.hidden_size * budget.VALUE_BYTES["base64"])
        return max(MIN_TOKENS, min(fit, self.max_length))

    @property
    def alive(self) -> bool:
        """Whether both queues take tasks."""
        return self.short.alive and self.long.alive

    def start(self, asked: Computation, on_done: Callable[[], None]) -> Task:
        """Put what a request asks for into the queues.

        :param asked: at least one text.
        :param on_done: called once, by a queue's thread, when all vectors are there, or an error.
        :return: the task.
        :raises ServiceError: 429.
        """
        if asked.truncated:
            self._metrics.truncated.inc(asked.truncated)
        task = (
            self._joined(asked)
            if asked.late
            else TextsTask(
                asked.texts,
                asked.results(self.manifest.dimension),
                asked.normalize,
                asked.skip,
                asked.reduce,
            )
        )
        task.on_done = on_done
        short = [number for number, length in enumerate(task.lengths) if length <= self.short_tokens]
        long = [number for number, length in enumerate(task.lengths) if length > self.short_tokens]
        self._add(task, short, long)
        return task

    def _joined(self, asked: Computation) -> Task:
        """Texts that are read as one."""

        def compute(model: Model) -> NDArray[np.float32]:
            window = min(self.max_length, self.longest)
            return embed_joined(model, asked.texts, max_length=window, normalize=asked.normalize)

        return IndivisibleTask(
            joined_length(self.tokenizer, asked.texts), len(asked.texts), self.manifest.dimension, compute
        )

    def _add(self, task: Task, short: Sequence[int], long: Sequence[int]) -> None:
        if long:
            self.long.add(task, list(long))
        try:
            if short:
                self.short.add(task, list(short))
        except ServiceError:
            self.cancel(task)
            raise

    def cancel(self, task: Task) -> None:
        """Forget what has not been started of a request."""
        task.cancel()
        self.short.drop(task)
        self.long.drop(task)

    def close(self, seconds: float = 5.0) -> None:
        """End the threads.

        :param seconds: to wait for what they compute.
        """
        self.short.close(seconds)
        self.long.close(seconds)
