"""Bytes of an input as UTF-8 lines: what is packed is unpacked, what has another encoding is decoded.

A stream that fails in the middle ends there and says so afterwards, so that the rows before are not lost.
"""

from __future__ import annotations

import io
from importlib import import_module

from runtime.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

HEAD_BYTES = 1 << 16  # that tell what an input is
PIPE_HEAD_BYTES = 1 << 12  # of a pipe, which may not go on for a while
READ_BYTES = 1 << 16
PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
FOREIGN = {  # first bytes of what is no text, and what to do with it
    b"PK\x03\x04": "a zip archive or an Office document: unpack it, or save the sheet as CSV",
    b"%PDF-": "a PDF: take its text out first",
    b"ARROW1": "Arrow's file format: write it as Parquet",
    b"ORC": "ORC: write it as Parquet",
    b"Obj\x01": "Avro: write it as Parquet or JSON lines",
    b"SQLite format 3\x00": "an SQLite database: export the table as CSV",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it",
    b"\xff\xff\xff\xff": "Arrow's stream format: write it as Parquet",
}
SKIPPED, SKIPPED_FIRST = b"\x2a\x4d\x18", [bytes([first]) for first in range(0x50, 0x60)]
PIECE_BYTES = 256
MARKS = {  # the little mark of UTF-32 begins with that of UTF-16, so it comes first
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
UTF8_MARK = b"\xef\xbb\xbf"
UTF8 = ("utf-8", "utf-8-sig")
BAD = "\udcff"  # stands for what an encoding cannot decode: its row is refused as no UTF-8
UTF16_ZEROS = 0.3  # share of zero bytes from which a text without a mark is taken for UTF-16


class DamagedError(InputError):
    """An input that cannot be read to its end; the rows before are good."""


class Guard(io.RawIOBase):
    """A stream whose failure is its end, told in `error`; its first bytes can be looked at."""

    def __init__(self, stream: Any, name: str, packed: str = "", inner: Guard | None = None) -> None:
        """Guard a stream.

        :param stream: anything with `read`.
        :param name: of the input, for messages.
        :param packed: compression that the stream undoes.
        :param inner: what it reads from, if it does.
        """
        self.name, self.error = name, ""
        self._source, self._packed = stream, packed
        self._read = getattr(stream, "read1", stream.read)  # read may lose what came before a failure
        self._kept = b""
        self._given = 0
        self._inner = inner
        self.pipe: bool = inner.pipe if inner is not None else not stream.seekable()

    def head(self) -> bytes:
        """The first bytes, which are given again."""
        while len(self._kept) < (PIPE_HEAD_BYTES if self.pipe else HEAD_BYTES) and (
            data := self._next(HEAD_BYTES)
        ):
            self._kept += data
        return self._kept

    def restart(self, offset: int) -> None:
        """Forget what was looked at: the stream was moved to an offset."""
        self._kept, self._given, self.error = b"", offset, ""

    def skip(self, offset: int) -> None:
        """Read and forget as far as an offset."""
        while self._given < offset and self.read(min(READ_BYTES, offset - self._given)):
            pass

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, target: Any) -> int:
        """As io.RawIOBase has it; a failure is the end."""
        self._kept = self._kept or self._next(len(target))
        data = self._kept[: len(target)]
        self._kept = self._kept[len(data) :]
        target[: len(data)] = data
        self._given += len(data)
        return len(data)

    def _next(self, size: int) -> bytes:
        if self.error:
            return b""
        try:
            data: bytes = self._read(min(size, READ_BYTES))
        except Exception as error:  # each library has its own: zlib.error, LZMAError, ArrowInvalid, ...
            words = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()
            self.error = self._below() or (
                f"{self._packed} data is cut off or damaged: {words[0]}" if self._packed else words[0]
            )
            return b""
        if not data:
            self.error = self._below()
        return data

    def _below(self) -> str:
        return self._inner.error if self._inner is not None else ""


class Utf8(io.RawIOBase):
    """A stream of some encoding as UTF-8. What cannot be decoded is marked, so that it is no UTF-8 either."""

    def __init__(self, stream: Guard, encoding: str, errors: str) -> None:
        """Decode a stream.

        :param encoding: as codecs knows it.
        :param errors: "strict" marks, "replace" gives U+FFFD.
        """
        import codecs

        codecs.register_error("jinabert-mark", lambda error: (BAD, getattr(error, "end", 0)))
        mode = "replace" if errors == "replace" else "jinabert-mark"
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)(mode)
        self._first, self._ended = True, False

    def read(self, size: int = -1) -> bytes:
        """The next bytes, some more than `size`."""
        data = b""
        while not data and not self._ended:
            raw = self._stream.read(READ_BYTES) or b""
            self._ended = not raw
            text = self._decoder.decode(raw, self._ended)
            if self._first and text:
                self._first, text = False, text.removeprefix("\ufeff")
            data = text.encode("utf-8", "surrogatepass")
        return data


class LineFeeds(io.RawIOBase):
    """A stream with LF where it has CR."""

    def __init__(self, stream: Guard) -> None:
        """Change a stream's line ends."""
        self._stream = stream

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, target: Any) -> int:
        """As io.RawIOBase has it."""
        data = (self._stream.read(len(target)) or b"").replace(b"\r", b"\n")
        target[: len(data)] = data
        return len(data)


class Members:
    """What bzip2 or xz packed, one piece after the other; bz2.BZ2File and lzma.LZMAFile end at a damaged one unseen."""

    def __init__(self, stream: Guard, make: Callable[[], Any]) -> None:
        """Unpack a stream.

        :param make: gives a decompressor for each piece.
        """
        self._stream, self._make, self._one = stream, make, make()
        self._begun = False  # the piece

    def read(self, size: int) -> bytes:
        """The next bytes; none at the end."""
        while True:
            if self._one.eof:
                rest, self._one, self._begun = self._one.unused_data, self._make(), False
            else:
                rest = self._stream.read(READ_BYTES) or b"" if self._one.needs_input else b""
                if not rest and self._one.needs_input:
                    if self._begun:
                        raise EOFError("it ended before the end-of-stream marker was reached")
                    return b""
            rest = rest if self._begun else rest.lstrip(b"\0")  # xz fills up with zeros
            if rest or self._begun:
                self._begun = True
                data: bytes = self._one.decompress(rest, size)
                if data:
                    return data


class Pieces:
    """What pyarrow unpacks, in small pieces: a read that fails gives nothing of what came before the failure."""

    def __init__(self, stream: Any) -> None:
        """Of a stream."""
        self._stream = stream

    def read(self, size: int) -> bytes:
        """The next bytes, some less than `size`."""
        data: bytes = self._stream.read(min(size, PIECE_BYTES))
        return data


def unpack(stream: Any, name: str) -> tuple[Guard, list[str]]:
    """Undo compressions that the first bytes tell, one within the other too.

    :param stream: binary.
    :param name: of the input, for messages.
    :return: the content, and what was undone.
    :raises InputError: zstd or lz4 without pyarrow, or a file of no use here.
    """
    guard, undone = Guard(stream, name), []
    while (packed := _packed(guard.head())) is not None:
        undone.append(packed)
        guard = Guard(_unpacked(guard, packed, name), name, packed, guard)
    head = guard.head()
    foreign = next((about for mark, about in FOREIGN.items() if head.startswith(mark)), None)
    if b"\0" not in head and not head.startswith(b"%PDF-"):
        foreign = None  # a text that begins so
    elif head[257:262] == b"ustar":
        foreign = "a tar archive: unpack it"
    if foreign is not None:
        raise InputError(f"{name}: {foreign}")
    return guard, undone


def _packed(head: bytes) -> str | None:
    while (
        head[1:4] == SKIPPED and head[:1] in SKIPPED_FIRST
    ):  # of zstd and lz4, at the beginning of pzstd's files
        head = head[8 + int.from_bytes(head[4:8], "little") :]
    found = next((PACKED[mark] for mark in PACKED if head.startswith(mark)), None)
    if found == "bz2" and head[4:7] not in (b"1AY", b"\x17rE"):  # a text may begin with BZh
        return None
    return found


def _unpacked(stream: Guard, packed: str, name: str) -> Any:
    if packed == "gzip":
        import gzip

        return gzip.GzipFile(fileobj=stream, mode="rb")
    if packed == "bz2":
        import bz2

        return Members(stream, bz2.BZ2Decompressor)
    if packed == "xz":
        import lzma

        return Members(stream, lzma.LZMADecompressor)
    arrow = pyarrow(packed, name)
    return Pieces(arrow.CompressedInputStream(arrow.PythonFile(stream, "r"), packed))


def encoding_of(head: bytes, name: str) -> str:
    """The encoding that the first bytes tell.

    :raises InputError: UTF-16 without a mark.
    """
    found = next((MARKS[mark] for mark in MARKS if head.startswith(mark)), None)
    zeros = head[::2].count(0), head[1::2].count(0)
    if found is None and len(head) >= 8 and max(zeros) > UTF16_ZEROS * len(head) > 9 * min(zeros):
        order = "le" if zeros[1] > zeros[0] else "be"
        raise InputError(f"{name}: looks like UTF-16 without a mark: say --encoding utf-16-{order}")
    return found or "utf-8"


def lines(
    stream: io.BufferedReader[Any], guard: Guard, offset: int, number: int, most: int
) -> Iterator[Line]:
    """Lines of a stream without their ends, LF or CRLF.

    :param stream: over `guard`, standing at `offset`.
    :param number: of its first line.
    :param most: bytes of a line; a longer one is not held.
    :return: number, offset of the end, content, or how many bytes it is too long to be given.
    :raises DamagedError: after the last whole line of a stream that failed.
    """
    while data := stream.readline(most + 2):
        size, ended = len(data), data.endswith(b"\n")
        while not ended and (more := stream.readline(READ_BYTES)):
            size, ended = size + len(more), more.endswith(b"\n")
        if guard.error and not ended:
            break
        offset += size
        end = -2 if data.endswith(b"\r\n") else -1 if data.endswith(b"\n") else None
        yield number, offset, size if size > most + 2 else data[:end]
        number += 1
    if guard.error:
        raise DamagedError(f"{guard.name}: cannot be read after line {number - 1:,} ({guard.error})")


def pyarrow(what: str, name: str) -> Any:
    """pyarrow, which the core does without: it is loaded for what needs it, where it is installed.

    :raises InputError: it is not.
    """
    try:
        return import_module("pyarrow")
    except ImportError:
        raise InputError(f'{name}: {what} needs pyarrow: pip install "jinabert-runtime[bulk]"') from None


if TYPE_CHECKING:
    Line = tuple[int, int, bytes | int]
