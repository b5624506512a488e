"""Requests as msgspec decodes and checks them; openapi.py says the same to people."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from runtime.api.errors import ServiceError

# A text, texts, token ids, or several texts' token ids; text-embeddings-inference allows texts and ids side by side.
# JSON does not tell 7.0 from 7.
Input = str | list[str | int | float | list[int | float]]
Inputs = list[str | list[int | float]]


class EmbeddingRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/embeddings. null means the same as a field left out."""

    input: Input
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    embedding_type: Literal["float", "base64", "binary", "ubinary"] | None = None
    dimensions: int | None = None
    normalized: bool | None = None
    truncate: bool | None = None
    late_chunking: bool | None = None
    user: str | None = None
    task: None = None


class EmbedRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /embed."""

    inputs: Input
    normalize: bool | None = None
    truncate: bool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    dimensions: int | None = None
    prompt_name: None = None


class TokenizeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /tokenize."""

    inputs: str | list[str]
    add_special_tokens: bool | None = None
    prompt_name: None = None


Request = TypeVar("Request", EmbeddingRequest, EmbedRequest, TokenizeRequest)

REASONS = {
    "task": "this model has no adapters for tasks",
    "prompt_name": "this model has no prompts",
}


def decode(body: bytes, kind: type[Request]) -> Request:
    """A request from its JSON.

    :param body: UTF-8.
    :param kind: one of the above.
    :raises ServiceError: 400 for what is not JSON, 422 for what is not such a request.
    """
    try:
        request: Request = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        reason = str(error)
        # "Expected `bool`, got `str` - at `$.truncate`"; "Object contains unknown field `x`", with the client's x.
        place = reason.rpartition("`$.")[2].partition("`")[0] if "`$." in reason else ""
        field = place.partition("[")[0]
        if field in REASONS:
            reason = f"{field}: {REASONS[field]}; leave it out"
        raise ServiceError(422, "invalid_request", _short(reason), param=field or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ServiceError(400, "invalid_json", f"the body is not JSON: {_short(str(error))}") from None
    return request


def inputs_of(given: Any, name: str, most: int) -> Inputs:
    """The texts of a request: each a str or its token ids.

    :param given: what the field holds, of the type Input.
    :param name: of the field.
    :param most: texts allowed.
    :raises ServiceError: 413 for too many, 422 for none, or for numbers beside texts.
    """
    if isinstance(given, str):
        return [given]
    if not given:
        raise ServiceError(
            422, "empty_input", f"{name} is an empty list: at least one text wanted", param=name
        )
    numbers = sum(isinstance(item, (int, float)) for item in given)
    if numbers == len(given):
        return [given]
    if numbers:
        raise ServiceError(
            422,
            "invalid_input",
            f"{name} mixes numbers with texts: wanted are texts, or token ids alone",
            param=name,
        )
    if len(given) > most:
        raise ServiceError(
            413, "too_many_texts", f"{len(given):,} texts, more than {most:,}: split the request", param=name
        )
    inputs: Inputs = given
    return inputs


def _short(reason: str) -> str:
    reason = " ".join(reason.split())
    return reason if len(reason) <= 200 else reason[:197] + "..."
