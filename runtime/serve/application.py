"""The routes. Nothing here computes: texts are made tokens in a thread, vectors in the lanes' threads."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime import __version__, pooling
from runtime.api.encoding import encoded, numbers
from runtime.api.errors import ServiceError, of_model
from runtime.errors import InputError
from runtime.manifest import check_dimensions

from . import openapi, schemas
from .metrics import TEXT_FORMAT
from .middleware import Front, drain, failed, report

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.exceptions import HTTPException

    from .engine import Engine, Prepared
    from .metrics import Metrics
    from .requests import Work
    from .schemas import EmbeddingRequest, EmbedRequest, TokenizeRequest

INLINE_BYTES = (
    4096  # a body up to this is checked and made tokens at once: quicker than handing it to a thread
)
INLINE_TEXTS = 8  # the same for an answer
HELD_BODIES = 16  # of the largest allowed, that may be in memory at once
PAGE = os.path.join(os.path.dirname(__file__), "page.html")

Result = TypeVar("Result")


class ClientLeftError(Exception):
    """Nobody is there to be answered."""


def create(engine: Engine, metrics: Metrics) -> Front:
    """The service as an ASGI application.

    :param engine: the loaded model, closed when the application shuts down.
    :param metrics: what the engine counts in.
    """
    routes = Routes(engine, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)
        routes.threads.shutdown(wait=False, cancel_futures=True)

    app = Starlette(
        routes=[
            Route("/", routes.page, methods=["GET"]),
            Route("/v1/embeddings", routes.embeddings, methods=["POST"]),
            Route("/embed", routes.embed, methods=["POST"]),
            Route("/tokenize", routes.tokenize, methods=["POST"]),
            Route("/info", routes.info, methods=["GET"]),
            Route("/health", routes.health, methods=["GET"]),
            Route("/metrics", routes.metrics, methods=["GET"]),
            Route("/openapi.json", routes.openapi, methods=["GET"]),
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
    return Front(app, engine.settings, metrics)


class Routes:
    """The answers, one method a route."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self.engine = engine
        self.threads = ThreadPoolExecutor(2, "jinabert-tokenize")
        self._held = 0  # bytes of bodies that are not tokens yet
        self._settings = engine.settings
        self._metrics = metrics
        self._document = json.dumps(openapi.document(engine)).encode()
        with open(PAGE, encoding="utf-8") as file:
            self._page = file.read()
        self._page_headers = page_headers(self._page)

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings."""

        def prepare(body: bytes) -> tuple[EmbeddingRequest, Prepared]:
            wanted = schemas.decode(body, schemas.EmbeddingRequest)
            self._dimensions(wanted.dimensions)
            inputs = schemas.inputs_of(wanted.input, "input", self._settings.max_texts)
            parts = bool(wanted.late_chunking)
            return wanted, self.engine.prepare(inputs, "input", truncate=bool(wanted.truncate), parts=parts)

        wanted, prepared = await self._read(request, prepare)
        start = self.engine.start_chunks if wanted.late_chunking else self.engine.start
        normalize = wanted.normalized is not False
        work = await self._compute(request, prepared, start, normalize)
        kind = wanted.embedding_type or wanted.encoding_format or "float"

        def answer() -> bytes:
            vectors = pooling.cut(work.vectors, self._dimensions(wanted.dimensions), normalize)
            data = [
                {"object": "embedding", "index": number, "embedding": encoded(vector, kind)}
                for number, vector in enumerate(vectors)
            ]
            usage = {
                "prompt_tokens": work.tokens,
                "total_tokens": work.tokens,
                "truncated_texts": prepared.truncated,
            }
            model = self.engine.manifest.name
            written: bytes = msgspec.json.encode(
                {"object": "list", "data": data, "model": model, "usage": usage}
            )
            return written

        return Response(
            await self._run(len(work.vectors) <= INLINE_TEXTS, answer), media_type="application/json"
        )

    async def embed(self, request: Request) -> Response:
        """POST /embed, of text-embeddings-inference."""

        def prepare(body: bytes) -> tuple[EmbedRequest, Prepared]:
            wanted = schemas.decode(body, schemas.EmbedRequest)
            self._dimensions(wanted.dimensions)
            inputs = schemas.inputs_of(wanted.inputs, "inputs", self._settings.max_texts)
            left = (wanted.truncation_direction or "right").lower() == "left"
            return wanted, self.engine.prepare(inputs, "inputs", truncate=bool(wanted.truncate), left=left)

        wanted, prepared = await self._read(request, prepare)
        normalize = wanted.normalize is not False
        work = await self._compute(request, prepared, self.engine.start, normalize)

        def answer() -> bytes:
            vectors = pooling.cut(work.vectors, self._dimensions(wanted.dimensions), normalize)
            written: bytes = msgspec.json.encode([numbers(vector) for vector in vectors])
            return written

        return Response(
            await self._run(len(work.vectors) <= INLINE_TEXTS, answer), media_type="application/json"
        )

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize, of text-embeddings-inference."""

        def answer(body: bytes) -> bytes:
            wanted: TokenizeRequest = schemas.decode(body, schemas.TokenizeRequest)
            inputs = schemas.inputs_of(wanted.inputs, "inputs", self._settings.max_texts)
            lists, total = [], 0
            for text in inputs:
                assert isinstance(text, str)
                total += self.engine.tokenizer.count(text)
                self.engine.check_total(total, "inputs")
                lists.append(self._tokens(text, wanted.add_special_tokens is not False))
            written: bytes = msgspec.json.encode(lists)
            return written

        return Response(await self._read(request, answer), media_type="application/json")

    def _tokens(self, text: str, special: bool) -> list[dict[str, Any]]:
        ids, offsets = self.engine.tokenizer.encode_with_offsets(text)
        tokens: list[dict[str, Any]] = [
            {"id": number, "text": text[start:stop], "special": False, "start": start, "stop": stop}
            for number, (start, stop) in zip(ids[1:-1], offsets[1:-1], strict=True)
        ]
        if special:
            for place, number, name in ((0, ids[0], "[CLS]"), (len(ids) - 1, ids[-1], "[SEP]")):
                tokens.insert(
                    place, {"id": number, "text": name, "special": True, "start": None, "stop": None}
                )
        return tokens

    async def info(self, _: Request) -> Response:
        """GET /info, of text-embeddings-inference."""
        engine, manifest, settings = self.engine, self.engine.manifest, self._settings
        return JSONResponse(
            {
                "model_id": manifest.name,
                "model_sha": None,
                "model_dtype": "float32" if manifest.precision == "fp32" else manifest.precision,
                "model_type": {"embedding": {"pooling": "mean"}},
                "max_concurrent_requests": settings.max_requests,
                "max_input_length": min(engine.max_length, engine.longest),
                "max_batch_tokens": engine.batch_tokens,
                "max_batch_requests": None,
                "max_client_batch_size": settings.max_texts,
                "auto_truncate": False,
                "tokenization_workers": 2,
                "version": __version__,
                "sha": None,
                "docker_label": None,
                "dimension": engine.dimension,
                "max_request_tokens": settings.max_request_tokens,
            }
        )

    async def health(self, request: Request) -> Response:
        """GET /health."""
        if not self.engine.alive:
            failure = ServiceError(503, "unhealthy", "the service is ending, or a thread of it has ended")
            return failed(failure, request.url.path)
        return JSONResponse({"status": "ok"})

    async def metrics(self, _: Request) -> Response:
        """GET /metrics."""
        return Response(self._metrics.page(), headers={"Content-Type": TEXT_FORMAT})

    async def openapi(self, _: Request) -> Response:
        """GET /openapi.json."""
        return Response(self._document, media_type="application/json")

    async def page(self, _: Request) -> Response:
        """GET /."""
        return Response(self._page, media_type="text/html", headers=self._page_headers)

    async def _compute(
        self, request: Request, prepared: Prepared, start: Callable[..., Work], normalize: bool
    ) -> Work:
        """Have vectors made, unless the client leaves meanwhile."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(done.set)

        work = start(prepared, normalize, tell)
        waits = [asyncio.ensure_future(done.wait()), asyncio.ensure_future(_left_early(request))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            if not done.is_set() or work.error is not None:
                self.engine.cancel(work)
        if not done.is_set():
            raise ClientLeftError
        if work.error is not None:
            failure = of_model(work.error)
            if failure.status == 500:
                report(work.error)
            raise failure
        return work

    async def _read(self, request: Request, function: Callable[[bytes], Result]) -> Result:
        """What a function makes of a request's body.

        :raises ServiceError: 408, 413, 415, 429, and what the function raises.
        """
        pieces: list[bytes] = []
        try:
            await self._body(request, pieces)
            body = b"".join(pieces)
            return await self._run(len(body) <= INLINE_BYTES, lambda: function(body))
        finally:
            self._held -= sum(map(len, pieces))

    async def _run(self, inline: bool, function: Callable[[], Result]) -> Result:
        """Call a function here, or in a thread where it would hold up others."""
        if inline:
            return function()
        return await asyncio.get_running_loop().run_in_executor(self.threads, function)

    async def _body(self, request: Request, pieces: list[bytes]) -> None:
        """Read a body.

        :param pieces: where it goes, whatever happens.
        :raises ServiceError: 408, 413, 415 or 429.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        most = self._settings.max_body_bytes
        declared = request.headers.get("content-length", "")
        failure = None
        if kind != "application/json":
            failure = ServiceError(415, "unsupported_media_type", "Content-Type: application/json wanted")
        elif request.headers.get("content-encoding", "identity").lower() != "identity":
            failure = ServiceError(
                415, "unsupported_media_type", "Content-Encoding: an uncompressed body wanted"
            )
        elif declared.isdecimal() and int(declared) > most:
            failure = self._too_large()
        size = 0
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                if failure is None:
                    async for piece in request.stream():
                        size += len(piece)
                        if size > most:
                            failure = self._too_large()
                        elif self._held + len(piece) > HELD_BODIES * most:
                            message = "too many large requests are being read: try again in a second"
                            failure = ServiceError(429, "overloaded", message, retry_after=1)
                        if failure is not None:
                            break
                        self._held += len(piece)
                        pieces.append(piece)
                if failure is not None:
                    await drain(request.receive)
        except TimeoutError:
            seconds = self._settings.body_seconds
            failure = ServiceError(408, "body_timeout", f"the body took longer than {seconds:g} s to arrive")
        except ClientDisconnect:
            raise ClientLeftError from None
        if failure is not None:
            raise failure

    def _too_large(self) -> ServiceError:
        most = self._settings.max_body_bytes
        return ServiceError(
            413,
            "request_too_large",
            f"the body has more than {most:,} bytes: send fewer texts in one request",
        )

    def _dimensions(self, wanted: int | None) -> int:
        try:
            return check_dimensions(self.engine.manifest, wanted)
        except InputError as error:
            raise ServiceError(422, "invalid_dimensions", str(error), param="dimensions") from None


def page_headers(page: str) -> dict[str, str]:
    """What a browser may do for the page: run its own script and style, and call this service.

    :param page: HTML with one script and one style element.
    """

    def source(tag: str) -> str:
        inside = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"

    policy = {
        "default-src": "'none'",
        "script-src": source("script"),
        "style-src": source("style"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


async def _left_early(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _failure(request: Request, failure: ServiceError) -> Response:
    return failed(failure, request.url.path)


async def _unforeseen(request: Request, error: Exception) -> Response:
    return failed(of_model(error), request.url.path)  # Starlette raises it again, for front.py to report


async def _left(_: Request, __: ClientLeftError) -> Callable[..., Awaitable[None]]:
    async def nothing(*_: Any) -> None:
        """An answer to nobody."""

    return nothing


async def _no_route(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405:
        failure = ServiceError(
            405, "method_not_allowed", f"not for this path: {error.headers['Allow']} wanted"
        )
    else:
        failure = ServiceError(404, "not_found", "no such path: GET /openapi.json lists them")
    response = failed(failure, request.url.path)
    response.headers.update(error.headers or {})
    return response
