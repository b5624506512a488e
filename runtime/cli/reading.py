"""Texts of the command line's input, in windows that are encoded at once."""

from __future__ import annotations

import contextlib
import sys

from runtime.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from typing import BinaryIO

    from .sources import ReadOptions

FORMATS = ("text", "jsonl", "json", "csv", "parquet")
QUOTINGS = ("auto", "multiline", "none")
WINDOW_TEXTS = 4096  # texts that are sorted by length and run together
WINDOW_CHARACTERS = 8 << 20


def texts(name: str, options: ReadOptions, say: Callable[[str], None]) -> Iterator[str]:
    """The texts of a file or of standard input.

    :param name: of the file; "-" for standard input.
    :param say: told what was recognised that the name does not say, what was skipped, and that there is nothing.
    :raises InputError: it cannot be read, or a row of it has no text.
    """
    from .sources import ENDINGS, Source, ending

    with _opened(name) as stream:
        shown = "standard input" if name == "-" else name
        source = Source(stream, shown, options)
        expected = "jsonl" if options.field is not None else "text"
        if options.format is None and source.format != ENDINGS.get(ending(shown), expected):
            say(
                f"{shown}: read as {source.about()}, field {options.key!r}; --input-format text reads its lines"
            )
        found = False
        for text in source.texts(options.key):
            found = True
            yield text
        if source.blank:
            lines = "line was" if source.blank == 1 else "lines were"
            say(f"{shown}: {source.blank:,} blank {lines} skipped")
        if not found:
            say(f"{shown}: it is empty: no texts, no vectors")


def texts_of(options: argparse.Namespace, say: Callable[[str], None]) -> Iterator[str]:
    """The texts of --input, read as the options of command.add_reading say.

    :param options: of a command with --input, --field, --quiet and those options.
    :param say: see texts; not called with --quiet.
    :raises InputError: see texts.
    """
    from .sources import ReadOptions

    how = ReadOptions(
        options.field,
        format=options.input_format,
        encoding=options.encoding,
        errors=options.errors,
        delimiter=options.delimiter,
        quoting=options.quoting,
    )
    return texts(options.input, how, (lambda _: None) if options.quiet else say)


def in_windows(source: Iterable[str]) -> Iterator[list[str]]:
    """Lists of at most WINDOW_TEXTS texts and about WINDOW_CHARACTERS characters: what is encoded at once."""
    window: list[str] = []
    characters = 0
    for text in source:
        window.append(text)
        characters += len(text)
        if len(window) == WINDOW_TEXTS or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def _opened(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        if sys.stdin is None:
            raise InputError("--input -: standard input is closed")
        return contextlib.nullcontext(sys.stdin.buffer)
    try:
        return open(name, "rb")
    except IsADirectoryError:
        raise InputError(
            f"--input {name!r}: is a folder: name a file, or embed all of it with python -m runtime.bulk"
        ) from None
    except FileNotFoundError:
        raise InputError(f"--input {name!r}: there is no such file (a text goes without --input)") from None
    except OSError as error:
        raise InputError(f"--input {name!r}: cannot be read ({error.strerror})") from None
