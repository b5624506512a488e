"""What all requests for vectors have in common: fields, checks, and the computation they become."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.errors import InputError
from runtime.manifest import check_dimensions
from runtime.prompts import skipped_tokens

from . import responses
from .context import Computation
from .errors import ServiceError, invalid, shown
from .fields import Field, as_integer, word

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


def dimensions_field() -> Field:
    """Make the field for how many numbers of each vector are kept."""

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


def dimensions_of(values: Values, context: Context) -> int:
    """How many numbers of each vector a checked request wants."""
    try:
        return check_dimensions(context.manifest, values["dimensions"])
    except InputError as error:
        raise invalid("dimensions", str(error)) from None


def truncate_field() -> Field:
    """Make the field for what becomes of a text that is too long."""

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


def prompt_names(limits: Limits) -> dict[str, Any]:
    """The schema of a prompt's name."""
    return {"enum": list(limits.prompts)} if limits.prompts else {"type": "null"}


PROMPT_NAME = word(
    "prompt_name", "The prompt that stands before each text, of those that the model has", prompt_names
)


def check_task(context: Context) -> None:
    """Refuse a request for vectors where the model gives none.

    :raises ServiceError: 400.
    """
    if context.manifest.task != "embed":
        raise ServiceError(
            400,
            "not_of_this_model",
            f"{context.manifest.name} is a cross-encoder, which scores pairs and gives no vectors: POST /v1/rerank",
        )


def normalized(given: bool | None, context: Context) -> bool:
    """Whether vectors get length 1: as the request says, or else as the model folder does."""
    return context.manifest.normalize if given is None else given


def computation(
    tokens: TokenizedTexts,
    normalize: bool,
    prompt: Prompt,
    context: Context,
    respond: Callable[[NDArray[Any]], bytes],
) -> Computation:
    """What is to be computed for texts.

    :param tokens: of the texts, their prompt included.
    :param normalize: give vectors of length 1.
    :param prompt: that stands before each.
    :param context: of the door.
    :param respond: see Computation.
    """
    return Computation(
        tokens.texts,
        normalize,
        respond,
        skip=skipped_tokens(context.manifest, context.tokenizer, prompt),
        truncated=tokens.truncated,
        request_bytes=tokens.request_bytes,
    )


def check_response_size(
    count: int, encoding: str, dimensions: int, context: Context, what: str = "texts"
) -> None:
    """Refuse a request whose answer would be larger than a door can send.

    :param count: vectors of the answer.
    :param encoding: of encoding.EMBEDDING_TYPES.
    :param dimensions: numbers of a vector.
    :param context: of the door.
    :param what: what there is a vector of.
    :raises ServiceError: 413.
    """
    most = context.limits.max_response_bytes
    if most is None:
        return
    own = responses.characters_of(dimensions, encoding)
    if count * own <= most:
        return
    remedy = f"at most {most // own:,} {what}"
    if encoding == "float" and what == "texts":
        compact = responses.characters_of(dimensions, "base64")
        remedy += f", or {most // compact:,} with encoding_format base64"
    raise ServiceError(
        413,
        "response_too_large",
        f"the vectors of {count:,} {what} may pass {most:,} bytes: {remedy}",
        param="input",
    )
