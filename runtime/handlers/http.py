"""HTTP on every platform: paths, methods, CORS, a JSON body, status codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from runtime.api import cors, requests, responses, routes
from runtime.api.body import DECODERS, check_media_type, parse
from runtime.api.errors import ServiceError, dump
from runtime.batching import BATCH_TOKENS

from .service import report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .service import Service


HEALTH: responses.Health = {"status": "ok"}


class HttpRequest(NamedTuple):
    """What a platform hands over."""

    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: Callable[[], str | bytes]  # reads it; raises ServiceError
    probe: bool = False  # a load balancer asks whether the function answers, on whatever path


class HttpResponse(NamedTuple):
    """What it is given back."""

    status: int
    headers: dict[str, str]
    body: str


def respond(service: Service, request: HttpRequest) -> HttpResponse:
    """Answer an HTTP request.

    :param service: the loaded model.
    :param request: see there.
    :return: the response. It never raises: what fails inside is a 500 and a line on standard error.
    """
    origins = service.settings.cors_origins
    headers = cors.headers(origins, request.headers)
    if request.method == "OPTIONS" and origins:
        return HttpResponse(204, headers | cors.preflight(request.headers), "")
    found = routes.find(request.method, request.path)
    known = found or routes.find("POST", request.path) or routes.find("GET", request.path)
    status = 200
    try:
        more, body = _answer(service, request, found)
    except Exception as error:
        failure = error if isinstance(error, ServiceError) else report(error)
        status, more, body = failure.answer(tei=known is not None and known.tei)
    headers |= {"Content-Type": "application/json", **more}
    return HttpResponse(status, headers, "" if request.method == "HEAD" else body.decode("ascii"))


def _answer(
    service: Service, request: HttpRequest, found: routes.Route | None
) -> tuple[dict[str, str], bytes]:
    if request.method in ("GET", "HEAD"):
        return {}, dump(_read_only(service, request, found))
    if request.method != "POST":
        raise routes.wrong_method("POST")
    # Functions stand behind paths of all kinds: what is no path of the API is an embeddings request.
    prepare = requests.default if found is None or found.prepare is None else found.prepare
    check_media_type(request.headers, DECODERS)
    most = service.context.limits.max_body_bytes
    return service.respond(prepare, parse(request.body(), request.headers, DECODERS, most))


def _read_only(service: Service, request: HttpRequest, found: routes.Route | None) -> Mapping[str, object]:
    """What GET shows: models, limits; elsewhere that the function is well."""
    context = service.context
    if found is not None and found.operation == "models":
        return responses.model_list(context)
    if found is not None and found.operation == "model":
        return routes.model_named(request.path.partition(routes.MODELS)[2], context)
    if found is not None and found.operation == "info":
        return responses.info(context, requests=1, batch_tokens=BATCH_TOKENS, workers=1)
    other = routes.find("POST", request.path)
    if other is not None and other.path != "/" and not request.probe:
        raise routes.wrong_method("POST")
    return HEALTH
