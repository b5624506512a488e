"""What every request passes before a route sees it: CORS, API key, most requests at once, errors, counts, log."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response

from runtime.api import cors, routes
from runtime.api.errors import ServiceError, error_response

from .settings import accepts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from .metrics import Metrics
    from .settings import ServerSettings

# Paths that need no key, since they tell nothing about use: the pages, what describes the API, health.
PAGES = frozenset({"/", "/docs", "/openapi.json", "/api-doc/openapi.json"})
PUBLIC_PATHS = PAGES | {route.path for route in routes.ROUTES if route.public}
TEI_PATHS = frozenset(route.path for route in routes.ROUTES if route.tei)
PATHS = PUBLIC_PATHS | {route.path for route in routes.ROUTES} | {"/metrics"}
DISCARDED_BYTES = (
    64 << 20
)  # read and thrown away of a body that is refused, so that the client gets its answer


def failed(failure: ServiceError, path: str) -> Response:
    """An error in the form that clients of this path know."""
    status, headers, body = failure.answer(tei=path in TEI_PATHS)
    return Response(body, status, headers)


class Middleware:
    """An ASGI application around another."""

    def __init__(
        self, app: Callable[..., Awaitable[None]], settings: ServerSettings, metrics: Metrics
    ) -> None:
        self.app = app
        self._settings = settings
        self._metrics = metrics
        self._active = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        shared = self._shared(scope)
        start = time.perf_counter()
        status = 0  # of the answer; stays 0 when the client left before it

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(shared)
            await send(message)

        try:
            refusal = self._refusal(scope, path)
            if refusal is None:
                await self._answer(scope, receive, sending)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.read_seconds):
                        await discard_body(receive)
                await refusal(scope, receive, sending)
        except asyncio.CancelledError:  # by uvicorn, when the time to drain is over
            if status == 0:
                failure = ServiceError(503, "ending", "the service is ending: ask another one", retry_after=1)
                await failed(failure, path)(scope, receive, sending)
        except Exception as error:
            report(error)
            if status == 0:
                await failed(error_response(error), path)(scope, receive, sending)
        finally:
            self._count(scope["method"], path, status, time.perf_counter() - start)

    async def _answer(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self._active += 1
        self._metrics.active.set(self._active)
        try:
            await self.app(scope, receive, send)
        finally:
            self._active -= 1
            self._metrics.active.set(self._active)

    def _shared(self, scope: dict[str, Any]) -> dict[str, str]:
        """Headers of every answer."""
        own = {"X-Content-Type-Options": "nosniff"}
        return own | cors.headers(self._settings.cors_origins, Headers(scope=scope))

    def _refusal(self, scope: dict[str, Any], path: str) -> Response | None:
        if scope["method"] == "OPTIONS" and self._settings.cors_origins:
            return Response(status_code=204, headers=cors.preflight(Headers(scope=scope)))
        open_page = path in PUBLIC_PATHS and scope["method"] in ("GET", "HEAD")
        if not open_page and self._settings.keys:
            authorization = Headers(scope=scope).get("authorization")
            if not accepts(self._settings.keys, authorization):
                message = "no API key given" if authorization is None else "this API key is not known"
                failure = ServiceError(
                    401, "invalid_api_key", f"{message}: send one in the header Authorization: Bearer KEY"
                )
                return failed(failure, path)
        if scope["method"] == "POST" and self._active >= self._settings.max_requests:
            message = f"{self._settings.max_requests:,} requests are being answered: try again in a second"
            return failed(ServiceError(429, "overloaded", message, retry_after=1), path)
        return None

    def _count(self, method: str, path: str, status: int, seconds: float) -> None:
        shown = path if path in PATHS else "/v1/models/{id}" if path.startswith(routes.MODELS) else "other"
        self._metrics.requests.labels(shown, str(status or 499)).inc()
        self._metrics.seconds.labels(shown).observe(seconds)
        if status == 0:
            self._metrics.cancelled.inc()
        if status == 429:
            self._metrics.refused.inc()
        if self._settings.log_requests:
            shown_method = method if method.isascii() and method.isalpha() else "?"
            sys.stderr.write(f"{shown_method} {shown} {status or 499} {seconds * 1000:.1f} ms\n")


async def discard_body(receive: Any) -> None:
    """Read the rest of a body. Were it left unread, the connection would be reset and many clients see no answer."""
    read = 0
    while read < DISCARDED_BYTES:
        message = await receive()
        read += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


def report(error: BaseException) -> None:
    """A line on standard error: what kind of error and where, without its words, which might be a text's."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].name}, line {frames[-1].lineno}" if frames else ""
    sys.stderr.write(f"internal error: {type(error).__name__}{where}\n")
