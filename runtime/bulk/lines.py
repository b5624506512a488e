"""Lines of a binary stream, bounded: a line without an end does not fill the memory."""

from __future__ import annotations

from typing import Any

MAX_LINE_BYTES = 64 << 20


class Lines:
    """Lines as str for csv.reader, with a count of the bytes they came from.

    Invalid UTF-8 becomes lone surrogates (surrogateescape), so that a bad row is one bad row.
    """

    def __init__(self, stream: Any, stop: int | None = None) -> None:
        """Read from where the stream stands.

        :param stream: binary, with readline.
        :param stop: bytes to read; None to the end.
        """
        self._stream = stream
        self._stop = stop
        self.bytes = 0

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        data = self._read()
        if not data:
            raise StopIteration
        if len(data) == MAX_LINE_BYTES and not data.endswith(b"\n"):
            while data and not data.endswith(b"\n"):
                data = self._read()
            return "x" * (MAX_LINE_BYTES + 1)  # more than a field may have: csv refuses the row
        return data.decode("utf-8", "surrogateescape")

    def _read(self) -> bytes:
        limit = MAX_LINE_BYTES if self._stop is None else min(MAX_LINE_BYTES, self._stop - self.bytes)
        data: bytes = self._stream.readline(limit) if limit > 0 else b""
        self.bytes += len(data)
        return data
