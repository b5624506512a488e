"""Flask requests, as functions-framework hands them over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.api.body import check_size

from . import http

if TYPE_CHECKING:
    from .service import Service


def respond(service: Service, request: Any) -> tuple[str, int, dict[str, str]]:
    """Answer a request.

    :param service: the loaded model.
    :param request: flask.Request.
    :return: body, status and headers, which Flask takes as a response.
    """

    def body() -> bytes:
        check_size(
            request.content_length or 0, service.context.limits.max_body_bytes
        )  # before anything is read
        data: bytes = request.get_data(cache=False)
        return data

    headers = {name.lower(): value for name, value in request.headers.items()}
    asked = http.HttpRequest(request.method, request.path, headers, body)
    status, headers, text = http.respond(service, asked)
    return text, status, headers
