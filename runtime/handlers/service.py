"""The loaded model of a function, and one request in, one answer out. Knows nothing of any platform."""

from __future__ import annotations

import json
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.api import budget, requests
from runtime.api.context import Computation, Context, Limits, created
from runtime.api.errors import ServiceError, error_response
from runtime.api.inputs import MIN_TOKENS
from runtime.batching import BATCH_TOKENS
from runtime.bundled import bundled_model
from runtime.chunking import embed_joined
from runtime.errors import OutOfMemoryError
from runtime.manifest import load_manifest
from runtime.model import load_model
from runtime.resources import default_threads, rss_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.api.routes import Prepare

    from .settings import HandlerSettings


class Service:
    """A loaded model with its limits. One request at a time, so that the estimate of memory holds."""

    def __init__(self, settings: HandlerSettings) -> None:
        """Load the model.

        :param settings: of the environment.
        :raises JinaBertError: the model cannot be loaded, or no text at all fits into memory.
        """
        self.settings = settings
        self._lock = threading.Lock()
        self.model = load_model(settings.model, threads=_threads(settings), task=None)
        limits = Limits(
            self.model.dimension,
            len(self.model.tokenizer),
            settings.max_length or self.model.manifest.max_tokens,
            settings.max_texts,
            settings.max_request_tokens,
            settings.max_bytes,
            settings.max_response_bytes,
            settings.accept_token_ids,
            tuple(self.model.manifest.prompts),
            self.model.manifest.truncatable,
        )
        self.context = Context(
            self.model,
            limits,
            lambda request_bytes: self.longest(request_bytes),
            created(self.model.folder),
        )
        self._loaded = rss_bytes()
        if self.longest(0) < MIN_TOKENS:
            assert settings.memory is not None
            raise OutOfMemoryError(
                f"{settings.memory >> 20} MB are too little: the model alone takes {self._loaded >> 20} MB"
            )
        if settings.warmup:
            self.model.warmup(min(settings.warmup, self.longest(0)))

    def free(self, request_bytes: int) -> int | None:
        """Bytes to compute with, beyond the loaded model; None for no limit.

        :param request_bytes: what the request itself takes.
        """
        if self.settings.memory is None:
            return None
        return self.settings.memory - self._loaded - budget.SPARE_BYTES - request_bytes

    def longest(self, request_bytes: int) -> int:
        """Tokens of the longest text that is answered, by memory and by JINABERT_MAX_LENGTH.

        :param request_bytes: what the request itself takes.
        """
        free, most = self.free(request_bytes), self.context.limits.max_length
        if free is None:
            return most
        return budget.longest_text(free, most, self.model.manifest, self.model.session.threads)

    def answer(self, document: object) -> dict[str, Any]:
        """Answer a request that comes without HTTP.

        :param document: its JSON.
        :return: the answer's JSON; or {"error": ...}, with the status that HTTP would have.
        """
        try:
            found: dict[str, Any] = json.loads(self.respond(requests.message, document)[1])
        except ServiceError as error:
            status, body = error.openai()
            found = {"error": {**body["error"], "status": status}}
        return found

    def respond(self, prepare: Prepare, document: object) -> tuple[dict[str, str], bytes]:
        """Answer a request.

        :param prepare: of its route.
        :param document: its JSON.
        :return: headers and body.
        :raises ServiceError: it is not answered; what the model's failure was is on standard error.
        """
        try:
            with self._lock:
                content, headers = prepare(document, self.context)
                if isinstance(content, Computation):
                    content = content.respond(self._compute(content))
                return headers, content
        except ServiceError:
            raise
        except Exception as error:
            raise report(error) from None

    def _compute(self, asked: Computation) -> NDArray[np.float32]:
        model, free, batch_tokens = self.model, self.free(asked.request_bytes), BATCH_TOKENS
        if asked.late:
            window = self.longest(asked.request_bytes)
            return embed_joined(model, asked.texts, max_length=window, normalize=asked.normalize)
        if free is not None:
            fits = budget.batch_tokens(free, model.manifest, self.model.session.threads)
            batch_tokens = min(batch_tokens, fits)
        found = asked.results(model.dimension)

        def work(batch: list[int], shrink: bool, batch_parallel: bool) -> None:
            results = model.reduce_batch(
                [asked.texts[number] for number in batch],
                [asked.reduce] * len(batch),
                normalize=asked.normalize,
                skip=[asked.skip] * len(batch),
                numbers=batch,
                shrink=shrink,
                batch_parallel=batch_parallel,
            )
            for number, result in zip(batch, results, strict=True):
                found[number] = result

        model.for_each_batch(list(map(len, asked.texts)), work, batch_tokens=batch_tokens)
        return found


def _threads(settings: HandlerSettings) -> int | None:
    """As asked for, or as many as CPU cores and memory allow."""
    if settings.threads is not None or settings.memory is None:
        return settings.threads
    threads = default_threads()
    if threads == 1:
        return 1
    manifest = load_manifest(settings.model or bundled_model())
    return budget.threads_for(settings.memory, threads, settings.max_length or manifest.max_tokens, manifest)


def report(error: BaseException) -> ServiceError:
    """Say on standard error what failed inside, and turn it into an error that tells nothing of it."""
    found = error_response(error)
    if found.status == 500:
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
    return found
