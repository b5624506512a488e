"""The OpenAPI document: what schemas.py checks, for people and tools, with this model's own numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime import __version__

if TYPE_CHECKING:
    from .engine import Engine

Schema = dict[str, Any]

DESCRIPTION = """\
Embeddings as OpenAI's, Jina's and text-embeddings-inference's APIs give them, self-hosted.

A vector depends on its text alone, not on what else is computed at the time: requests that wait together share batches.
Texts of more than {short} tokens are computed beside the others, with a lower priority and a queue of their own.

Unknown fields are refused; null means the same as a field left out. Bodies are JSON of at most {body:,} bytes.
"""

# Status -> when. Each may be the answer of any POST.
ERRORS = {
    400: "The body is not JSON",
    401: "No API key, or one that is not known",
    408: "The body did not arrive in time",
    413: "Too much: bytes, texts, tokens of a text or of all texts, or more tokens than there is memory for",
    415: "The body is not application/json, or compressed",
    422: "A field is not known or has a value that cannot be used",
    429: "The queue is full, or too many requests are being answered: try again after Retry-After seconds",
    503: "No memory to be had just now, or the service is ending",
}


def document(engine: Engine) -> Schema:
    """The document of one service.

    :param engine: the loaded model with its settings.
    :return: OpenAPI 3.1.
    """
    settings = engine.settings
    text = DESCRIPTION.format(short=engine.short_tokens, body=settings.max_body_bytes)
    security: list[Any] = [{"key": []}] if settings.keys else []
    components: Schema = {"schemas": _schemas(engine)}
    if settings.keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "jinabert-runtime",
            "version": __version__,
            "description": text,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/v1/embeddings": {
                "post": _post(
                    "embeddings",
                    "Vectors of texts, in OpenAI's and Jina's form",
                    (
                        "EmbeddingRequest",
                        {"input": ["How is the weather today?", "Bake the bread at 230 degrees."]},
                    ),
                    ("EmbeddingResponse", "The vectors, in the order of the input"),
                    {**ERRORS, 500: "The model failed, or gave NaN or infinity"},
                    security,
                )
            },
            "/embed": {
                "post": _post(
                    "embed",
                    "Vectors of texts, in text-embeddings-inference's form",
                    ("EmbedRequest", {"inputs": "How is the weather today?"}),
                    ("Vectors", "The vectors, in the order of the inputs"),
                    {**ERRORS, 424: "The model failed, or gave NaN or infinity"},
                    security,
                    tei=True,
                )
            },
            "/tokenize": {
                "post": _post(
                    "tokenize",
                    "Tokens of texts, in text-embeddings-inference's form",
                    ("TokenizeRequest", {"inputs": "How is the weather today?"}),
                    ("Tokens", "The tokens of each text"),
                    {**ERRORS, 424: "The tokenizer failed"},
                    security,
                    tei=True,
                )
            },
            "/info": {"get": _get("info", "The model and the limits", "Info", security)},
            "/health": {"get": _health()},
            "/metrics": {"get": _text("metrics", "Counts for Prometheus", "text/plain", security)},
            "/openapi.json": {"get": _get("openapi", "This document", None, [])},
            "/": {"get": _text("page", "A page that compares texts", "text/html", [])},
        },
        "components": components,
    }


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(name: str) -> Schema:
    return {"application/json": {"schema": _reference(name)}}


def _error(description: str, tei: bool, status: int) -> Schema:
    response: Schema = {"description": description, "content": _content("TeiError" if tei else "Error")}
    if status in (429, 503):
        schema = {"type": "integer", "minimum": 1}
        response["headers"] = {"Retry-After": {"description": "Seconds", "required": True, "schema": schema}}
    if status == 401:
        response["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}}
    return response


def _post(
    name: str,
    summary: str,
    request: tuple[str, Schema],
    answer: tuple[str, str],
    errors: dict[int, str],
    security: list[Any],
    *,
    tei: bool = False,
) -> Schema:
    schema, example = request
    content = {"application/json": {"schema": _reference(schema), "example": example}}
    responses: Schema = {"200": {"description": answer[1], "content": _content(answer[0])}}
    for status, description in sorted(errors.items()):
        if status != 401 or security:
            responses[str(status)] = _error(description, tei, status)
    return {
        "operationId": name,
        "summary": summary,
        "security": security,
        "requestBody": {"required": True, "content": content},
        "responses": responses,
    }


def _get(name: str, summary: str, schema: str | None, security: list[Any]) -> Schema:
    content = _content(schema) if schema else {"application/json": {"schema": {"type": "object"}}}
    responses: Schema = {"200": {"description": summary, "content": content}}
    if security:
        responses["401"] = _error(ERRORS[401], schema == "Info", 401)
    return {"operationId": name, "summary": summary, "security": security, "responses": responses}


def _text(name: str, summary: str, kind: str, security: list[Any]) -> Schema:
    operation = _get(name, summary, None, security)
    operation["responses"]["200"]["content"] = {kind: {"schema": {"type": "string"}}}
    return operation


def _health() -> Schema:
    operation = _get("health", "Whether the service takes work", None, [])
    status = {"type": "object", "required": ["status"], "properties": {"status": {"const": "ok"}}}
    operation["responses"]["200"]["content"]["application/json"]["schema"] = status
    operation["responses"]["503"] = {
        "description": "It ends, or a thread of it has ended",
        "content": _content("TeiError"),
    }
    return operation


def _schemas(engine: Engine) -> Schema:
    dimension, most = engine.dimension, engine.settings.max_texts
    truncatable = engine.manifest.truncatable
    length = f"{engine.max_length:,} tokens, [CLS] and [SEP] included"
    ids: Schema = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": len(engine.tokenizer) - 1},
        "description": "Token ids of this model, as /tokenize gives them. [CLS] and [SEP] are added where they lack.",
    }
    text: Schema = {"type": "string"}
    inputs: Schema = {
        "description": "A text, a text's token ids, or a list of either",
        "anyOf": [
            text,
            {**ids, "minItems": 1},
            {"type": "array", "items": {"anyOf": [text, ids]}, "minItems": 1, "maxItems": most},
        ],
    }
    vector: Schema = {
        "type": "array",
        "items": {"type": "number"},
        "minItems": 1 if truncatable else dimension,
        "maxItems": dimension,
    }
    bits = (dimension + 7) // 8
    least_bits = 1 if truncatable else bits
    count: Schema = {"type": "integer", "minimum": 0}
    truncate = _optional(
        {"type": "boolean"},
        f"What to do with a text of more than {length}: true cuts its end, false answers 413",
        default=False,
    )
    if truncatable:
        dimensions = _optional(
            {"type": "integer", "minimum": 1, "maximum": dimension},
            "Keep so many numbers of each vector, the first, which are the most important",
        )
    else:
        dimensions = _optional({"const": dimension}, "This model's: its vectors cannot be cut shorter")
    return {
        "EmbeddingRequest": _object(
            {
                "input": inputs,
                "model": _optional({"type": "string"}, "Ignored: there is one model here, see the answer"),
                "encoding_format": _optional(
                    {"enum": ["float", "base64"]}, "base64 is of little-endian float32", default="float"
                ),
                "embedding_type": _optional(
                    {"enum": ["float", "base64", "binary", "ubinary"]},
                    "Jina's name of encoding_format; wins when given. binary and ubinary are the signs, eight to a "
                    "byte (the first in its highest bit), as int8 (the byte less 128) and uint8",
                ),
                "dimensions": dimensions,
                "normalized": _optional({"type": "boolean"}, "Give vectors of length 1", default=True),
                "truncate": truncate,
                "late_chunking": _optional(
                    {"type": "boolean"},
                    "Read the texts as one, in their order, and give each the mean of its own tokens, which so know "
                    "the others (a text without a token: the vector of an empty text). Together they may have more "
                    "tokens than a text may: they go through overlapping windows, and truncate has nothing to do",
                    default=False,
                ),
                "user": _optional({"type": "string"}, "Ignored"),
                "task": {"type": "null", "description": "This model has no adapters for tasks"},
            },
            ["input"],
        ),
        "EmbeddingResponse": _object(
            {
                "object": {"const": "list"},
                "data": {
                    "type": "array",
                    "minItems": 1,
                    "items": _object(
                        {
                            "object": {"const": "embedding"},
                            "index": count,
                            "embedding": {
                                "anyOf": [
                                    vector,
                                    {"type": "string", "contentEncoding": "base64"},
                                    {
                                        "type": "array",
                                        "items": {"type": "integer", "minimum": -128, "maximum": 255},
                                        "minItems": least_bits,
                                        "maxItems": bits,
                                    },
                                ]
                            },
                        }
                    ),
                },
                "model": {"type": "string"},
                "usage": _object(
                    {
                        "prompt_tokens": {**count, "description": "Computed, [CLS] and [SEP] included"},
                        "total_tokens": {**count, "description": "The same"},
                        "truncated_texts": {**count, "description": "How many texts were cut"},
                    }
                ),
            }
        ),
        "EmbedRequest": _object(
            {
                "inputs": inputs,
                "normalize": _optional({"type": "boolean"}, "Give vectors of length 1", default=True),
                "truncate": truncate,
                "truncation_direction": _optional(
                    {"enum": ["left", "right", "Left", "Right"]},
                    "Which end truncate cuts: left the beginning, right the end",
                    default="right",
                ),
                "dimensions": dimensions,
                "prompt_name": {"type": "null", "description": "This model has no prompts"},
            },
            ["inputs"],
        ),
        "Vectors": {"type": "array", "items": vector, "minItems": 1},
        "TokenizeRequest": _object(
            {
                "inputs": {
                    "anyOf": [text, {"type": "array", "items": text, "minItems": 1, "maxItems": most}]
                },
                "add_special_tokens": _optional(
                    {"type": "boolean"}, "Give [CLS] and [SEP] too", default=True
                ),
                "prompt_name": {"type": "null", "description": "This model has no prompts"},
            },
            ["inputs"],
        ),
        "Tokens": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "array",
                "items": _object(
                    {
                        "id": count,
                        "text": {**text, "description": "As it stands in the text"},
                        "special": {"type": "boolean", "description": "Added: [CLS] or [SEP]"},
                        "start": {**_nullable(count), "description": "In the text, in characters"},
                        "stop": _nullable(count),
                    }
                ),
            },
        },
        "Info": _info(count),
        "Error": _object(
            {
                "error": _object(
                    {
                        "message": {"type": "string"},
                        "type": {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
                        "param": _nullable({"type": "string"}),
                        "code": {"type": "string"},
                    }
                )
            }
        ),
        "TeiError": _object(
            {
                "error": {"type": "string"},
                "error_type": {"enum": ["Validation", "Overloaded", "Backend", "Unhealthy"]},
            }
        ),
    }


def _info(count: Schema) -> Schema:
    pooling = _object({"embedding": _object({"pooling": {"const": "mean"}})})
    return _object(
        {
            "model_id": {"type": "string"},
            "model_sha": {"type": "null"},
            "model_dtype": {"type": "string"},
            "model_type": pooling,
            "max_concurrent_requests": count,
            "max_input_length": {**count, "description": "Tokens of a text that are computed at most"},
            "max_batch_tokens": count,
            "max_batch_requests": {"type": "null"},
            "max_client_batch_size": {**count, "description": "Texts of a request"},
            "auto_truncate": {"const": False},
            "tokenization_workers": count,
            "version": {"type": "string"},
            "sha": {"type": "null"},
            "docker_label": {"type": "null"},
            "dimension": {**count, "description": "Numbers of a vector; not of text-embeddings-inference"},
            "max_request_tokens": {**count, "description": "Of a request's texts together; not of it either"},
        }
    )


def _object(properties: Schema, required: list[str] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _optional(schema: Schema, description: str, **more: Any) -> Schema:
    return {**_nullable(schema), "description": description, **more}
