"""Requests for vectors in text-embeddings-inference's form: /embed, /embed_all, /similarity, /vertex."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime import pooling

from . import budget, responses
from .context import Answer
from .errors import ServiceError, dump, invalid, shown
from .fields import Field, RequestType, boolean, choice, ignored, kind, read, refused
from .inputs import check_total, inputs_field, tokens_of
from .prompts import prompt_of
from .vectors import (
    NORMALIZED,
    PROMPT_NAME,
    TRUNCATE,
    check_response_size,
    check_task,
    computation,
    dimensions_field,
    dimensions_of,
    normalized,
    prompt_names,
    truncate_field,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from runtime.model import Model
    from runtime.prompts import Prompt

    from .context import Computation, Context, Limits
    from .fields import Values
    from .inputs import TokenizedTexts

DIRECTIONS = ("right", "left", "Right", "Left")

_TRUNCATION = (
    truncate_field(),
    choice(
        "truncation_direction",
        DIRECTIONS,
        "Which end truncate cuts: left the beginning, right the end",
        default="right",
    ),
)
_OTHERS = (
    PROMPT_NAME,
    refused("parameters", "their place is beside inputs", ({},)),
    ignored("options", "Of Hugging Face's hosted service: ignored"),
)

EMBED_REQUEST = RequestType(
    "EmbedRequest",
    (
        inputs_field("inputs"),
        boolean("normalize", NORMALIZED),
        *_TRUNCATION,
        dimensions_field(),
        *_OTHERS,
    ),
    {"inputs": "How is the weather today?"},
)

EMBED_ALL_REQUEST = RequestType(
    "EmbedAllRequest",
    (inputs_field("inputs"), *_TRUNCATION, *_OTHERS),
    {"inputs": "How is the weather today?"},
)


def _parameters_schema(limits: Limits) -> dict[str, Any]:
    own = {
        "truncate": {"enum": list(TRUNCATE)},
        "truncation_direction": {"enum": list(DIRECTIONS)},
        "prompt_name": prompt_names(limits),
    }
    nullable = {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in own.items()}
    return {"type": "object", "properties": nullable, "additionalProperties": False}


SIMILARITY_REQUEST = RequestType(
    "SimilarityRequest",
    (
        Field(
            "inputs",
            lambda value, *_: _sentences(value),
            {
                "type": "object",
                "properties": {
                    "source_sentence": {"type": "string"},
                    "sentences": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                },
                "required": ["source_sentence", "sentences"],
                "additionalProperties": False,
            },
            "A text and the texts to compare it with",
            required=True,
        ),
        Field(
            "parameters",
            lambda value, *_: _parameters(value),
            _parameters_schema,
            "truncate, truncation_direction and prompt_name, as /embed has them",
        ),
    ),
    {"inputs": {"source_sentence": "How is the weather?", "sentences": ["It rains.", "Bake the bread."]}},
)

INSTANCES_REQUEST = RequestType(
    "VertexRequest",
    (
        Field(
            "instances",
            lambda value, *_: _instances(value),
            {"type": "array", "minItems": 1},
            "Requests as /embed takes them",
            required=True,
        ),
        ignored("parameters"),
    ),
    {"instances": [{"inputs": "How is the weather today?"}]},
)


def embed(document: object, context: Context) -> Answer:
    """POST /embed, of text-embeddings-inference."""
    values = read(document, EMBED_REQUEST, context.limits)
    return Answer(_embed(values, context), values.headers())


def embed_all(document: object, context: Context) -> Answer:
    """POST /embed_all, of text-embeddings-inference: the vector of each token, as Embedder.encode_tokens gives them."""
    check_task(context)
    values = read(document, EMBED_ALL_REQUEST, context.limits)
    prompt, tokens = _tokens(values, context)
    size = context.manifest.hidden_size
    check_response_size(sum(map(len, tokens.texts)), "float", size, context, "tokens")
    _check_token_vectors(tokens, context)
    asked = computation(tokens, False, prompt, context, responses.token_vector_lists)
    return Answer(asked._replace(reduce=_token_vectors, width=0), values.headers())


def similarity(document: object, context: Context) -> Answer:
    """POST /similarity, of text-embeddings-inference: the cosine of one text with each of others."""
    values = read(document, SIMILARITY_REQUEST, context.limits)
    parameters = values["parameters"] or {}
    inside = read({**parameters, "inputs": values["inputs"]}, EMBED_REQUEST, context.limits)
    asked = _embed(inside, context)._replace(
        normalize=True,
        respond=lambda vectors: dump([round(float(value), 7) for value in vectors[1:] @ vectors[0]]),
    )
    return Answer(asked, inside.headers())


def vertex(document: object, context: Context) -> Answer:
    """POST /vertex, of text-embeddings-inference: several requests of /embed in one."""
    values = read(document, INSTANCES_REQUEST, context.limits)
    parts = [
        _embed(read(instance, EMBED_REQUEST, context.limits), context) for instance in values["instances"]
    ]
    texts = [text for part in parts for text in part.texts]
    check_total(sum(map(len, texts)), "instances", context.limits)
    if len({(part.normalize, part.skip) for part in parts}) > 1:
        raise invalid("instances", "instances differ in normalize or prompt_name: send them in two requests")
    if len(texts) > context.limits.max_texts:
        most = context.limits.max_texts
        raise ServiceError(
            413,
            "too_many_texts",
            f"{len(texts):,} texts, more than {most:,}: split the request",
            param="instances",
        )

    def respond(vectors: NDArray[np.float32]) -> bytes:
        lists, start = [], 0
        for part in parts:
            lists.append(part.respond(vectors[start : start + len(part.texts)]))
            start += len(part.texts)
        return b'{"predictions":[%b]}' % b",".join(lists)

    truncated = sum(part.truncated for part in parts)
    held = sum(part.request_bytes for part in parts)
    whole = parts[0]._replace(texts=texts, respond=respond, truncated=truncated, request_bytes=held)
    return Answer(whole, values.headers())


def _embed(values: Values, context: Context) -> Computation:
    check_task(context)
    dimensions, normalize = dimensions_of(values, context), normalized(values["normalize"], context)
    check_response_size(len(values["inputs"]), "float", dimensions, context)
    prompt, tokens = _tokens(values, context)

    def respond(vectors: NDArray[np.float32]) -> bytes:
        return responses.vector_list(pooling.cut(vectors, dimensions, normalize))

    return computation(tokens, normalize, prompt, context, respond)


def _tokens(values: Values, context: Context) -> tuple[Prompt, TokenizedTexts]:
    prompt = prompt_of(values, context)
    cut = values["truncate"] or "no"
    left = cut == "start" or (values["truncation_direction"] or "right").lower() == "left"
    tokens = tokens_of(
        values["inputs"], "inputs", context, truncate=cut != "no", left=left, prompt=prompt.text
    )
    return prompt, tokens


def _check_token_vectors(tokens: TokenizedTexts, context: Context) -> None:
    """Refuse an answer of more token vectors than a door gives at once, or than there is memory for."""
    count, limits = sum(map(len, tokens.texts)), context.limits
    most = limits.max_length if limits.max_token_vectors is None else limits.max_token_vectors
    if count > most:
        message = f"the texts have {count:,} tokens together, and vectors of more than {most:,} are not given at once"
        raise ServiceError(413, "too_many_tokens", f"{message}: split the request", param="inputs")
    size = count * context.manifest.hidden_size * budget.VALUE_BYTES["base64"]
    if context.longest(tokens.request_bytes + size) < max(map(len, tokens.texts)):
        message = "not enough memory for so many token vectors: send shorter texts, or fewer at once"
        raise ServiceError(413, "out_of_memory", message, param="inputs")


def _token_vectors(
    _: Model, ids: NDArray[np.int32], hidden: NDArray[np.float32], __: NDArray[np.float32]
) -> NDArray[np.float32]:
    pooling.check_finite(hidden, "token", range(len(ids)))
    return hidden.copy()  # not a part of the batch's


def _sentences(value: Any) -> list[Any]:
    if not isinstance(value, dict) or set(value) != {"source_sentence", "sentences"}:
        raise invalid("inputs", "inputs: expected an object with source_sentence and sentences")
    if not isinstance(value["source_sentence"], str) or not isinstance(value["sentences"], list):
        raise invalid("inputs", "inputs: expected source_sentence to be a text and sentences a list of texts")
    if not value["sentences"]:
        raise ServiceError(
            400,
            "empty_input",
            "inputs.sentences is an empty list: expected at least one text",
            param="inputs",
        )
    for number, sentence in enumerate(value["sentences"]):
        if not isinstance(sentence, str):
            raise invalid("inputs", f"inputs.sentences[{number}] is {shown(sentence)}: expected a text")
    return [value["source_sentence"], *value["sentences"]]


def _parameters(value: Any) -> dict[str, Any]:
    known = ("truncate", "truncation_direction", "prompt_name")
    if not isinstance(value, dict):
        raise invalid(
            "parameters", f"parameters is {kind(value)}: expected an object with {', '.join(known)}"
        )
    for name in value:
        if name not in known:
            raise invalid(
                "parameters", f"parameters has the key {shown(name)}: must be one of {', '.join(known)}"
            )
    return value


def _instances(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise invalid("instances", "instances: expected a list of at least one request as /embed takes it")
    return value
