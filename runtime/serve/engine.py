"""The loaded model behind the routes: texts to token ids, limits, and two lanes that compute.

A text that would fill a batch alone (SHORT_TOKENS) goes to the second lane, with a session, a thread and a queue of its
own. A long document so holds up neither a short text's computation nor its place in the queue; and since the second
lane's threads have a lower priority, it gets the processors that short texts leave, which is all of them when there
are none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from runtime import batching
from runtime.api import budget
from runtime.api.errors import ServiceError
from runtime.chunking import embed_joined, joined_length
from runtime.embedder import MIN_MAX_LENGTH
from runtime.errors import InputError, OutOfMemoryError
from runtime.model import Model, load_model
from runtime.resources import rss_bytes

from .queue import Lane
from .requests import Texts, Whole, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from .metrics import Metrics
    from .schemas import Inputs
    from .settings import Settings

SHORT_TOKENS = 512  # batching.cost of it is BATCH_TOKENS: longer texts never share a batch
LONG_NICE = 10  # by how much the second lane yields
QUEUE_TOKEN_BYTES = 64  # of a token that waits: its characters in the body, its id, its share of the vector


class Prepared(NamedTuple):
    """Texts as they will be run."""

    texts: list[NDArray[np.int32]]  # ids of each, [CLS] and [SEP] included
    truncated: int  # how many were cut


class Engine:
    """Model, tokenizer and lanes."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Load the model and start the threads.

        :param settings: see there.
        :param metrics: told of batches and cut texts.
        :raises JinaBertError: the model cannot be loaded, or no text fits into budget.
        """
        model = load_model(settings.model, threads=settings.threads, verify=settings.verify)
        self.settings = settings
        self.manifest = manifest = model.manifest
        self.tokenizer = model.tokenizer
        self.dimension = model.dimension
        self.threads = model.session.threads
        self.max_length = settings.max_length or manifest.max_tokens
        if self.max_length < MIN_MAX_LENGTH:
            raise InputError(f"--max-length {self.max_length}: at least {MIN_MAX_LENGTH} wanted")
        self.short_tokens = min(SHORT_TOKENS, manifest.max_dense_tokens or SHORT_TOKENS)
        self.batch_tokens = batching.PARALLEL_BATCH_TOKENS if self.threads > 1 else batching.BATCH_TOKENS
        self._metrics = metrics

        def lane(name: str, open_model: Callable[[], Model], runners: int, nice: int) -> Lane:
            return Lane(
                name,
                open_model,
                metrics,
                runners=runners,
                max_tokens=settings.max_queue_tokens,
                batch_tokens=self.batch_tokens,
                max_dense_tokens=manifest.max_dense_tokens,
                nice=nice,
            )

        self.short = lane("short", lambda: model, self.threads, 0)
        self.long = lane("long", model.with_own_session, 1, LONG_NICE)
        self.longest = self._longest()

    def _longest(self) -> int:
        """Tokens of the longest text that fits into memory beside a batch of short ones on each thread."""
        limit = self.settings.memory
        if limit is None:
            return self.max_length
        free = limit - rss_bytes() - budget.SPARE_BYTES - self.settings.max_queue_tokens * QUEUE_TOKEN_BYTES
        free -= self.threads * budget.run_bytes(self.short_tokens, self.manifest)
        longest = budget.longest_text(free, self.max_length, self.manifest)
        if longest < MIN_MAX_LENGTH:
            raise OutOfMemoryError(
                f"{limit >> 20} MB of memory are too little: lower --threads ({self.threads}) or "
                f"--max-queue-tokens ({self.settings.max_queue_tokens:,}), or give more"
            )
        return longest

    @property
    def alive(self) -> bool:
        """Whether both lanes take work."""
        return self.short.alive and self.long.alive

    def prepare(
        self, inputs: Inputs, name: str, *, truncate: bool = False, left: bool = False, parts: bool = False
    ) -> Prepared:
        """Token ids of a request's texts.

        :param inputs: each a str, or ids of this model's vocabulary; [CLS] and [SEP] are added where they lack.
        :param name: of the field, for messages.
        :param truncate: cut texts of more than max_length tokens instead of refusing them.
        :param left: cut their beginning, not their end.
        :param parts: they are read as one, in windows, so that none is too long.
        :raises ServiceError: 413 for too many tokens, 422 for an id that is none.
        """
        texts, truncated, total = [], 0, 0
        for number, given in enumerate(inputs):
            ids = (
                self.tokenizer.encode(given)
                if isinstance(given, str)
                else self._complete(given, name, number)
            )
            if len(ids) > self.max_length and not parts:
                if not truncate:
                    raise ServiceError(
                        413,
                        "text_too_long",
                        f"{name}[{number}] has {len(ids):,} tokens, more than {self.max_length:,}: shorten it, or pass "
                        "truncate true to have it cut",
                        param=name,
                    )
                truncated += 1
                ids = self.tokenizer.truncate(ids, self.max_length, left=left)
            if len(ids) > self.longest and not parts:
                raise ServiceError(
                    413,
                    "out_of_memory",
                    f"{name}[{number}] has {len(ids):,} tokens; the service has memory for {self.longest:,}: "
                    "shorten it",
                    param=name,
                )
            total += len(ids)
            self.check_total(total, name)
            texts.append(np.array(ids, np.int32))
        if truncated:
            self._metrics.truncated.inc(truncated)
        return Prepared(texts, truncated)

    def check_total(self, total: int, name: str) -> None:
        """:raises ServiceError: 413, a request of so many tokens is too large."""
        if total > self.settings.max_request_tokens:
            raise ServiceError(
                413,
                "too_many_tokens",
                f"the texts have more than {self.settings.max_request_tokens:,} tokens together: split the request",
                param=name,
            )

    def start(self, prepared: Prepared, normalize: bool, done: Callable[[], None]) -> Work:
        """Put texts into the lanes.

        :param prepared: at least one text.
        :param normalize: give vectors of length 1.
        :param done: called once, by a lane's thread, when the work has all its vectors or an error.
        :return: the work.
        :raises ServiceError: 429.
        """
        work = Texts(prepared.texts, self.dimension, normalize)
        work.done = done
        short = [number for number, length in enumerate(work.lengths) if length <= self.short_tokens]
        long = [number for number, length in enumerate(work.lengths) if length > self.short_tokens]
        self._add(work, short, long)
        return work

    def start_chunks(self, prepared: Prepared, normalize: bool, done: Callable[[], None]) -> Work:
        """As start, for texts that are read as one."""
        window = min(self.max_length, self.longest)
        tokens = joined_length(self.tokenizer, prepared.texts)

        def compute(model: Model) -> NDArray[np.float32]:
            return embed_joined(model, prepared.texts, max_length=window, normalize=normalize)

        work = Whole(tokens, len(prepared.texts), self.dimension, compute)
        work.done = done
        short = tokens <= self.short_tokens
        self._add(work, [0] if short else [], [] if short else [0])
        return work

    def _add(self, work: Work, short: Sequence[int], long: Sequence[int]) -> None:
        if long:
            self.long.add(work, list(long))
        try:
            if short:
                self.short.add(work, list(short))
        except ServiceError:
            self.cancel(work)
            raise

    def cancel(self, work: Work) -> None:
        """Forget what has not been started of a request."""
        work.cancel()
        self.short.drop(work)
        self.long.drop(work)

    def close(self, seconds: float = 5.0) -> None:
        """End the threads.

        :param seconds: to wait for what they compute.
        """
        self.short.close(seconds)
        self.long.close(seconds)

    def _complete(self, given: Sequence[float], name: str, number: int) -> list[int]:
        """Token ids with [CLS] and [SEP], which what /tokenize gives has or lacks."""
        count = len(self.tokenizer)
        ids = [int(token) for token in given]
        for token, whole in zip(given, ids, strict=True):
            if token != whole or not 0 <= whole < count:
                raise ServiceError(
                    422,
                    "invalid_token",
                    f"{name}[{number}] has the token {token}: ids of this model's vocabulary wanted (0 to "
                    f"{count - 1:,}), as /tokenize gives them; or send the text",
                    param=name,
                )
        prefix, suffix = list(self.tokenizer.prefix), list(self.tokenizer.suffix)
        start = [] if ids[: len(prefix)] == prefix else prefix
        end = [] if suffix and ids[-len(suffix) :] == suffix else suffix
        return [*start, *ids, *end]
