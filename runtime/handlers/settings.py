"""The handlers' environment variables; the table of them is in the package's docstring."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from runtime.api import cors
from runtime.api.context import MAX_BODY_BYTES, MAX_REQUEST_TOKENS, MAX_TEXTS
from runtime.errors import InputError
from runtime.resources import MEGABYTE, memory_limit

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST = (1 << 31) - 1
MAX_RESPONSE_BYTES = 6_000_000  # Lambda sends no more than 6 MB


class HandlerSettings(NamedTuple):
    """What the environment asks for."""

    model: str | None  # None: the bundled model
    threads: int | None  # None: default_threads()
    warmup: int  # tokens; 0 for none
    max_length: int | None  # tokens; None: the model's
    max_texts: int
    max_request_tokens: int
    max_bytes: int
    max_response_bytes: int
    memory: int | None  # bytes that may be used; None for no limit
    cors_origins: tuple[str, ...]
    sink: str | None  # module:function
    accept_token_ids: bool


def from_environment(environment: Mapping[str, str]) -> HandlerSettings:
    """Read and check the variables; one that is empty counts as not set.

    :param environment: os.environ.
    :raises InputError: naming the variable and its value.
    """

    def text(name: str) -> str | None:
        return environment.get(f"JINABERT_{name}", "").strip() or None

    def number(name: str, least: int) -> int | None:
        value = text(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdecimal()) or not least <= int(value) <= MOST:
            raise InputError(f"JINABERT_{name}={value!r}: must be an integer from {least} to {MOST:,}")
        return int(value)

    sink = text("SINK")
    if sink is not None and not all(part.strip() for part in sink.partition(":")):
        raise InputError(f"JINABERT_SINK={sink!r}: must be module:function")
    origins = tuple(origin.strip() for origin in (text("CORS_ORIGIN") or "").split(",") if origin.strip())
    for origin in origins:
        problem = cors.problem(origin)
        if problem:
            raise InputError(f"JINABERT_CORS_ORIGIN={origin!r}: {problem}")
    accept = text("ACCEPT_TOKEN_IDS")
    if accept not in (None, "0", "1"):
        raise InputError(f"JINABERT_ACCEPT_TOKEN_IDS={accept!r}: must be 0 or 1")
    megabytes = number("MEMORY_MB", 0)
    return HandlerSettings(
        model=text("MODEL"),
        threads=number("THREADS", 1),
        warmup=number("WARMUP", 0) or 0,
        max_length=number("MAX_LENGTH", 3),
        max_texts=number("MAX_TEXTS", 1) or MAX_TEXTS,
        max_request_tokens=number("MAX_REQUEST_TOKENS", 3) or MAX_REQUEST_TOKENS,
        max_bytes=number("MAX_BYTES", 1) or MAX_BODY_BYTES,
        max_response_bytes=number("MAX_RESPONSE_BYTES", 1) or MAX_RESPONSE_BYTES,
        memory=memory_limit() if megabytes is None else megabytes * MEGABYTE or None,
        cors_origins=origins,
        sink=sink,
        accept_token_ids=accept == "1",
    )
