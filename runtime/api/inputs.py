"""The texts of a request: from its JSON to token ids, within the limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import budget
from .errors import ServiceError, invalid, shown
from .fields import Field, as_integer, kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from runtime.tokenization.tokenizer import Tokenizer

    from .context import Context, Limits
    from .fields import Schema

MIN_TOKENS = 3  # [CLS], one token, [SEP]: with less memory than that nothing can be computed

NO_TOKEN_IDS = (
    "token ids are refused, since ids of another model's tokenizer would get vectors that mean nothing: send texts "
    "(in LangChain OpenAIEmbeddings(check_embedding_ctx_length=False)); a service started with --accept-token-ids "
    "takes this model's own ids, as /tokenize gives them"
)

Inputs = list[str | list[int]]


class TokenizedTexts(NamedTuple):
    """Texts as they will be run."""

    texts: list[NDArray[np.int32]]  # ids of each, special tokens included
    truncated: int  # how many were cut
    request_bytes: int  # memory that request and answer take


def inputs_field(name: str, **more: Any) -> Field:
    """The field that holds the texts, checked into Inputs.

    :param name: of the field.
    """

    def check(value: Any, given: str, limits: Limits) -> Inputs:
        return inputs_of(value, name, given, limits)

    def own(limits: Limits) -> Schema:
        text: Schema = {"type": "string"}
        item: Schema = {
            "type": "object",
            "properties": {"text": text},
            "required": ["text"],
            "additionalProperties": False,
        }
        ids: Schema = {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": limits.vocabulary - 1},
            "description": "Token ids of this model, as /tokenize gives them. Special tokens are added where they lack",
        }
        kinds = [text, item, *([ids] if limits.accept_token_ids else [])]
        several = {"type": "array", "items": {"anyOf": kinds}, "minItems": 1}
        alone = [text, item, *([{**ids, "minItems": 1}] if limits.accept_token_ids else [])]
        return {"anyOf": [*alone, several]}

    return Field(name, check, own, 'A text, {"text": a text}, or a list of these', required=True, **more)


def texts_field(name: str, **more: Any) -> Field:
    """A field that holds a text or texts, and never token ids."""

    def check(value: Any, given: str, limits: Limits) -> list[str]:
        found = inputs_of(value, name, given, limits._replace(accept_token_ids=False))
        return [text for text in found if isinstance(text, str)]

    def own(_: Limits) -> Schema:
        text: Schema = {"type": "string"}
        return {"anyOf": [text, {"type": "array", "items": text, "minItems": 1}]}

    return Field(name, check, own, "A text or a list of texts", required=True, **more)


def ids_field(name: str) -> Field:
    """A field that holds token ids of one text or of several, checked into lists of ids."""

    def check(value: Any, given: str, limits: Limits) -> list[list[int]]:
        if isinstance(value, list) and value and not isinstance(value[0], list):
            value = [value]
        found = inputs_of(value, name, given, limits._replace(accept_token_ids=True))
        for number, ids in enumerate(found):
            if isinstance(ids, str):
                raise invalid(name, f"{given}[{number}] is a text: expected token ids")
        return [ids for ids in found if not isinstance(ids, str)]

    def own(limits: Limits) -> Schema:
        ids: Schema = {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": limits.vocabulary - 1},
        }
        return {"anyOf": [{**ids, "minItems": 1}, {"type": "array", "items": ids, "minItems": 1}]}

    return Field(name, check, own, "Token ids of a text, or a list of these", required=True)


def tokens_of(
    inputs: Inputs,
    name: str,
    context: Context,
    *,
    truncate: bool = False,
    left: bool = False,
    parts: bool = False,
    max_length: int | None = None,
    prompt: str = "",
    value_bytes: int = budget.VALUE_BYTES["float"],
) -> TokenizedTexts:
    """Token ids of a request's texts.

    :param inputs: each a str, or ids of this model's vocabulary; special tokens are added where they lack.
    :param name: of the field, for messages.
    :param context: of the door.
    :param truncate: cut texts of more than max_length tokens instead of refusing them.
    :param left: cut their beginning, not their end.
    :param parts: they are read as one, in windows, so that none is too long.
    :param max_length: tokens of a text, special tokens included; None for the longest allowed.
    :param prompt: stands before each text.
    :param value_bytes: memory of a number of the answer, see budget.VALUE_BYTES.
    :raises ServiceError: 400 for a text that is too long or an id that is none, 413 for too many tokens in all or
        for the memory there is.
    """
    tokenizer, limits = context.tokenizer, context.limits
    most = min(max_length or limits.max_length, limits.max_length)
    request_bytes, longest = memory_for(inputs, context, limits.dimension * value_bytes)
    texts, truncated, total = [], 0, 0
    for number, given in enumerate(inputs):
        ids = tokenizer.encode(prompt + given) if isinstance(given, str) else _complete(given, tokenizer)
        if len(ids) > most and not parts:
            if not truncate:
                raise ServiceError(
                    400,
                    "text_too_long",
                    f"{name}[{number}] has {len(ids):,} tokens, more than {most:,}: shorten it, or pass truncate true "
                    "to have it cut",
                    param=name,
                )
            truncated += 1
            ids = tokenizer.truncate(ids, most, left=left)
        if len(ids) > longest and not parts:
            raise ServiceError(
                413,
                "out_of_memory",
                f"{name}[{number}] has {len(ids):,} tokens; the service has memory for {longest:,}: "
                "shorten it, or give the service more memory",
                param=name,
            )
        total += len(ids)
        check_total(total, name, limits)
        texts.append(np.array(ids, np.int32))
    return TokenizedTexts(texts, truncated, request_bytes)


def memory_for(inputs: Sequence[str | list[int]], context: Context, answer_bytes: int) -> tuple[int, int]:
    """Memory that a request takes, and what it leaves.

    :param inputs: its texts.
    :param context: of the door.
    :param answer_bytes: that each of them takes of the answer.
    :return: bytes that request and answer take, and tokens of the longest text that memory allows beside them.
    :raises ServiceError: 413, nothing fits beside them.
    """
    request_bytes = sum(map(len, inputs)) * budget.CHARACTER_BYTES + len(inputs) * answer_bytes
    longest = context.longest(request_bytes)
    if longest < MIN_TOKENS:
        raise ServiceError(
            413, "out_of_memory", "not enough memory for this request: send fewer texts at once"
        )
    return request_bytes, longest


def check_total(total: int, name: str, limits: Limits) -> None:
    """Refuse a request that is too large.

    :param total: tokens of its texts together.
    :param name: of the field.
    :param limits: of the door.
    :raises ServiceError: 413.
    """
    if total > limits.max_request_tokens:
        raise ServiceError(
            413,
            "too_many_tokens",
            f"the texts have more than {limits.max_request_tokens:,} tokens together: split the request",
            param=name,
        )


def inputs_of(value: Any, name: str, given: str, limits: Limits) -> Inputs:
    """Check the texts of a request.

    :param value: JSON.
    :param name: of the field.
    :param given: name under which it was given.
    :param limits: of the door.
    :raises ServiceError: 400 for what is no text, 413 for too many.
    """
    if isinstance(value, (str, dict)):
        return [_text(value, name, given)]
    if not isinstance(value, list):
        raise invalid(name, f"{given} is {kind(value)}: expected a text or a list of texts")
    if not value:
        raise ServiceError(
            400, "empty_input", f"{given} is an empty list: expected at least one text", param=name
        )
    if all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in value):
        if not limits.accept_token_ids:
            raise invalid(name, f"{given} is a list of numbers: {NO_TOKEN_IDS}", "token_ids_refused")
        value = [value]  # token ids of one text
    if len(value) > limits.max_texts:
        raise ServiceError(
            413,
            "too_many_texts",
            f"{len(value):,} texts, more than {limits.max_texts:,}: split the request",
            param=name,
        )
    found: Inputs = []
    for number, item in enumerate(value):
        where = f"{given}[{number}]"
        if isinstance(item, list):
            if not limits.accept_token_ids:
                raise invalid(name, f"{where} is a list: {NO_TOKEN_IDS}", "token_ids_refused")
            found.append([_id(token, name, where, limits) for token in item])
        elif isinstance(item, (int, float)) and not isinstance(item, bool):
            raise invalid(
                name,
                f"{where} is a number: {given} mixes numbers with texts; expected texts, or token ids alone",
            )
        else:
            found.append(_text(item, name, where))
    return found


def _text(item: Any, name: str, where: str) -> str:
    if isinstance(item, str):
        return item
    if not isinstance(item, dict):
        raise invalid(name, f"{where} is {kind(item)}: expected a text")
    text = item.get("text")
    others = [key for key in item if key != "text"]
    if others:
        raise invalid(
            name,
            f'{where} has the key {shown(others[0])}: only texts are embedded here, expected {{"text": a text}}',
        )
    if not isinstance(text, str):
        raise invalid(name, f"{where}.text is {kind(text)}: expected a text")
    return text


def _id(token: Any, name: str, where: str, limits: Limits) -> int:
    number = as_integer(token)
    if number is None or not 0 <= number < limits.vocabulary:
        raise invalid(
            name,
            f"{where} has the token {shown(token)}: expected ids of this model's vocabulary (0 to "
            f"{limits.vocabulary - 1:,}), as /tokenize gives them; or send the text",
            "invalid_token",
        )
    return number


def _complete(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """Token ids with the special tokens, which what /tokenize gives has or lacks."""
    before, after = list(tokenizer.prefix), list(tokenizer.suffix)
    start = [] if ids[: len(before)] == before else before
    end = [] if ids[len(ids) - len(after) :] == after else after
    return [*start, *ids, *end]
