"""One request in, one answer out: checks, limits, vectors, the JSON of the answer. Knows nothing of any platform."""

from __future__ import annotations

import json
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from runtime.api import budget
from runtime.api.encoding import encoded
from runtime.batching import BATCH_TOKENS
from runtime.bundled import bundled_model
from runtime.embedder import MIN_MAX_LENGTH, Embedder
from runtime.errors import InputError, OutOfMemoryError, TextTooLongError
from runtime.manifest import check_dimensions, load_manifest
from runtime.resources import default_threads, rss_bytes

if TYPE_CHECKING:
    from .settings import Settings

IGNORED = ("model", "user")  # of OpenAI's requests; there is one model here
FIELDS = (
    *("input", "texts", "max_length", "overflow", "truncate", "normalized", "encoding_format", "dimensions"),
    *IGNORED,
)
ENCODINGS = ("float", "base64")
FLOAT_CHARACTERS = 16  # of a value in JSON: nine digits, sign, point, exponent, comma
ITEM_CHARACTERS = 64  # of what stands around one vector


class RequestError(Exception):
    """A request that cannot be answered: whose message, code and HTTP status the answer has."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def document(self) -> dict[str, Any]:
        """The answer's JSON, as OpenAI's errors."""
        return {
            "error": {
                "message": str(self),
                "type": "invalid_request_error" if self.status < 500 else "server_error",
                "code": self.code,
                "status": self.status,
            }
        }


class Request(NamedTuple):
    """A checked request."""

    texts: list[str]
    max_length: int
    overflow: str
    normalize: bool
    encoding: str
    dimensions: int


def item_characters(encoding: str, dimensions: int) -> int:
    """
    :param encoding: of ENCODINGS.
    :param dimensions: numbers of a vector.
    :return: characters of one vector in an answer, at most.
    """
    return ITEM_CHARACTERS + (
        dimensions * FLOAT_CHARACTERS if encoding == "float" else (dimensions * 4 + 2) // 3 * 4
    )


class Service:
    """A loaded model with its limits. One request at a time, so that the estimate of memory holds."""

    def __init__(self, settings: Settings) -> None:
        """Load the model.

        :param settings: of the environment.
        :raises JinaBertError: the model cannot be loaded, or no text at all fits into budget.
        """
        self.settings = settings
        self._lock = threading.Lock()
        self.embedder = Embedder(settings.model, threads=_threads(settings))
        self.max_length = settings.max_length or self.embedder.max_tokens
        self._loaded = rss_bytes()
        if self.longest(0) < MIN_MAX_LENGTH:
            assert settings.memory is not None
            raise OutOfMemoryError(
                f"{settings.memory >> 20} MB are too little: the model alone takes {self._loaded >> 20} MB"
            )
        if settings.warmup:
            self.embedder.warmup(min(settings.warmup, self.longest(0)))

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
        free = self.free(request_bytes)
        if free is None:
            return self.max_length
        return budget.longest_text(free, self.max_length, self.embedder.manifest, self.embedder.threads)

    def answer_json(self, body: str | bytes) -> tuple[int, dict[str, Any]]:
        """As answer(), from the request's JSON.

        :param body: JSON text; bytes are UTF-8.
        """
        try:
            return self.answer(self.parse(body))
        except RequestError as error:
            return error.status, error.document()

    def parse(self, body: str | bytes) -> Any:
        """:raises RequestError: too large, or no JSON."""
        self.check_size(len(body))
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RequestError(400, "invalid_json", f"the body is not JSON: {reason}") from None

    def check_size(self, size: int) -> None:
        """:raises RequestError: the body has more than JINABERT_MAX_BYTES."""
        if size > self.settings.max_bytes:
            raise RequestError(
                413,
                "request_too_large",
                f"the body has {size:,} bytes, more than {self.settings.max_bytes:,}: send fewer texts in one request",
            )

    def answer(self, document: object) -> tuple[int, dict[str, Any]]:
        """Answer one request.

        :param document: its JSON.
        :return: HTTP status, and the answer's JSON.
        :raises JinaBertError: the model failed, whatever the request.
        """
        try:
            with self._lock:
                return 200, self._embed(self._check(document))
        except RequestError as error:
            return error.status, error.document()

    def _check(self, document: object) -> Request:
        if not isinstance(document, dict):
            raise _bad("invalid_request", f"the request is {_kind(document)}, not an object with input")
        for name in document:
            if name not in FIELDS:
                raise _bad(
                    "unknown_field", f"field {_shown(name)} is not known; known are {', '.join(FIELDS)}"
                )
        given = {name: value for name, value in document.items() if value is not None}
        if ("input" in given) == ("texts" in given):
            both = (
                "both given: leave one out"
                if "input" in given
                else "missing: a text or a list of texts wanted"
            )
            raise _bad("invalid_input", f"input (or texts) {both}")
        texts = given.get("input", given.get("texts"))
        if isinstance(texts, str):
            texts = [texts]
        if not isinstance(texts, list):
            raise _bad("invalid_input", f"input is {_kind(texts)}, not a text or a list of texts")
        if not texts:
            raise _bad("invalid_input", "input is an empty list: at least one text wanted")
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise _bad("invalid_input", f"input[{number}] is {_kind(text)}, not a text")
        if len(texts) > self.settings.max_texts:
            raise RequestError(
                413,
                "too_many_texts",
                f"{len(texts):,} texts, more than {self.settings.max_texts:,}: split the request",
            )
        encoding = given.get("encoding_format", "float")
        if encoding not in ENCODINGS:
            raise _bad(
                "invalid_encoding_format", f"encoding_format is {_shown(encoding)}, not float or base64"
            )
        try:
            dimensions = check_dimensions(self.embedder.manifest, given.get("dimensions"))
        except InputError as error:
            raise _bad("invalid_dimensions", str(error)) from None
        normalize = given.get("normalized", True)
        if not isinstance(normalize, bool):
            raise _bad("invalid_normalized", f"normalized is {_shown(normalize)}, not true or false")
        size = len(texts) * item_characters(encoding, dimensions)
        if size > self.settings.max_response_bytes:
            fit = self.settings.max_response_bytes // item_characters(encoding, dimensions)
            remedy = f"at most {fit:,} texts"
            if encoding == "float":
                compact = self.settings.max_response_bytes // item_characters("base64", dimensions)
                remedy += f", or {compact:,} with encoding_format base64"
            raise RequestError(
                413,
                "response_too_large",
                f"the vectors of {len(texts):,} texts may pass {self.settings.max_response_bytes:,} bytes: {remedy}",
            )
        return Request(texts, self._max_length(given), _overflow(given), normalize, encoding, dimensions)

    def _max_length(self, given: dict[str, Any]) -> int:
        value = given.get("max_length", self.max_length)
        if type(value) is not int or not MIN_MAX_LENGTH <= value <= self.max_length:
            raise _bad(
                "invalid_max_length",
                f"max_length is {_shown(value)}, not a whole number from {MIN_MAX_LENGTH} to {self.max_length:,}",
            )
        return value

    def _embed(self, request: Request) -> dict[str, Any]:
        held = sum(map(len, request.texts)) * budget.CHARACTER_BYTES
        held += len(request.texts) * self.embedder.dimension * budget.VALUE_BYTES[request.encoding]
        longest, free = self.longest(held), self.free(held)
        batch_tokens = BATCH_TOKENS
        if free is not None:
            batch_tokens = min(
                batch_tokens, budget.batch_tokens(free, self.embedder.manifest, self.embedder.threads)
            )
        tight = longest < request.max_length
        if longest < MIN_MAX_LENGTH:
            raise RequestError(
                413, "out_of_memory", f"{self._memory()} for this request: send fewer texts at once"
            )
        try:
            vectors, stats = self.embedder.encode(
                request.texts,
                # What would not fit is refused, not cut: nobody asked for that.
                max_length=longest if tight else request.max_length,
                overflow="error" if tight else request.overflow,
                normalize=request.normalize,
                dimensions=request.dimensions,
                batch_tokens=batch_tokens,
                return_stats=True,
            )
        except TextTooLongError as error:
            if tight:
                return self._embed_cut(request, longest, error)
            raise RequestError(400, "text_too_long", str(error)) from None
        except InputError as error:
            raise RequestError(400, "invalid_input", str(error)) from None
        except MemoryError:
            raise RequestError(
                413, "out_of_memory", f"{self._memory()}: send shorter or fewer texts"
            ) from None
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": number, "embedding": encoded(vector, request.encoding)}
                for number, vector in enumerate(vectors)
            ],
            "model": self.embedder.manifest.name,
            "usage": {
                "prompt_tokens": stats.tokens,
                "total_tokens": stats.tokens,
                "truncated_texts": stats.truncated_texts,
            },
        }

    def _embed_cut(self, request: Request, longest: int, error: TextTooLongError) -> dict[str, Any]:
        if error.tokens > request.max_length and request.overflow == "error":
            too_long = TextTooLongError(error.index, error.tokens, request.max_length)
            raise RequestError(400, "text_too_long", str(too_long)) from None
        raise RequestError(
            413,
            "out_of_memory",
            f"input[{error.index}] has {error.tokens:,} tokens; {self._memory()}, enough for {longest:,}: shorten "
            f"it, pass max_length {longest} to have it cut, or give the function more memory",
        ) from None

    def _memory(self) -> str:
        limit = self.settings.memory
        return "not enough memory" if limit is None else f"{limit >> 20} MB of memory"


def _threads(settings: Settings) -> int | None:
    """As asked for, or as many as processors and memory allow."""
    if settings.threads is not None or settings.memory is None:
        return settings.threads
    threads = default_threads()
    if threads == 1:
        return 1
    manifest = load_manifest(settings.model or bundled_model())
    return budget.threads_for(settings.memory, threads, settings.max_length or manifest.max_tokens, manifest)


def _bad(code: str, message: str) -> RequestError:
    return RequestError(400, code, message)


def _overflow(given: dict[str, Any]) -> str:
    overflow, truncate = given.get("overflow"), given.get("truncate")
    if overflow not in (None, "truncate", "error"):
        raise _bad("invalid_overflow", f"overflow is {_shown(overflow)}, not truncate or error")
    if truncate is None:
        return overflow or "truncate"
    if not isinstance(truncate, bool):
        raise _bad("invalid_truncate", f"truncate is {_shown(truncate)}, not true or false")
    meant = "truncate" if truncate else "error"
    if overflow not in (None, meant):
        raise _bad("invalid_truncate", f"overflow {overflow} and truncate {_shown(truncate)}: leave one out")
    return meant


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _shown(value: object) -> str:
    try:
        shown = json.dumps(value)
    except (TypeError, ValueError):
        shown = type(value).__name__
    return shown if len(shown) <= 60 else shown[:57] + "..."


def report(error: Exception) -> RequestError:
    """Print an error that is not the request's fault, and turn it into one that tells nothing of the inside."""
    sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
    return RequestError(500, "internal_error", "the function failed; its log says why")
