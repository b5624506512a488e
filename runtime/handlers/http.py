"""What HTTP adds to a request, on every platform: methods, CORS, status codes, a JSON body."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .service import RequestError, report

if TYPE_CHECKING:
    from collections.abc import Callable

    from .service import Service

METHODS = "POST, OPTIONS"


def respond(
    service: Service, method: str, body: Callable[[], str | bytes]
) -> tuple[int, dict[str, str], str]:
    """Answer an HTTP request.

    :param service: the loaded model.
    :param method: of HTTP.
    :param body: gives the body, or raises RequestError.
    :return: status, headers and body. It never raises: what fails inside is a 500 and a line on standard error.
    """
    headers = {}
    origin = service.settings.cors_origin
    if origin is not None:
        headers["Access-Control-Allow-Origin"] = origin
        if origin != "*":
            headers["Vary"] = "Origin"
    if method == "OPTIONS" and origin is not None:
        headers |= {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": "Content-Type, Authorization",
            "Access-Control-Max-Age": "86400",
        }
        return 204, headers, ""
    headers["Content-Type"] = "application/json"
    try:
        if method != "POST":
            headers["Allow"] = METHODS if origin is not None else "POST"
            raise RequestError(405, "method_not_allowed", f"method {method[:20]}: POST a JSON object")
        status, answer = service.answer_json(body())
    except RequestError as error:
        status, answer = error.status, error.document()
    except Exception as error:
        failure = report(error)
        status, answer = failure.status, failure.document()
    return status, headers, json.dumps(answer, separators=(",", ":"))
