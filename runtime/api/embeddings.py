"""POST /v1/embeddings: OpenAI's and Jina's request for vectors, and what it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from runtime import pooling
from runtime.chunking import joined_length

from . import budget, responses
from .context import Answer
from .encoding import EMBEDDING_TYPES
from .fields import RequestType, boolean, choice, ignored, integer, read, refused, word
from .inputs import MIN_TOKENS, inputs_field, tokens_of
from .prompts import DOCUMENTS, QUERIES, prompt_of
from .vectors import (
    NORMALIZED,
    PROMPT_NAME,
    check_response_size,
    check_task,
    computation,
    dimensions_field,
    dimensions_of,
    normalized,
    truncate_field,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .context import Context, Limits


def _lengths(limits: Limits) -> tuple[int, int]:
    return MIN_TOKENS, limits.max_length


def _open_lengths(_: Limits) -> tuple[int, int]:
    return MIN_TOKENS, (1 << 31) - 1


def _input_types(limits: Limits) -> dict[str, Any]:
    names = dict.fromkeys([*limits.prompts, *QUERIES, *DOCUMENTS])
    return {"enum": list(names)} if limits.prompts else {"type": "string"}


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
        dimensions_field(),
        boolean("normalized", NORMALIZED, aliases={"normalize": None}),
        truncate_field(),
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
        PROMPT_NAME,
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


def embeddings(document: object, context: Context) -> Answer:
    """POST /v1/embeddings, of OpenAI and Jina."""
    check_task(context)
    values = read(document, EMBEDDING_REQUEST, context.limits)
    if values["model"] not in (None, context.manifest.name):
        values.ignored = ("model", *values.ignored)
    prompt = prompt_of(values, context)
    encoding = values["embedding_type"] or values["encoding_format"] or "float"
    late, dimensions = bool(values["late_chunking"]), dimensions_of(values, context)
    check_response_size(len(values["input"]), encoding, dimensions, context)
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

    normalize = normalized(values["normalized"], context)

    def respond(vectors: NDArray[np.float32]) -> bytes:
        vectors = pooling.cut(vectors[before:], dimensions, normalize)
        return responses.embedding_list(vectors, encoding, context.manifest.name, count, tokens.truncated)

    asked = computation(tokens, normalize, prompt, context, respond)._replace(texts=texts, late=late)
    return Answer(asked, values.headers())
