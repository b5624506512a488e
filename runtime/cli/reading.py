"""Texts from a file or a stream: one a line, or a field of JSON lines. Nothing is held but the current line.

A line ends with LF or CRLF, and a byte order mark at the beginning is skipped. An empty line is an empty
text, so that the n-th vector always belongs to the n-th line; a last line without an end counts, an end
without a line does not.
"""

from __future__ import annotations

from runtime.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

UTF8_MARK = b"\xef\xbb\xbf"
WINDOW_TEXTS = 4096  # texts that are sorted by length and run together
WINDOW_CHARACTERS = 8 << 20


def lines(stream: BinaryIO, name: str, errors: str) -> Iterator[str]:
    """Lines of a UTF-8 stream without their ends.

    :param stream: binary.
    :param name: of the stream, for messages.
    :param errors: "strict" refuses invalid UTF-8, "replace" reads each bad byte sequence as U+FFFD.
    :raises InputError: invalid UTF-8, naming line and byte, or an unreadable stream.
    """
    number = offset = 0
    while True:
        try:
            data = stream.readline()
        except OSError as error:
            raise InputError(f"{name}: cannot be read after line {number} ({error.strerror})") from None
        if not data:
            return
        number += 1
        length = len(data)
        mark = len(UTF8_MARK) if number == 1 and data.startswith(UTF8_MARK) else 0
        if data.endswith(b"\n"):
            data = data[mark : -2 if data.endswith(b"\r\n") else -1]
        elif mark:
            data = data[mark:]
        try:
            yield data.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            place = mark + error.start
            raise InputError(
                f"{name}: line {number}, byte {place + 1} (offset {offset + place}): not UTF-8 ({error.reason}): "
                "convert the file, or read bad bytes as U+FFFD with --errors replace"
            ) from None
        offset += length


def field(source: Iterable[str], name: str, key: str) -> Iterator[str]:
    """One string field of each line of JSON.

    :param source: lines.
    :param name: of the stream, for messages.
    :param key: field that holds the text.
    :raises InputError: naming the line that is not an object with that field as a string.
    """
    import json

    for number, line in enumerate(source, 1):
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{name}: line {number}: not JSON ({reason}): for plain text leave out --field"
            ) from None
        if not isinstance(document, dict):
            raise InputError(f"{name}: line {number}: {type(document).__name__}, not a JSON object")
        if key not in document:
            present = ", ".join(sorted(document)[:8]) or "none"
            raise InputError(
                f"{name}: line {number}: no field {key!r} (it has: {present}): name another with --field"
            )
        if not isinstance(document[key], str):
            raise InputError(
                f"{name}: line {number}: field {key!r} is {type(document[key]).__name__}, not a string"
            )
        yield document[key]


def in_windows(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of at most WINDOW_TEXTS texts and about WINDOW_CHARACTERS characters: what is encoded at once."""
    window: list[str] = []
    characters = 0
    for text in texts:
        window.append(text)
        characters += len(text)
        if len(window) == WINDOW_TEXTS or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window
