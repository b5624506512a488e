"""What an input is, by its first bytes, and its rows one after the other.

gzip, bzip2, xz, zstd and lz4 are unpacked, Parquet, UTF-16, JSON lines and a JSON array are recognised, whatever the
name says. A name ending in .csv or .tsv says CSV, everything else is text, one a line.

A line ends with LF or CRLF, or with CR in a file that has no LF; a byte order mark at the beginning is skipped. In
plain text an empty line is an empty text, so that vector n always belongs to line n; in JSON lines and CSV
blank lines are no rows: they are skipped and counted.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from importlib import import_module

from runtime.errors import InputError

from .delimited import DELIMITERS, Table
from .streams import (
    READ_BYTES,
    UTF8,
    UTF8_MARK,
    DamagedError,
    Guard,
    LineFeeds,
    Utf8,
    encoding_of,
    lines,
    pyarrow,
    unpack,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, BinaryIO

ENDINGS = {  # of names, and what they say
    **dict.fromkeys((".csv", ".tsv", ".tab"), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".txt", ".text", ".md"), "text"),
}
PACKED_ENDINGS = (".gz", ".bgz", ".bz2", ".xz", ".zst", ".zstd", ".lz4")
FORMAT_NAMES = {"text": "text", "jsonl": "JSON lines", "json": "JSON", "csv": "CSV", "parquet": "Parquet"}
KINDS = {bool: "true or false", type(None): "null", dict: "an object", list: "a list", str: "a string"}
DOCUMENT_CHARACTERS = 1 << 20  # of a JSON array that are parsed at once
MOST_LISTED = 8
SPACE = re.compile(r"\s*")


class ReadOptions:
    """How to read; None is for "see for yourself"."""

    def __init__(
        self,
        field: str | None = None,
        *,
        format: str | None = None,  # noqa: A002
        encoding: str | None = None,
        errors: str = "strict",
        delimiter: str | None = None,
        quoting: str = "auto",
        most_bytes: int = 1 << 60,
    ) -> None:
        """Check the names.

        :param field: column or field with the text; a dot reaches into an object. None for "text".
        :param format: one of reading.FORMATS.
        :param encoding: of the characters; None for UTF-8, or UTF-16 and UTF-32 by their mark.
        :param errors: "strict" refuses a row that cannot be decoded, "replace" reads U+FFFD there.
        :param delimiter: between the fields of CSV.
        :param quoting: of CSV: "auto" refuses lines that might be one row or several, "multiline" trusts quotes,
            "none" takes them as characters like any other.
        :param most_bytes: of a row; a larger one is refused without being held.
        :raises InputError: there is no such encoding, or a delimiter that cannot be one.
        """
        if encoding is not None:
            try:
                encoding = codecs.lookup(encoding).name
            except LookupError:
                raise InputError(
                    f"--encoding {encoding!r}: no such encoding (utf-8, utf-16, cp1252 and latin-1 are some)"
                ) from None
        if delimiter is not None:
            delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
            if len(delimiter) != 1 or delimiter in '\r\n"':
                raise InputError(
                    f"--delimiter {delimiter!r}: must be one character, no quote and no line end"
                )
        self.field, self.format, self.encoding, self.errors = field, format, encoding, errors
        self.delimiter, self.quoting, self.most_bytes = delimiter, quoting, most_bytes
        self.used = {self.key, *self.key.split(".")}  # keys of JSON that may not be there twice

    @property
    def key(self) -> str:
        """The field with the text."""
        return "text" if self.field is None else self.field


class Row:
    """A record of an input."""

    __slots__ = ("after", "end", "line", "problem", "value")

    def __init__(self, line: int, after: int, end: int, value: Any, problem: str | None) -> None:
        """Hold it.

        :param line: where it begins, from 1.
        :param after: the line after it.
        :param end: where the next one begins, for Source.rows; -1 where one cannot go on.
        :param value: str of a line of text, dict of CSV, of JSON what there is.
        :param problem: why there is none.
        """
        self.line, self.after, self.end = line, after, end
        self.value, self.problem = value, problem


class Source:
    """An input that was recognised."""

    def __init__(self, stream: BinaryIO, name: str, options: ReadOptions) -> None:
        """Look at the first bytes.

        :param stream: binary; it need not be able to seek.
        :param name: of the input, for its ending and for messages.
        :raises InputError: it is nothing that holds texts.
        """
        self.name, self.options = name, options
        self.columns: list[str] = []  # of CSV
        self.blank = 0  # blank lines that were skipped
        self.encoding = options.encoding or "utf-8"
        self.seekable = stream.seekable()  # rows() goes on at a place without reading what is before
        self._stream, self._table = stream, None
        self._twice = ""  # a key of the last JSON value
        self._json = json.JSONDecoder(object_pairs_hook=self._object)
        guard, self.packed = unpack(stream, name)
        head = guard.head()
        self.empty = not head
        if head.startswith(b"PAR1") and b"\0" in head:
            if self.packed:
                raise InputError(f"{name}: Parquet within {self.packed[-1]}: unpack it first")
            self.format = "parquet"
            return
        if options.format == "parquet":
            raise InputError(f"{name}: no Parquet file (it does not begin with PAR1)")
        self.seekable = self.seekable and not self.packed
        if options.encoding is None:
            self.encoding = encoding_of(head, name)
        if self.encoding not in UTF8:
            guard = Guard(Utf8(guard, self.encoding, options.errors), name, inner=guard)
            head, self.seekable = guard.head(), False
        self._guard = guard
        self._cr = b"\r" in head and b"\n" not in head
        if self._cr:
            head = head.replace(b"\r", b"\n")
        self._start, self._line = (len(UTF8_MARK) if head.startswith(UTF8_MARK) else 0), 1
        head = head[self._start :]
        self.format = self._format(head.decode("utf-8", "replace"))
        if self.format == "csv":
            usual = "\t" if ending(name) in (".tsv", ".tab") else ","
            try:
                self._table = Table(head, options.delimiter, usual, options.quoting, options.key)
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
            self.columns = self._table.columns if head.strip() else []
            self._start, self._line = self._start + self._table.offset, self._table.line

    def _format(self, head: str) -> str:
        """What it is, by what was told, its first characters and its name."""
        told, said, start = self.options.format, ENDINGS.get(ending(self.name)), head.lstrip()
        if told not in (None, "jsonl"):
            return str(told)
        if re.match(r"\[\s*\{\s*[\"}]", start) or (start.startswith("[") and _is_array(start, said or told)):
            return "json"
        first, more, _ = start.partition("\n")
        if re.match(r"\{\s*(\"|$)", first) and said != "csv":
            if not more and _parses(first) is None:
                return "jsonl" if len(head) > 1000 else said or "text"
            if _parses(first) is not None:
                return "jsonl"
            if first.rstrip()[-1] in "{,[":
                return "json"  # an object over several lines
        if told or said not in (None, "parquet"):
            return str(told or said)
        if self.options.field is None:
            return "text"
        fields = {field.strip('"\r') for mark in DELIMITERS for field in first.split(mark)}
        return "csv" if self.options.field in fields else "jsonl"

    def rows(self, start: tuple[int, int] | None = None) -> Iterator[Row]:
        """Its records; not those of Parquet.

        :param start: (end, after) of a row to go on behind; None for the beginning.
        :raises DamagedError: it cannot be read to its end; the rows until there were given.
        """
        if self.format == "json":
            yield from self._documents(start[0] if start else 0)
            return
        offset, line = start or (self._start, self._line)
        stream: io.BufferedReader[Any] = io.BufferedReader(self._at(offset), READ_BYTES)
        found = lines(stream, self._guard, offset, line, self.options.most_bytes)
        if self._table is not None:
            for number, after, end, fields, problem in self._table.rows(
                found, self._decoded, self.options.most_bytes
            ):
                if fields is None and problem is None:
                    self.blank += 1
                else:
                    yield Row(number, after, end, fields, problem)
            return
        for number, end, data in found:
            text, problem = self._decoded(data)
            if self.format == "text":
                yield Row(number, number + 1, end, text, problem)
            elif problem is None and not text.strip():
                self.blank += 1
            else:
                value = None
                if problem is None:
                    value, problem = self._value_of(text)
                yield Row(number, number + 1, end, value, problem)

    def _value_of(self, line: str) -> tuple[Any, str | None]:
        """The value of a line of JSON, and why it is of no use."""
        self._twice = ""
        try:
            value = self._json.decode(line)
        except (ValueError, RecursionError) as error:
            return None, f"not JSON ({str(error).splitlines()[0]})"
        return value, self._problem(value)

    def _problem(self, value: Any) -> str | None:
        if not isinstance(value, dict):
            return f"{kind(value)}, not a JSON object"
        return f"the key {self._twice!r} is there twice" if self._twice else None

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):  # json itself takes the last one
            keys = [key for key, _ in pairs if key in self.options.used]
            self._twice = next((key for key in keys if keys.count(key) > 1), self._twice)
        return found

    def texts(self, key: str) -> Iterator[str]:
        """The texts, where every row must have one.

        :param key: field that holds the text.
        :raises InputError: naming the line that has none.
        """
        if self.format == "parquet":
            yield from self._parquet_texts(key)
            return
        if self.columns and not has_field(self.columns, key):
            raise InputError(f"{self.name}: {missing(key, self.columns)}: name another with --field")
        for row in self.rows():
            text, problem = text_of(row, key)
            if problem is not None:
                bad_byte = re.match(r"not UTF-8: (byte \d+) of the line", problem)
                place = f"line {row.line}, {bad_byte[1]}" if bad_byte else f"line {row.line}"
                raise InputError(f"{self.name}: {place}: {problem}{self._remedy(problem)}")
            yield text

    def whole(self) -> tuple[str, str | None]:
        """All of it as one text, or the reason why it is none.

        :raises DamagedError: it cannot be read to its end.
        """
        stream: io.BufferedReader[Any] = io.BufferedReader(self._at(self._start), READ_BYTES)
        data: bytes | int = stream.read(self.options.most_bytes + 1)
        if len(data) > self.options.most_bytes:  # type: ignore[arg-type]
            data = len(data) + sum(map(len, iter(lambda: stream.read(READ_BYTES), b"")))  # type: ignore[arg-type]
        if self._guard.error:
            raise DamagedError(f"{self.name}: {self._guard.error}")
        return self._decoded(data, "file")

    def about(self) -> str:
        """In a few words: what it was recognised as."""
        words = [FORMAT_NAMES[self.format], *self.packed]
        return ", ".join([*words, self.encoding] if self.encoding not in UTF8 else words)

    def _at(self, offset: int) -> io.RawIOBase:
        """The decoded bytes from an offset on."""
        if self.seekable:
            self._stream.seek(offset)
            self._guard.restart(offset)
        else:
            self._guard.skip(offset)
        return LineFeeds(self._guard) if self._cr else self._guard

    def _decoded(self, data: bytes | int, unit: str = "line") -> tuple[str, str | None]:
        if isinstance(data, int):
            return "", too_large(unit, data, self.options.most_bytes)
        try:
            return data.decode("utf-8", self.options.errors), None
        except UnicodeDecodeError as error:
            if self.encoding in UTF8:
                return "", f"not UTF-8: byte {error.start + 1} of the {unit} ({error.reason})"
            return "", f"not {self.encoding}"

    def _remedy(self, problem: str) -> str:
        if problem.startswith("no field"):
            return ": name another with --field"
        if problem.startswith("not JSON"):
            return ": for plain text leave out --field" if self.options.field is not None else ""
        if problem.startswith("not "):
            return ": name its --encoding, or read bad bytes as U+FFFD with --errors replace"
        return ""

    def _documents(self, skip: int) -> Iterator[Row]:
        """Values of JSON in an array, or one after the other; a row's `end` is how many there were until it."""
        stream = self._at(self._start)
        decode = codecs.getincrementaldecoder("utf-8")(self.options.errors)
        text, place, line, number = "", 0, 1, 0
        array: bool | None = None
        ended = False

        def damaged(reason: str) -> DamagedError:
            return DamagedError(f"{self.name}: line {line}: {reason}; {number:,} rows before are good")

        while True:
            after = SPACE.match(text, place).end()  # type: ignore[union-attr]
            line, place = line + text.count("\n", place, after), after
            mark = text[place : place + 1]
            if mark == "[" and array is None:
                array, place = True, place + 1
            elif mark == "]" and array:
                if text[place + 1 :].strip():
                    raise damaged("text after the end of the array")
                return
            elif mark == "," and array and number:
                place += 1
            elif mark and (found := self._value_at(text, place, ended)) is not None:
                value, stop = found
                if stop < 0:
                    raise damaged(f"not JSON ({value})")
                array, number = bool(array), number + 1
                if number > skip:
                    problem = None if array and isinstance(value, str) else self._problem(value)
                    yield Row(line, line + 1, number, value, problem)
                line, place = line + text.count("\n", place, stop), stop
            elif ended:
                if self._guard.error or array:
                    raise damaged(self._guard.error or "the array does not end")
                return
            else:
                text, place = text[place:], 0
                if len(text) > self.options.most_bytes:
                    raise damaged(too_large("a value", len(text), self.options.most_bytes))
                want = max(
                    DOCUMENT_CHARACTERS, 2 * len(text)
                )  # doubled: a large value is not parsed over and over
                while len(text) < want and not ended:
                    data = stream.read(READ_BYTES) or b""
                    ended = not data
                    try:
                        text += decode.decode(data, ended)
                    except UnicodeDecodeError as error:
                        raise damaged(f"not {self.encoding} ({error.reason})") from None

    def _value_at(self, text: str, place: int, ended: bool) -> tuple[Any, int] | None:
        """A value and its end; (reason, -1) if it is none; None if more of it may come."""
        self._twice = ""
        try:
            value, stop = self._json.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            return (str(error).splitlines()[0], -1) if ended or isinstance(error, RecursionError) else None
        return (value, stop) if ended or stop < len(text) else None

    def _parquet_texts(self, key: str) -> Iterator[str]:
        pyarrow("Parquet", self.name)
        if not self._stream.seekable():
            raise InputError(f"{self.name}: Parquet cannot be read from a pipe: name the file with --input")
        try:
            self._stream.seek(0)
            file = import_module("pyarrow.parquet").ParquetFile(self._stream)
            names, number = file.schema_arrow.names, 0
            if not has_field(names, key):
                raise InputError(f"{self.name}: {missing(key, names)}: name another with --field")
            root = key if key in names else key.partition(".")[0]
            for batch in file.iter_batches(1024, columns=[root]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    text, problem = text_of(Row(number, number + 1, number, {root: value}, None), key)
                    if problem is not None:
                        raise InputError(f"{self.name}: row {number}: {problem}")
                    yield text
        except (OSError, ValueError) as error:  # pyarrow's own are of these kinds
            raise DamagedError(f"{self.name}: {str(error).splitlines()[0]}") from None


def text_of(row: Row, key: str) -> tuple[str, str | None]:
    """The text of a row, or the reason why it has none.

    :param key: field that holds the text, by its name or, with dots, by the names on the way.
    """
    if row.problem is not None:
        return "", row.problem
    if isinstance(row.value, str):
        return row.value, None
    value = field_of(row.value, key)
    if isinstance(value, str):
        return value, None
    if value is None and not has_field(row.value, key):
        return "", missing(key, row.value)
    return "", f"field {key!r} is {kind(value)}, not a string"


def field_of(document: dict[str, Any], key: str) -> Any:
    """A field of that very name, or a.b as b within a; None where there is none."""
    if key in document:
        return document[key]
    value: Any = document
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def has_field(names: Iterable[str] | dict[str, Any], key: str) -> bool:
    """Whether there is a field of that name, or one that it may be within."""
    present = set(names)
    if key in present:
        return True
    root, dot, rest = key.partition(".")
    if not dot or root not in present:
        return False
    below = names[root] if isinstance(names, dict) else None
    return not isinstance(names, dict) or (isinstance(below, dict) and has_field(below, rest))


def missing(key: str, names: Iterable[str]) -> str:
    """That there is no such field, and which there are."""
    present = list(names)
    shown = [name if name == name.strip() != "" else repr(name) for name in present[:MOST_LISTED]]
    listed = ", ".join(shown) + (", ..." if len(present) > MOST_LISTED else "")
    return f"no field {key!r} (it has: {listed or 'none'})"


def too_large(what: str, size: int, most: int) -> str:
    """Why a row is refused without being held."""
    return f"{what} of {size:,} bytes, more than {most >> 20} MiB: make several rows of it"


def kind(value: object) -> str:
    """A JSON value's type in plain words."""
    return KINDS.get(type(value), "a number")


def ending(name: str) -> str:
    """The ending of a name in lower case, without that of a compression; empty where it has none."""
    name = name.lower().replace("\\", "/").rpartition("/")[2]
    while name.endswith(PACKED_ENDINGS):
        name = name.rpartition(".")[0]
    return "." + name.rpartition(".")[2] if "." in name else ""


def _parses(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_array(start: str, said: str | None) -> bool:
    """Whether what begins with [ is an array of strings, or none at all, and not a line of text."""
    strings = re.match(r"\[\s*(\"|\]\s*$)", start) is not None
    return strings and (said in ("jsonl", "json") or isinstance(_parses(start), list))
