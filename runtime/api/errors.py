"""What a client is told when its request is not answered: a status, and JSON as its API writes errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypedDict

from runtime.errors import OutOfMemoryError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_SHOWN = 60  # characters of a client's value in a message

# What text-embeddings-inference answers otherwise than OpenAI's API: by code, then by status.
TEI_STATUS_OF_CODE = {"invalid_json": 400, "empty_input": 400, "text_too_long": 413, "out_of_memory": 413}
TEI_STATUS = {400: 422, 500: 424}
TEI_TYPES = {424: "Backend", 429: "Overloaded", 503: "Unhealthy"}  # what is not here is about the request


class OpenAIErrorDetail(TypedDict):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(TypedDict):
    """An error as OpenAI's API writes it."""

    error: OpenAIErrorDetail


class TeiError(TypedDict):
    """An error as text-embeddings-inference writes it."""

    error: str
    error_type: str


class ServiceError(Exception):
    """A request that is not answered with what it asks for."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Make the error.

        :param status: of HTTP, where OpenAI's API is spoken.
        :param code: for programs.
        :param message: for people: the value, the reason, the remedy. Never a part of a text.
        :param param: the field it is about.
        :param headers: that go with the answer.
        :param retry_after: seconds.
        """
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.in_tei_form = False  # whatever the path: set where the request itself was in that form
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"

    def openai(self) -> tuple[int, OpenAIError]:
        """Give status and JSON as OpenAI's API does."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return self.status, {
            "error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        }

    def tei(self) -> tuple[int, TeiError]:
        """Give status and JSON as text-embeddings-inference does."""
        status = TEI_STATUS.get(self.status, self.status)
        if self.status < 500:  # memory that is short for the moment stays a 503
            status = TEI_STATUS_OF_CODE.get(self.code, status)
        kind = "Empty" if self.code == "empty_input" else TEI_TYPES.get(status, "Validation")
        return status, {"error": str(self), "error_type": kind}

    def answer(self, *, tei: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Write the error.

        :param tei: as text-embeddings-inference does, not as OpenAI.
        :return: status, headers and body.
        """
        status, document = self.tei() if tei or self.in_tei_form else self.openai()
        return status, {"Content-Type": "application/json", **self.headers}, dump(document)


def error_response(error: BaseException) -> ServiceError:
    """What an error of the model means for a request.

    :param error: raised while computing.
    :return: an error that tells nothing of the inside, unless the request can do something about it.
    """
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, OutputError):
        return ServiceError(
            500, "not_finite", "the model gave NaN or infinity for this input, so there is no vector"
        )
    if isinstance(error, (OutOfMemoryError, MemoryError)):
        return ServiceError(
            503,
            "out_of_memory",
            "not enough memory just now: send shorter or fewer texts, or later",
            retry_after=1,
        )
    return ServiceError(500, "internal_error", "the service failed; its log says how")


def invalid(name: str, message: str, code: str | None = None) -> ServiceError:
    """A field that cannot be used.

    :param name: of the field.
    :param message: what is wrong with it and what is allowed.
    :param code: None for invalid_NAME.
    """
    return ServiceError(400, code or f"invalid_{name}", message, param=name)


def shown(value: object) -> str:
    """Write a client's value for a message: as JSON, and not all of it if it is long."""
    text = json.dumps(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the right name for a wrong one.

    :param name: that is not known.
    :param known: names.
    :return: "; did you mean X?" where one is near, else nothing.
    """
    from difflib import get_close_matches

    found = get_close_matches(name[:MAX_SHOWN].lower(), list(known), 1, 0.6)
    return f"; did you mean {found[0]}?" if found else ""


def dump(document: object) -> bytes:
    """JSON as every answer has it: ASCII, without white space."""
    return json.dumps(document, separators=(",", ":")).encode("ascii")
