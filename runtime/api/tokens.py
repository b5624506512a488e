"""Requests about tokens, in text-embeddings-inference's form: /tokenize and /decode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import responses
from .context import Answer
from .errors import ServiceError, dump
from .fields import RequestType, boolean, read
from .inputs import check_total, ids_field, texts_field
from .prompts import prompt_of
from .vectors import PROMPT_NAME

if TYPE_CHECKING:
    from .context import Context

TOKENIZE_REQUEST = RequestType(
    "TokenizeRequest",
    (
        texts_field("inputs"),
        boolean("add_special_tokens", "List the special tokens too", default=True),
        PROMPT_NAME,
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
    return Answer(dump(lists), values.headers())


def decode(document: object, context: Context) -> Answer:
    """POST /decode, of text-embeddings-inference."""
    values = read(document, DECODE_REQUEST, context.limits)
    special = values["skip_special_tokens"] is False
    check_total(sum(map(len, values["ids"])), "ids", context.limits)
    try:
        texts = [context.tokenizer.decode(ids, special=special) for ids in values["ids"]]
    except NotImplementedError:
        raise ServiceError(
            500, "not_of_this_model", "the decoder of this model's tokenizer is not implemented"
        ) from None
    return Answer(dump(texts), values.headers())
