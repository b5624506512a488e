"""What a client is told when there are no vectors: a status, and JSON as its API writes errors."""

from __future__ import annotations

from typing import Any

from runtime.errors import OutOfMemoryError, OutputError

# text-embeddings-inference's names; what is not here is about the request.
TEI_TYPES = {424: "Backend", 429: "Overloaded", 503: "Unhealthy"}


class ServiceError(Exception):
    """A request that is not answered with vectors."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """
        :param status: of HTTP.
        :param code: for programs.
        :param message: for people: the value, the reason, the remedy. Never a part of a text.
        :param param: the field it is about.
        :param retry_after: seconds.
        """
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def openai(self) -> tuple[int, dict[str, Any]]:
        """:return: status and JSON, as OpenAI's API."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return self.status, {"error": error}

    def tei(self) -> tuple[int, dict[str, Any]]:
        """:return: status and JSON, as text-embeddings-inference's."""
        status = 424 if self.status == 500 else self.status
        return status, {"error": str(self), "error_type": TEI_TYPES.get(status, "Validation")}

    def headers(self) -> dict[str, str]:
        """:return: what goes with the status."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def of_model(error: BaseException) -> ServiceError:
    """What an error of the model means for a request.

    :param error: raised while computing.
    :return: a failure that tells nothing of the inside, unless the request can do something about it.
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
