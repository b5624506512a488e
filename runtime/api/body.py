"""From a request's bytes to its JSON: compression, charset, size."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .errors import ServiceError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Decoder = Callable[
        [bytes, int], bytes
    ]  # (data, most bytes) -> at most one byte more than that; ValueError

CHARSETS = ("utf-8", "us-ascii", "iso-8859-1", "windows-1252", "utf-16", "utf-16le", "utf-16be")


def check_size(size: int, most: int) -> None:
    """Refuse a body that is too large.

    :param size: its bytes.
    :param most: bytes allowed.
    :raises ServiceError: 413.
    """
    if size > most:
        raise ServiceError(
            413,
            "request_too_large",
            f"the body has more than {most:,} bytes: send fewer texts in one request",
        )


def check_media_type(headers: Mapping[str, str], decoders: Mapping[str, Decoder]) -> None:
    """Refuse a body that is not JSON, before it is read.

    :param headers: of the request, names in lower case. Without a content type it is taken to be JSON.
    :param decoders: content encodings that are known.
    :raises ServiceError: 415.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and not (kind in ("application/json", "text/json") or kind.endswith("+json")):
        raise ServiceError(
            415, "unsupported_media_type", f"Content-Type is {shown(kind)}: expected application/json"
        )
    encoding = _encoding(headers)
    if encoding not in decoders and encoding != "identity":
        known = ", ".join(decoders)
        raise ServiceError(
            415,
            "unsupported_media_type",
            f"Content-Encoding is {shown(encoding)}: send gzip, or nothing compressed",
            headers={"Accept-Encoding": known},
        )
    charset = _charset(headers)
    if charset not in CHARSETS:
        raise ServiceError(415, "unsupported_media_type", f"charset is {shown(charset)}: expected utf-8")


def parse(body: bytes | str, headers: Mapping[str, str], decoders: Mapping[str, Decoder], most: int) -> Any:
    """Read a request's JSON.

    Half of a surrogate pair, as JavaScript's slice leaves it, is a character like any other.

    :param body: as it came; str where the door has decoded it.
    :param headers: of the request, names in lower case.
    :param decoders: content encodings that are known.
    :param most: bytes of the body, decompressed.
    :raises ServiceError: 400 for what is not JSON, 413 for too much, 415 for another type.
    """
    check_media_type(headers, decoders)
    if isinstance(body, str):
        check_size(len(body) if body.isascii() else len(body.encode("utf-8", "surrogatepass")), most)
    else:
        check_size(len(body), most)
        encoding = _encoding(headers)
        if encoding != "identity":
            body = _decompress(body, encoding, decoders[encoding], most)
        try:
            charset = _charset(headers)
            body = body.decode(charset, "surrogatepass" if charset.startswith("utf") else "strict")
        except UnicodeDecodeError as error:
            raise _not_json(f"not {error.encoding} at byte {error.start:,}") from None
    if not body.strip():
        raise _not_json("it is empty: expected an object")
    try:
        return json.loads(body.removeprefix("\ufeff"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _not_json(reason) from None


def gunzip(data: bytes, most: int) -> bytes:
    """Decompress gzip, with one member or several.

    :param data: the whole of it.
    :param most: bytes to stop after.
    :raises ValueError: damaged or cut short.
    """
    import zlib

    pieces, size = [], 0
    while data and size <= most:
        decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            pieces.append(decoder.decompress(data, most + 1 - size))
        except zlib.error as error:
            raise ValueError(str(error)) from None
        size += len(pieces[-1])
        if not decoder.eof and size <= most:
            raise ValueError("cut short")
        data = decoder.unused_data
    return b"".join(pieces)


def inflate(data: bytes, most: int) -> bytes:
    """Decompress HTTP's deflate: zlib, or the bare stream that some clients send.

    :param data: the whole of it.
    :param most: bytes to stop after.
    :raises ValueError: damaged or cut short.
    """
    import zlib

    for bits in (zlib.MAX_WBITS, -zlib.MAX_WBITS):
        decoder = zlib.decompressobj(bits)
        try:
            found = decoder.decompress(data, most + 1)
        except zlib.error:
            continue
        if decoder.eof or len(found) > most:
            return found
    raise ValueError("damaged or cut short")


DECODERS: dict[str, Decoder] = {"gzip": gunzip, "deflate": inflate}  # what the standard library has


def _decompress(body: bytes, name: str, decoder: Decoder, most: int) -> bytes:
    try:
        body = decoder(body, most)
    except ValueError as error:
        raise ServiceError(
            400, "invalid_body", f"the body is not {name}: {str(error).splitlines()[0]}"
        ) from None
    check_size(len(body), most)
    return body


def _encoding(headers: Mapping[str, str]) -> str:
    return headers.get("content-encoding", "").strip().lower() or "identity"


def _charset(headers: Mapping[str, str]) -> str:
    parameters = headers.get("content-type", "").lower().split(";")[1:]
    given = [
        value.strip(" \t\"'")
        for name, _, value in (part.partition("=") for part in parameters)
        if name.strip() == "charset"
    ]
    charset = given[0] if given else "utf-8"
    return {"utf8": "utf-8", "latin1": "iso-8859-1", "ascii": "us-ascii"}.get(charset, charset)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def _not_json(reason: str) -> ServiceError:
    return ServiceError(400, "invalid_json", f"the body is not JSON: {reason}")
