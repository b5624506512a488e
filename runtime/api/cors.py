"""Cross-origin requests (CORS): which pages of other origins may call a door from a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

METHODS = "GET, HEAD, POST, OPTIONS"
HEADERS = "Authorization, Content-Type, Content-Encoding"
EXPOSED = "Retry-After, X-Ignored-Fields"


def problem(origin: str) -> str | None:
    """Check an origin that somebody configures.

    :param origin: scheme, host and port, or "*".
    :return: what is wrong with it; None if nothing is.
    """
    if origin == "*":
        return None
    host = origin.partition("://")[2]
    if (
        not origin.startswith(("http://", "https://"))
        or not host
        or not origin.isprintable()
        or " " in origin
    ):
        return "must be an origin such as https://example.com, or *"
    if "/" in host:
        return "must end after host and port, as in https://example.com"
    return None


def headers(origins: Sequence[str], request: Mapping[str, str]) -> dict[str, str]:
    """What every answer has.

    :param origins: allowed; may hold "*"; none: no CORS.
    :param request: the request's headers, names in lower case.
    """
    if not origins:
        return {}
    if "*" in origins:
        return {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": EXPOSED}
    asked = request.get("origin", "")
    if len(origins) > 1 and asked not in origins:
        return {"Vary": "Origin"}
    return {
        "Access-Control-Allow-Origin": origins[0] if len(origins) == 1 else asked,
        "Access-Control-Expose-Headers": EXPOSED,
        "Vary": "Origin",
    }


def preflight(request: Mapping[str, str]) -> dict[str, str]:
    """What the answer to OPTIONS has besides; status 204.

    :param request: the request's headers, names in lower case.
    """
    wanted = request.get("access-control-request-headers", "")
    if not wanted or not all(character.isalnum() or character in "-_, " for character in wanted):
        wanted = HEADERS
    return {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": wanted,
        "Access-Control-Max-Age": "86400",
    }
