"""The handlers' environment variables; the table of them is in the package's docstring."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from runtime.errors import InputError
from runtime.resources import MEGABYTE, memory_limit

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST = (1 << 31) - 1


class Settings(NamedTuple):
    """What the environment asks for."""

    model: str | None  # None: the bundled model
    threads: int | None  # None: default_threads()
    warmup: int  # tokens; 0 for none
    max_length: int | None  # tokens; None: the model's
    max_texts: int
    max_bytes: int
    max_response_bytes: int
    memory: int | None  # bytes that may be used; None for no limit
    cors_origin: str | None
    sink: str | None  # module:function


def from_environment(environment: Mapping[str, str]) -> Settings:
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
            raise InputError(f"JINABERT_{name}={value!r}: a whole number from {least} to {MOST:,} wanted")
        return int(value)

    sink = text("SINK")
    if sink is not None and not all(part.strip() for part in sink.partition(":")):
        raise InputError(f"JINABERT_SINK={sink!r}: module:function wanted")
    origin = text("CORS_ORIGIN")
    if origin is not None and not (origin == "*" or origin.startswith(("http://", "https://"))):
        raise InputError(
            f"JINABERT_CORS_ORIGIN={origin!r}: an origin such as https://example.com wanted, or *"
        )
    if origin is not None and (not origin.isprintable() or " " in origin):
        raise InputError(f"JINABERT_CORS_ORIGIN={origin!r}: one origin wanted, without spaces")
    megabytes = number("MEMORY_MB", 0)
    return Settings(
        model=text("MODEL"),
        threads=number("THREADS", 1),
        warmup=number("WARMUP", 0) or 0,
        max_length=number("MAX_LENGTH", 3),
        max_texts=number("MAX_TEXTS", 1) or 2048,
        max_bytes=number("MAX_BYTES", 1) or 1_000_000,
        max_response_bytes=number("MAX_RESPONSE_BYTES", 1) or 6_000_000,
        memory=memory_limit() if megabytes is None else megabytes * MEGABYTE or None,
        cors_origin=origin,
        sink=sink,
    )
