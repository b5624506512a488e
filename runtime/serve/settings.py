"""What the service is told: limits and keys."""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

from runtime.api.context import MAX_BODY_BYTES, MAX_REQUEST_TOKENS, MAX_TEXTS
from runtime.errors import InputError

MAX_QUEUE_TOKENS = 2 * MAX_REQUEST_TOKENS
KEY_VARIABLE = "JINABERT_API_KEY"


class ServerSettings(NamedTuple):
    """Options of the command line, checked."""

    model: str | None = None  # folder; None: the bundled model
    threads: int | None = None  # None: default_threads()
    verify: bool = False
    max_length: int | None = None  # tokens of a text; None: the model's
    max_texts: int = MAX_TEXTS  # of a request
    max_request_tokens: int = MAX_REQUEST_TOKENS
    max_body_bytes: int = MAX_BODY_BYTES
    max_queue_tokens: int = MAX_QUEUE_TOKENS  # that wait in a queue or run
    max_requests: int = 1024  # being answered at once
    read_seconds: float = 30.0  # for a head to arrive, and for a body
    memory: int | None = None  # bytes that may be used; None: no limit
    keys: tuple[bytes, ...] = ()  # SHA-256 of the API keys; empty: none asked for
    log_requests: bool = False
    accept_token_ids: bool = False  # inputs may be ids of this model's vocabulary
    cors_origins: tuple[str, ...] = ()  # that browsers may call from


def read_keys(variable: str | None, path: str | None, option: str | None = None) -> tuple[bytes, ...]:
    """API keys of the environment, of the command line and of a file.

    :param variable: the environment variable's value; a single key. None or empty: not set.
    :param option: the value of --api-key.
    :param path: a file with a key a line; blank lines and lines that start with # do not count.
    :return: SHA-256 of each: all of one length, so that comparing them tells nothing.
    :raises InputError: the file cannot be read or holds no key, or a key cannot be sent in a header.
    """
    keys = []
    if variable:
        keys.append((variable.strip(), KEY_VARIABLE))
    if option is not None:
        keys.append((option, "--api-key"))
    if path is not None:
        try:
            with open(path, encoding="utf-8") as file:
                lines = [line.strip() for line in file]
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise InputError(f"--api-key-file {path}: cannot be read ({reason})") from None
        found = [(line, path) for line in lines if line and not line.startswith("#")]
        if not found:
            raise InputError(f"--api-key-file {path}: no key in it; put one on a line of its own")
        keys += found
    for key, where in keys:
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise InputError(f"{where}: a key must be visible ASCII characters without spaces")
    return tuple(hashlib.sha256(key.encode("ascii")).digest() for key, _ in keys)


def accepts(keys: tuple[bytes, ...], authorization: str | None) -> bool:
    """Whether a request may pass.

    Each key is compared, and in constant time: neither how much of a key was right nor which one shows in the time.

    :param keys: of read_keys.
    :param authorization: the request's Authorization header; None if it has none.
    """
    if not keys:
        return True
    scheme, _, token = (authorization or "").partition(" ")
    given = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
    matches = [hmac.compare_digest(given, key) for key in keys]
    return scheme.lower() == "bearer" and any(matches)
