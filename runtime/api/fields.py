"""The fields of a request: each is its check and its JSON Schema at once, so that the two cannot differ.

A request type (requests.py) is a list of fields. `read` checks a request by it, `schema` describes it to people and
tools.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import MAX_SHOWN, ServiceError, invalid, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .context import Limits

    Schema = dict[str, Any]
    Check = Callable[[Any, str, Limits], Any]

IGNORED_HEADER = "X-Ignored-Fields"
MAX_KNOWN = 24  # fields that a message lists


class Field(NamedTuple):
    """One field of a request. null means the same as a field left out."""

    name: str
    check: Check  # (value, name, limits) -> what is used; raises ServiceError
    schema: Callable[[Limits], Schema] | Schema
    description: str
    default: Any = None  # for people; what a field left out means is the request type's to say
    required: bool = False
    nullable: bool = True
    aliases: Mapping[str, Mapping[Any, Any] | None] = {}  # other names, with their values where these differ
    ignored: bool = False  # changes nothing here: accepted, and said in a header


class RequestType(NamedTuple):
    """What a route takes."""

    name: str  # of its schema
    fields: tuple[Field, ...]
    example: dict[str, Any]


class Values(dict[str, Any]):
    """Checked values by field; a field left out is None."""

    ignored: tuple[str, ...] = ()  # names of fields that were given and change nothing

    def headers(self) -> dict[str, str]:
        """:return: what the answer's headers say of them."""
        return {IGNORED_HEADER: ", ".join(self.ignored)} if self.ignored else {}

    def __missing__(self, name: str) -> None:
        return None


def read(document: object, request: RequestType, limits: Limits) -> Values:
    """Check a request.

    :param document: its JSON.
    :param request: its type.
    :param limits: of this service.
    :return: the values to use.
    :raises ServiceError: 400, naming field, value and what is allowed.
    """
    known = {field.name: field for field in request.fields}
    required = next(field.name for field in request.fields if field.required)
    if not isinstance(document, dict):
        raise ServiceError(
            400, "invalid_request", f"the request is {kind(document)}: expected an object with {required}"
        )
    aliases = {alias: field for field in request.fields for alias in field.aliases}
    values, ignored = Values(), []
    names: dict[str, str] = {}  # under which a field was given
    for name, value in document.items():
        field = known.get(name) or aliases.get(name)
        if field is None:
            raise _unknown(name, [*known, *aliases], known)
        if value is None:
            continue
        if name != field.name:
            value = _translate(value, name, field)
        if field.name in values and values[field.name] != value:
            raise invalid(field.name, f"{names[field.name]} and {name} say different things: leave one out")
        names[field.name] = name
        values[field.name] = value
        if field.ignored:
            ignored.append(name)
    for field in request.fields:
        if field.name in values:
            values[field.name] = field.check(values[field.name], names[field.name], limits)
        elif field.required:
            raise invalid(
                field.name, f"{field.name} is missing: {field.description[:1].lower()}{field.description[1:]}"
            )
    values.ignored = tuple(ignored)
    return values


def schema(request: RequestType, limits: Limits) -> Schema:
    """Describe a request as JSON Schema.

    :param request: its type.
    :param limits: of this service.
    """
    properties: Schema = {}
    for field in request.fields:
        own = field.schema if isinstance(field.schema, dict) else field.schema(limits)
        if field.nullable and not field.required and own != {}:
            own = {"anyOf": [own, {"type": "null"}]} if own.get("type") != "null" else own
        description = field.description
        if field.aliases:
            description += f" (also: {', '.join(field.aliases)})"
        properties[field.name] = {**own, "description": description}
        if field.default is not None:
            properties[field.name]["default"] = field.default
    return {
        "type": "object",
        "properties": properties,
        "required": [field.name for field in request.fields if field.required],
        "additionalProperties": False,
    }


def boolean(name: str, description: str, *, default: bool | None = None, **more: Any) -> Field:
    """A field that is true or false."""

    def check(value: Any, given: str, _: Limits) -> bool:
        if not isinstance(value, bool):
            raise invalid(name, f"{given} is {shown(value)}: expected true or false")
        return value

    return Field(name, check, {"type": "boolean"}, description, default, **more)


def word(name: str, description: str, own: Callable[[Limits], Schema] | None = None) -> Field:
    """A field that is a text; which ones are allowed is checked by who uses it.

    :param own: its schema; None for any text.
    """

    def check(value: Any, given: str, _: Limits) -> str:
        if not isinstance(value, str):
            raise invalid(name, f"{given} is {shown(value)}: expected a text")
        return value

    return Field(name, check, own or {"type": "string"}, description)


def choice(
    name: str, values: tuple[str, ...], description: str, *, default: str | None = None, **more: Any
) -> Field:
    """A field that is one of a few words."""

    def check(value: Any, given: str, _: Limits) -> str:
        if not isinstance(value, str) or value not in values:
            hint = nearest(value, values) if isinstance(value, str) else ""
            raise invalid(name, f"{given} is {shown(value)}: must be one of {', '.join(values)}{hint}")
        return value

    return Field(name, check, {"enum": list(values)}, description, default, **more)


def integer(
    name: str,
    description: str,
    bounds: Callable[[Limits], tuple[int, int]],
    *,
    unlimited: int | None = None,
    **more: Any,
) -> Field:
    """A field that is an integer.

    :param bounds: least and most.
    :param unlimited: a value beside them that means the most.
    """

    def check(value: Any, given: str, limits: Limits) -> int:
        least, most = bounds(limits)
        number = as_integer(value)
        if number is not None and number == unlimited:
            return most
        if number is None or not least <= number <= most:
            raise invalid(name, f"{given} is {shown(value)}: expected an integer from {least:,} to {most:,}")
        return number

    def own(limits: Limits) -> Schema:
        least, most = bounds(limits)
        found: Schema = {"type": "integer", "minimum": least, "maximum": most}
        return found if unlimited is None else {"anyOf": [found, {"const": unlimited}]}

    return Field(name, check, own, description, **more)


def ignored(
    name: str, description: str = "Accepted and ignored: it changes nothing here", own: Schema | None = None
) -> Field:
    """A field that other services define and that changes nothing here; any value does."""
    return Field(name, lambda value, *_: value, own or {}, description, ignored=True)


def refused(name: str, reason: str, neutral: tuple[Any, ...] = ()) -> Field:
    """A field that would change the answer, in a way that this service cannot.

    :param name: of the field.
    :param reason: why.
    :param neutral: values that ask for what is done anyway.
    """

    def check(value: Any, given: str, _: Limits) -> Any:
        if not any(value is one or (value == one and type(value) is type(one)) for one in neutral):
            only = f"leave it out or pass {shown(neutral[0])}" if neutral else "leave it out"
            raise invalid(name, f"{given} is {shown(value)}: {reason}; {only}")
        return value

    own: Schema = {"enum": list(neutral)} if neutral else {"type": "null"}
    return Field(name, check, own, f"{reason[:1].upper()}{reason[1:]}")


def as_integer(value: object) -> int | None:
    """The integer that a JSON number is (JSON does not tell 7.0 from 7); None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value == value // 1 and abs(value) < 1 << 53 else None


def kind(value: object) -> str:
    """What a JSON value is, for messages."""
    if isinstance(value, bool):
        return shown(value)
    kinds = {dict: "an object", list: "a list", str: "a text", type(None): "null"}
    return kinds.get(type(value), "a number")


def _translate(value: Any, name: str, field: Field) -> Any:
    """A value under another name of its field."""
    meanings = field.aliases[name]
    if meanings is None:
        return value
    if not isinstance(value, str) or value not in meanings:
        raise invalid(field.name, f"{name} is {shown(value)}: must be one of {', '.join(meanings)}")
    return meanings[value]


def _unknown(name: str, names: list[str], known: Mapping[str, Field]) -> ServiceError:
    hint = nearest(name, names)
    main = [field.name for field in known.values() if not field.ignored and field.schema != {"type": "null"}]
    hint = hint or f"; known are {', '.join(main[:MAX_KNOWN])}"
    return ServiceError(
        400, "unknown_field", f"field {shown(name)} is not known{hint}", param=name[:MAX_SHOWN]
    )
