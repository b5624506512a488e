"""The routes. Nothing here computes: texts are made tokens in a thread, vectors in the queues' threads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from runtime.api import responses, routes
from runtime.api.body import check_media_type, check_size, parse
from runtime.api.context import Computation
from runtime.api.errors import ServiceError, dump, error_response

from . import openapi
from .decoders import DECODERS
from .metrics import TEXT_FORMAT
from .middleware import Middleware, discard_body, failed, report
from .pages import page_headers, read_page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from numpy.typing import NDArray

    from .engine import Engine
    from .metrics import Metrics

# A body up to this is checked and made tokens at once: quicker than handing it to a thread.
INLINE_BYTES = 4096
INLINE_TEXTS = 8  # the same for an answer
HELD_BODIES = 16  # of the largest allowed, that may be in memory at once
TOKENIZERS = 2  # threads

Result = TypeVar("Result")


class ClientLeftError(Exception):
    """Nobody is there to be answered."""


def create(engine: Engine, metrics: Metrics) -> Middleware:
    """The service as an ASGI application.

    :param engine: the loaded model, closed when the application shuts down.
    :param metrics: what the engine counts in.
    """
    answers = Answers(engine, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)
        answers.threads.shutdown(wait=False, cancel_futures=True)

    gets: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/v1/models": answers.models,
        "/v1/models/{id:path}": answers.model,
        "/info": answers.info,
        "/health": answers.health,
        "/ping": answers.health,
        "/metrics": answers.metrics,
        "/openapi.json": answers.openapi,
        "/api-doc/openapi.json": answers.openapi,
        "/docs": answers.page("docs.html"),
        "/": answers.page("page.html"),
    }
    app = Starlette(
        routes=[
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in gets.items()),
            *(
                Route(route.path, answers.post(route.prepare), methods=["POST"])
                for route in routes.ROUTES
                if route.prepare is not None
            ),
        ],
        exception_handlers={
            404: _no_route,
            405: _no_route,
            ServiceError: _failure,
            ClientLeftError: _left,
            Exception: _unforeseen,
        },
        lifespan=lifespan,
    )
    return Middleware(app, engine.settings, metrics)


class Answers:
    """The answers: one method a GET, one for every POST."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self.engine = engine
        self.threads = ThreadPoolExecutor(TOKENIZERS, "jinabert-tokenize")
        self._held = 0  # bytes of bodies that are not tokens yet
        self._settings = engine.settings
        self._metrics = metrics
        self._document = json.dumps(openapi.document(engine)).encode()

    def post(self, prepare: routes.Prepare) -> Callable[[Request], Awaitable[Response]]:
        """The answer to a POST.

        :param prepare: of its route.
        """

        async def answer(request: Request) -> Response:
            content, headers = await self._read(request, prepare)
            if isinstance(content, Computation):
                asked = content
                vectors = await self._compute(request, asked)
                content = await self._run(len(asked.texts) <= INLINE_TEXTS, lambda: asked.respond(vectors))
            return Response(content, headers=headers, media_type="application/json")

        return answer

    async def models(self, _: Request) -> Response:
        """GET /v1/models."""
        return _json(responses.model_list(self.engine.context))

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{id}."""
        return _json(routes.model_named(request.path_params["id"], self.engine.context))

    async def info(self, _: Request) -> Response:
        """GET /info, of text-embeddings-inference."""
        engine = self.engine
        return _json(
            responses.info(
                engine.context,
                requests=self._settings.max_requests,
                batch_tokens=engine.batch_tokens,
                workers=TOKENIZERS,
            )
        )

    async def health(self, _: Request) -> Response:
        """GET /health."""
        if not self.engine.alive:
            raise ServiceError(
                503, "unhealthy", "the service is ending, or a thread of it has ended", retry_after=1
            )
        return _json({"status": "ok"})

    async def metrics(self, _: Request) -> Response:
        """GET /metrics."""
        return Response(self._metrics.page(), headers={"Content-Type": TEXT_FORMAT})

    async def openapi(self, _: Request) -> Response:
        """GET /openapi.json."""
        return Response(self._document, media_type="application/json")

    def page(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        """The answer to a GET of a page.

        :param name: of its file.
        """
        content = read_page(os.path.join(os.path.dirname(__file__), name))
        headers = page_headers(content)

        async def answer(_: Request) -> Response:
            return Response(content, media_type="text/html", headers=headers)

        return answer

    async def _compute(self, request: Request, asked: Computation) -> NDArray[Any]:
        """Have vectors made, unless the client leaves meanwhile."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(done.set)

        task = self.engine.start(asked, tell)
        waits = [asyncio.ensure_future(done.wait()), asyncio.ensure_future(_left_early(request))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            if not done.is_set() or task.error is not None:
                self.engine.cancel(task)
        if not done.is_set():
            raise ClientLeftError
        if task.error is not None:
            failure = error_response(task.error)
            if failure.status == 500:
                report(task.error)
            raise failure
        return task.vectors

    async def _read(self, request: Request, prepare: routes.Prepare) -> Any:
        """What is prepared from a request's body.

        :raises ServiceError: 408, 413, 415, 429, and what prepare raises.
        """
        headers = {name: value for name, value in request.headers.items() if name.startswith("content-")}
        most = self._settings.max_body_bytes
        pieces: list[bytes] = []
        try:
            await self._body(request, headers, pieces)
            body = b"".join(pieces)
            inline = len(body) <= INLINE_BYTES and "content-encoding" not in headers
            return await self._run(
                inline, lambda: prepare(parse(body, headers, DECODERS, most), self.engine.context)
            )
        finally:
            self._held -= sum(map(len, pieces))

    async def _run(self, inline: bool, function: Callable[[], Result]) -> Result:
        """Call a function here, or in a thread where it would hold up others."""
        if inline:
            return function()
        return await asyncio.get_running_loop().run_in_executor(self.threads, function)

    async def _body(self, request: Request, headers: dict[str, str], pieces: list[bytes]) -> None:
        """Read a body.

        :param headers: about it, names in lower case.
        :param pieces: where it goes, whatever happens.
        :raises ServiceError: 408, 413, 415 or 429.
        """
        most = self._settings.max_body_bytes
        failure = None
        try:
            async with asyncio.timeout(self._settings.read_seconds):
                try:
                    check_media_type(headers, DECODERS)
                    declared = headers.get("content-length", "")
                    check_size(int(declared) if declared.isdecimal() else 0, most)
                    size = 0
                    async for piece in request.stream():
                        size += len(piece)
                        check_size(size, most)
                        if self._held + len(piece) > HELD_BODIES * most:
                            message = "too many large requests are being read: try again in a second"
                            raise ServiceError(429, "overloaded", message, retry_after=1)
                        self._held += len(piece)
                        pieces.append(piece)
                except ServiceError as error:
                    failure = error
                    await discard_body(request.receive)
        except TimeoutError:
            seconds = self._settings.read_seconds
            failure = ServiceError(
                408,
                "body_timeout",
                f"the body took longer than {seconds:g} s to arrive",
                headers={"Connection": "close"},
            )
        except ClientDisconnect:
            raise ClientLeftError from None
        if failure is not None:
            raise failure


def _json(document: object) -> Response:
    return Response(dump(document), media_type="application/json")


async def _left_early(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _failure(request: Request, failure: Any) -> Response:
    return failed(failure, request.url.path)


async def _unforeseen(request: Request, error: Exception) -> Response:
    return failed(
        error_response(error), request.url.path
    )  # Starlette raises it again, for middleware.py to report


async def _left(_: Request, __: Any) -> Any:
    async def nothing(*_: Any) -> None:
        """An answer to nobody."""

    return nothing


async def _no_route(request: Request, error: Any) -> Response:
    path = request.url.path
    if error.status_code == 405:
        ways = [route for route in request.app.routes if route.path_regex.match(path)]
        allowed = ", ".join(sorted({method for route in ways for method in route.methods}))
        return failed(routes.wrong_method(allowed), path)
    return failed(routes.no_route(path), path)
