"""Counts for Prometheus. None of them has anything of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from .queue import Queue

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128)
TEXT_FORMAT = CONTENT_TYPE_LATEST


class Metrics:
    """A registry of its own, so that a process may hold several services."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "jinabert_requests", "Requests answered", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "jinabert_request_seconds",
            "From a request's head to the end of its answer",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.active = Gauge("jinabert_active_requests", "Requests being answered", registry=registry)
        self.cancelled = Counter(
            "jinabert_cancelled_requests", "Requests whose client left before the answer", registry=registry
        )
        self.refused = Counter("jinabert_refused_requests", "Requests answered with 429", registry=registry)
        self.truncated = Counter("jinabert_truncated_texts", "Texts that were cut", registry=registry)
        self.texts = Counter("jinabert_texts", "Texts computed", ["queue"], registry=registry)
        self.tokens = Counter(
            "jinabert_tokens", "Tokens computed, without padding", ["queue"], registry=registry
        )
        self.batch = Histogram(
            "jinabert_batch_texts", "Texts of a batch", ["queue"], buckets=TEXTS, registry=registry
        )
        self.queue = Gauge(
            "jinabert_queue_tokens", "Tokens that wait or are being computed", ["queue"], registry=registry
        )
        ProcessCollector(registry=registry)

    def watch(self, queue: Queue) -> None:
        """Show a queue as it is when asked for."""
        self.queue.labels(queue.name).set_function(lambda: queue.tokens)

    def page(self) -> bytes:
        """Write what a scrape is answered with."""
        written: bytes = generate_latest(self._registry)
        return written
