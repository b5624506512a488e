"""The OpenAPI document, made from the request types, the response types and the routes of runtime/api/."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from runtime import __version__
from runtime.api import fields
from runtime.api.errors import OpenAIError, TeiError
from runtime.api.routes import ROUTES

if TYPE_CHECKING:
    from runtime.api.routes import Route

    from .engine import Engine

Schema = dict[str, Any]

DESCRIPTION = """\
Embeddings as OpenAI's, Jina's and text-embeddings-inference's APIs give them, self-hosted.

A vector depends on its text alone, not on what else is computed at the time: requests that wait together share batches.
Texts of more than {short} tokens are computed beside the others, with a lower priority and a queue of their own.

Bodies are JSON of at most {body:,} bytes, {encodings} or not compressed. Unknown fields are refused; null means the
same as a field left out; fields that change nothing are named in the header {ignored}.

Also answered: {aliases}.
"""
OPENAI_ERRORS = {
    400: "A field is not known, has a value that cannot be used, or a text is too long; or the body is not JSON",
    401: "No API key, or one that is not known",
    408: "The body did not arrive in time",
    413: "Too much: bytes, texts, tokens of all texts, or more tokens than there is memory for",
    415: "The body is not application/json, or compressed in a way that is not known",
    429: "The queue is full, or too many requests are being answered: try again after Retry-After seconds",
    500: "The model failed, or gave NaN or infinity",
    503: "No memory to be had just now, or the service is ending",
}
TEI_ERRORS = {
    **{status: text for status, text in OPENAI_ERRORS.items() if status != 500},
    400: "No texts, or the body is not JSON",
    413: "Too much: bytes, texts, tokens of a text or of all texts, or more tokens than there is memory for",
    422: "A field is not known or has a value that cannot be used",
    424: "The model failed, or gave NaN or infinity",
}
SUCCESS = {"POST": "What was asked for", "GET": "What it says"}


def document(engine: Engine) -> Schema:
    """Describe one service.

    :param engine: the loaded model with its settings.
    :return: OpenAPI 3.1.
    """
    limits, settings = engine.context.limits, engine.settings
    documented = [route for route in ROUTES if route.same_as is None or route.path == "/"]
    text = DESCRIPTION.format(
        short=engine.short_tokens,
        body=limits.max_body_bytes,
        encodings="gzip, deflate, zstd",
        ignored=fields.IGNORED_HEADER,
        aliases=", ".join(f"{route.method} {route.path}" for route in ROUTES if route.same_as),
    )
    types = [OpenAIError, TeiError, *(route.response for route in documented if route.response is not None)]
    own, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    answers = dict(zip(map(id, types), own, strict=True))
    keyed = bool(settings.keys)
    paths: Schema = {}
    for route in documented:
        answer = answers[id(route.response)] if route.response is not None else {"type": "object"}
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, answer, keyed)
    for path, name, summary, kind in (
        ("/metrics", "metrics", "Counts for Prometheus", "text/plain"),
        ("/openapi.json", "openapi", "This document", "application/json"),
        ("/docs", "docs", "This document as a page", "text/html"),
        ("/", "page", "A page that compares texts", "text/html"),
    ):
        public = path != "/metrics"
        paths.setdefault(path, {})["get"] = _read(name, summary, {kind: {"schema": {}}}, keyed and not public)
    components |= {
        route.request.name: fields.schema(route.request, limits) for route in documented if route.request
    }
    found: Schema = {"schemas": components}
    if keyed:
        found["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "jinabert-runtime",
            "version": __version__,
            "description": text,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": found,
    }


def _operation(route: Route, answer: Schema, keyed: bool) -> Schema:
    content = {route.media_type: {"schema": answer}}
    keyed = keyed and not route.public
    if route.request is None:
        operation = _read(route.operation, route.summary, content, keyed, route.tei)
        if "{id}" in route.path:
            operation["parameters"] = [
                {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            ]
            operation["responses"]["404"] = _error("There is no such model", 404, route.tei)
        if route.operation == "health":
            operation["responses"]["503"] = _error("It ends, or a thread of it has ended", 503, True)
        return operation
    responses: Schema = {"200": {"description": SUCCESS["POST"], "content": content}}
    responses["200"]["headers"] = {
        fields.IGNORED_HEADER: {"description": "Fields that changed nothing", "schema": {"type": "string"}}
    }
    for status, description in sorted((TEI_ERRORS if route.tei else OPENAI_ERRORS).items()):
        if status != 401 or keyed:
            responses[str(status)] = _error(description, status, route.tei)
    schema = {"$ref": f"#/components/schemas/{route.request.name}"}
    return {
        "operationId": route.operation,
        "summary": route.summary,
        "security": [{"key": []}] if keyed else [],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": route.request.example}},
        },
        "responses": responses,
    }


def _read(name: str, summary: str, content: Schema, keyed: bool, tei: bool = False) -> Schema:
    responses: Schema = {"200": {"description": summary, "content": content}}
    if keyed:
        responses["401"] = _error(OPENAI_ERRORS[401], 401, tei)
    security: list[Any] = [{"key": []}] if keyed else []
    return {"operationId": name, "summary": summary, "security": security, "responses": responses}


def _error(description: str, status: int, tei: bool) -> Schema:
    schema = {"$ref": f"#/components/schemas/{'TeiError' if tei else 'OpenAIError'}"}
    response: Schema = {"description": description, "content": {"application/json": {"schema": schema}}}
    if status in (429, 503):
        seconds = {"type": "integer", "minimum": 1}
        response["headers"] = {"Retry-After": {"description": "Seconds", "required": True, "schema": seconds}}
    if status == 401:
        response["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}}
    return response
