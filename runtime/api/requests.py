"""The request types and what each asks for: a request's JSON in, what has to be computed out.

A further task is one more RequestType, a function that prepares it, and its routes (routes.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from runtime import pooling
from runtime.chunking import joined_length
from runtime.errors import InputError
from runtime.manifest import check_dimensions
from runtime.prompts import skipped_tokens

from . import budget, responses
from .context import Answer, Computation
from .encoding import EMBEDDING_TYPES
from .errors import ServiceError, dump, invalid, shown
from .fields import (
    Field,
    RequestType,
    as_integer,
    boolean,
    choice,
    ignored,
    integer,
    kind,
    read,
    refused,
    word,
)
from .inputs import MIN_TOKENS, check_total, ids_field, inputs_field, texts_field, tokens_of
from .prompts import DOCUMENTS, QUERIES, prompt_of
from .rerank import rerank

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from runtime.prompts import Prompt

    from .context import Context, Limits
    from .fields import Values
    from .inputs import TokenizedTexts

TRUNCATE: dict[bool | str, str] = {  # words as Cohere and NVIDIA have them
    False: "no", True: "end", "NONE": "no", "END": "end", "START": "start",
}  # fmt: skip
NORMALIZED = "Give vectors of length 1; by default what the model folder says, true for most"
DIRECTIONS = ("right", "left", "Right", "Left")


def _dimensions() -> Field:
    def check(value: Any, given: str, limits: Limits) -> Any:
        number = as_integer(value)
        return value if number is None else number  # whether the model can be cut to it: _dimensions_of

    def own(limits: Limits) -> dict[str, Any]:
        least = 1 if limits.truncatable else limits.dimension
        return {"type": "integer", "minimum": least, "maximum": limits.dimension}

    description = (
        "Keep so many numbers of each vector, the first; fewer than all where the model folder allows it"
    )
    return Field("dimensions", check, own, description, aliases={"output_dimension": None})


def _dimensions_of(values: Values, context: Context) -> int:
    try:
        return check_dimensions(context.manifest, values["dimensions"])
    except InputError as error:
        raise invalid("dimensions", str(error)) from None


def _truncate() -> Field:
    def check(value: Any, given: str, _: Limits) -> str:
        if isinstance(value, (bool, str)) and value in TRUNCATE:
            return TRUNCATE[value]
        raise invalid("truncate", f"{given} is {shown(value)}: expected true or false (or NONE, END, START)")

    return Field(
        "truncate",
        check,
        {"enum": list(TRUNCATE)},
        "Of a text that is too long, true or END cuts the end, START the beginning; false or NONE refuses it, which is "
        "the default unless max_length is given",
        aliases={"truncation": None, "overflow": {"truncate": True, "error": False}},
    )


def _lengths(limits: Limits) -> tuple[int, int]:
    return MIN_TOKENS, limits.max_length


def _open_lengths(_: Limits) -> tuple[int, int]:
    return MIN_TOKENS, (1 << 31) - 1


def _prompt_names(limits: Limits) -> dict[str, Any]:
    return {"enum": list(limits.prompts)} if limits.prompts else {"type": "null"}


def _input_types(limits: Limits) -> dict[str, Any]:
    names = dict.fromkeys([*limits.prompts, *QUERIES, *DOCUMENTS])
    return {"enum": list(names)} if limits.prompts else {"type": "string"}


_PROMPT_NAME = word(
    "prompt_name", "The prompt that stands before each text, of those that the model has", _prompt_names
)

EMBEDDING_REQUEST = RequestType(
    "EmbeddingRequest",
    (
        inputs_field("input", aliases={"texts": None}),
        word("model", "There is one model here: the answer names it"),
        choice("encoding_format", ("float", "base64"), "base64 is of little-endian float32", default="float"),
        choice(
            "embedding_type",
            EMBEDDING_TYPES,
            "Jina's name of encoding_format; wins when given. binary and ubinary are the signs, eight to a byte (the "
            "first in its highest bit), as int8 (the byte less 128) and uint8",
            aliases={"encoding_type": None},
        ),
        _dimensions(),
        boolean("normalized", NORMALIZED, aliases={"normalize": None}),
        _truncate(),
        integer("max_length", "Cut texts to so many tokens, special tokens included", _lengths),
        integer(
            "truncate_prompt_tokens",
            "vLLM's: cut texts to so many tokens; -1 for the most allowed",
            _open_lengths,
            unlimited=-1,
        ),
        boolean(
            "late_chunking",
            "Read the texts as one, in their order, and give each the mean of its own tokens, which so know the others "
            "(a text without a token: the vector of an empty text). Together they may have more tokens than a text "
            "may: they go through overlapping windows, and truncate has nothing to do",
            default=False,
        ),
        word(
            "input_type",
            "What the texts are for: chooses one of the model's prompts; ignored where it has none",
            _input_types,
        ),
        _PROMPT_NAME,
        refused("task", "this model has no adapters for tasks"),
        refused("add_special_tokens", "vectors are made with special tokens", (True,)),
        refused("return_multivector", "a vector a text is given", (False,)),
        refused("return_token_embeddings", "a vector a text is given", (False,)),
        refused("modality", "only texts are embedded here", ("text",)),
        refused("stream", "an answer is sent as a whole", (False,)),
        refused("output_dtype", "use embedding_type for other forms", ("float",)),
        refused("embed_dtype", "numbers are float32", ("float32",)),
        refused("endianness", "base64 is of little-endian float32", ("little", "native")),
        refused("embedding_types", "use embedding_type for other forms", (["float"],)),
        ignored("user"),
        ignored("metadata"),
        ignored("priority"),
        ignored("request_id"),
        ignored("safety_identifier"),
        ignored("service_tier"),
        ignored("store"),
        ignored("mm_processor_kwargs"),
        ignored("prompt_cache_key"),
        ignored("cache_salt"),
        ignored("keep_alive"),
        ignored("timeout"),
    ),
    {"input": ["hello", "world"]},
)  # fmt: skip

EMBED_REQUEST = RequestType(
    "EmbedRequest",
    (
        inputs_field("inputs"),
        boolean(
            "normalize", "Give vectors of length 1; by default what the model folder says, true for most"
        ),
        _truncate(),
        choice(
            "truncation_direction",
            DIRECTIONS,
            "Which end truncate cuts: left the beginning, right the end",
            default="right",
        ),
        _dimensions(),
        _PROMPT_NAME,
        refused("parameters", "their place is beside inputs", ({},)),
        ignored("options", "Of Hugging Face's hosted service: ignored"),
    ),
    {"inputs": "How is the weather today?"},
)


def _parameters_schema(limits: Limits) -> dict[str, Any]:
    own = {
        "truncate": {"enum": list(TRUNCATE)},
        "truncation_direction": {"enum": list(DIRECTIONS)},
        "prompt_name": _prompt_names(limits),
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

TOKENIZE_REQUEST = RequestType(
    "TokenizeRequest",
    (
        texts_field("inputs"),
        boolean("add_special_tokens", "List the special tokens too", default=True),
        _PROMPT_NAME,
    ),
    {"inputs": "How is the weather today?"},
)

DECODE_REQUEST = RequestType(
    "DecodeRequest",
    (
        ids_field("ids"),
        boolean("skip_special_tokens", "Leave out the special tokens", default=True),
    ),
    {"ids": [[0]]},
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


def embeddings(document: object, context: Context) -> Answer:
    """POST /v1/embeddings, of OpenAI and Jina."""
    _check_task(context)
    values = read(document, EMBEDDING_REQUEST, context.limits)
    if values["model"] not in (None, context.manifest.name):
        values.ignored = ("model", *values.ignored)
    prompt = prompt_of(values, context)
    encoding = values["embedding_type"] or values["encoding_format"] or "float"
    late, dimensions = bool(values["late_chunking"]), _dimensions_of(values, context)
    _check_response_size(len(values["input"]), encoding, dimensions, context)
    lengths = [values[name] for name in ("max_length", "truncate_prompt_tokens") if values[name]]
    cut = values["truncate"] or ("end" if lengths else "no")  # who gives a length wants texts cut to it
    tokens = tokens_of(
        values["input"],
        "input",
        context,
        truncate=cut != "no",
        left=cut == "start",
        parts=late,
        max_length=min(lengths, default=None),
        prompt="" if late else prompt.text,
        value_bytes=budget.VALUE_BYTES["float" if encoding == "float" else "base64"],
    )
    texts, before = tokens.texts, 0
    if late and prompt.text:  # a part of its own, before the others, whose vector nobody gets
        texts, before = [np.array(context.tokenizer.encode(prompt.text), np.int32), *texts], 1
    count = joined_length(context.tokenizer, texts) if late else sum(map(len, texts))

    normalize = _normalize(values["normalized"], context)

    def respond(vectors: NDArray[np.float32]) -> bytes:
        vectors = pooling.cut(vectors[before:], dimensions, normalize)
        return responses.embedding_list(vectors, encoding, context.manifest.name, count, tokens.truncated)

    return _answer(
        values,
        _computation(tokens, normalize, prompt, context, respond)._replace(texts=texts, late=late),
    )


def embed(document: object, context: Context) -> Answer:
    """POST /embed, of text-embeddings-inference."""
    values = read(document, EMBED_REQUEST, context.limits)
    return _answer(values, _embed(values, context))


def similarity(document: object, context: Context) -> Answer:
    """POST /similarity, of text-embeddings-inference: the cosine of one text with each of others."""
    values = read(document, SIMILARITY_REQUEST, context.limits)
    parameters = values["parameters"] or {}
    asked = {**parameters, "inputs": values["inputs"]}
    inside = read(asked, EMBED_REQUEST, context.limits)
    computation = _embed(inside, context)
    return _answer(
        inside,
        computation._replace(
            normalize=True,
            respond=lambda vectors: dump([round(float(value), 7) for value in vectors[1:] @ vectors[0]]),
        ),
    )


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
    return _answer(values, whole)


def tokenize(document: object, context: Context) -> Answer:
    """POST /tokenize, of text-embeddings-inference."""
    values = read(document, TOKENIZE_REQUEST, context.limits)
    prompt = prompt_of(values, context)
    lists, total = [], 0
    for text in values["inputs"]:
        text = prompt.text + text
        total += context.tokenizer.count(text)
        check_total(total, "inputs", context.limits)
        lists.append(responses.token_list(text, context.tokenizer, values["add_special_tokens"] is not False))
    return _answer(values, dump(lists))


def decode(document: object, context: Context) -> Answer:
    """POST /decode, of text-embeddings-inference."""
    values = read(document, DECODE_REQUEST, context.limits)
    special = values["skip_special_tokens"] is False
    check_total(sum(map(len, values["ids"])), "ids", context.limits)
    try:
        return _answer(
            values, dump([context.tokenizer.decode(ids, special=special) for ids in values["ids"]])
        )
    except NotImplementedError:
        raise ServiceError(
            500, "not_of_this_model", "the decoder of this model's tokenizer is not implemented"
        ) from None


def default(document: object, context: Context) -> Answer:
    """POST / and /invocations: as /v1/embeddings; where there is inputs instead of input, as /embed or /similarity."""
    inputs = document.get("inputs") if isinstance(document, dict) else None
    tei = inputs is not None
    prepare = embed if tei else embeddings
    if isinstance(inputs, dict) and "source_sentence" in inputs:
        prepare = similarity
    try:
        return prepare(document, context)
    except ServiceError as error:
        error.in_tei_form = tei
        raise


def message(document: object, context: Context) -> Answer:
    """A request that has no path: of a direct invocation or of a queue. It is answered with an object."""
    if isinstance(document, dict) and "documents" in document:
        return rerank(document, context)
    return embeddings(document, context)


def _check_task(context: Context) -> None:
    if context.manifest.task != "embed":
        raise ServiceError(
            400,
            "not_of_this_model",
            f"{context.manifest.name} is a cross-encoder, which scores pairs and gives no vectors: POST /v1/rerank",
        )


def _embed(values: Values, context: Context) -> Computation:
    _check_task(context)
    prompt = prompt_of(values, context)
    dimensions, normalize = _dimensions_of(values, context), _normalize(values["normalize"], context)
    _check_response_size(len(values["inputs"]), "float", dimensions, context)
    cut = values["truncate"] or "no"
    left = cut == "start" or (values["truncation_direction"] or "right").lower() == "left"
    tokens = tokens_of(
        values["inputs"], "inputs", context, truncate=cut != "no", left=left, prompt=prompt.text
    )

    def respond(vectors: NDArray[np.float32]) -> bytes:
        return responses.vector_list(pooling.cut(vectors, dimensions, normalize))

    return _computation(tokens, normalize, prompt, context, respond)


def _normalize(given: bool | None, context: Context) -> bool:
    return context.manifest.normalize if given is None else given


def _computation(
    tokens: TokenizedTexts,
    normalize: bool,
    prompt: Prompt,
    context: Context,
    respond: Callable[[NDArray[np.float32]], bytes],
) -> Computation:
    return Computation(
        tokens.texts,
        normalize,
        respond,
        skip=skipped_tokens(context.manifest, context.tokenizer, prompt),
        truncated=tokens.truncated,
        request_bytes=tokens.request_bytes,
    )


def _answer(values: Values, content: bytes | Computation) -> Answer:
    return Answer(content, values.headers())


def _check_response_size(texts: int, encoding: str, dimensions: int, context: Context) -> None:
    most = context.limits.max_response_bytes
    if most is None:
        return
    own = responses.characters_of(dimensions, encoding)
    if texts * own <= most:
        return
    remedy = f"at most {most // own:,} texts"
    if encoding == "float":
        compact = responses.characters_of(dimensions, "base64")
        remedy += f", or {most // compact:,} with encoding_format base64"
    raise ServiceError(
        413,
        "response_too_large",
        f"the vectors of {texts:,} texts may pass {most:,} bytes: {remedy}",
        param="input",
    )


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
