"""Flask requests, as functions-framework hands them over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import http

if TYPE_CHECKING:
    from .service import Service


def respond(service: Service, request: Any) -> tuple[str, int, dict[str, str]]:
    """
    :param service: the loaded model.
    :param request: flask.Request.
    :return: body, status and headers, which Flask takes as a response.
    """

    def body() -> bytes:
        service.check_size(request.content_length or 0)  # before anything is read
        data: bytes = request.get_data(cache=False)
        return data

    status, headers, text = http.respond(service, request.method, body)
    return text, status, headers
