"""CSV and TSV: rows of lines, where no quote ever makes one row of several unseen.

A quoted field may go on over lines (RFC 4180), and a text may have a quote that nobody meant so. A row over lines is
taken for one if no line within it looks like a row of its own: with the header's number of fields, and in each column
whose fields all have one shape in the file's first lines (such as numbers), of that shape. Where both readings are
possible, every line of it is refused; where the quote never closes well, only the line that opened it is.
"""

from __future__ import annotations

import re
from collections import deque

from runtime.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .streams import Line

DELIMITERS = (",", "\t", ";", "|")
SHAPE_CHARACTERS = 100  # of a field that are looked at
NO_QUOTES = "if quotes are part of the texts, say --quoting none"


class Table:
    """The header of a file, and how its lines become rows."""

    def __init__(self, head: bytes, delimiter: str | None, usual: str, quoting: str, key: str) -> None:
        """Read the header.

        :param head: first bytes, UTF-8.
        :param delimiter: None to choose the one by which the header has the column `key`.
        :param usual: the one to prefer.
        :param quoting: "auto", "multiline" or "none", see ReadOptions.
        :param key: column with the text.
        :raises InputError: there is a quote in it that does not close.
        """
        first, *more = head.split(b"\n")
        self._quoting = quoting
        self.offset, self.line = 0, 1  # where the rows begin
        sep = re.match(rb"(?i)\"?sep=(.)\"?\r?$", first)
        if sep:  # Excel's own first line
            self.offset, self.line = len(first) + 1, 2
            first, *more = more or [b""]
            delimiter = delimiter or sep[1].decode("ascii", "replace")
        self.offset, self.line = self.offset + len(first) + (1 if more else 0), self.line + 1
        header = first.removesuffix(b"\r").decode("utf-8", "replace")
        self.columns, self._delimiter = self._header(
            header, [delimiter] if delimiter else [usual, *DELIMITERS], key
        )
        self._shapes = self._regular(more[:-1])

    def _header(self, header: str, delimiters: list[str], key: str) -> tuple[list[str], str]:
        found = [(self._split(header, mark)[0], mark) for mark in delimiters]
        wanted = {key, key.partition(".")[0]}
        best = next(
            (pair for pair in found if wanted & set(pair[0])), max(found, key=lambda pair: len(pair[0]))
        )
        if self._split(header, best[1])[1] is not None:
            raise InputError(f"the header has a quote that does not close well: mend it, or {NO_QUOTES}")
        return best

    def _regular(self, lines: list[bytes]) -> list[str | None]:
        """The shape of each column's fields; None where they have several."""
        seen: list[set[str]] = [set() for _ in self.columns]
        for data in lines:
            fields = data.decode("utf-8", "replace").removesuffix("\r").split(self._delimiter)
            if b'"' not in data and len(fields) == len(self.columns):
                for shapes, field in zip(seen, fields, strict=True):
                    shapes.add(shape(field))
        return [next(iter(shapes)) if len(shapes) == 1 else None for shapes in seen]

    def rows(
        self, lines: Iterator[Line], decode: Callable[[bytes | int], tuple[str, str | None]], most: int
    ) -> Iterator[tuple[int, int, int, dict[str, str] | None, str | None]]:
        """Rows of lines.

        :param decode: text of a line, and why there is none.
        :param most: bytes of a row over lines.
        :return: line, line after it, offset there (-1 where one cannot go on), fields by column, why there are
            none; neither for a blank line.
        """
        back: deque[Line] = deque()

        def read() -> Line | None:
            return back.popleft() if back else next(lines, None)

        while (item := read()) is not None:
            number, end, _ = item
            after = number + 1
            text, problem = decode(item[2])
            if problem is None and not text.strip():
                yield number, after, end, None, None
                continue
            fields: list[str] = []
            if problem is None:
                fields, problem = self._split(text, self._delimiter)
            if problem == "open":
                taken = [item]
                fields, problem, both = self._over_lines(text, len(fields), read, taken, decode, most)
                if both:
                    reason = f"lines {number} to {taken[-1][0]} are one row by their quotes, or as many rows"
                    for line, stop, _ in taken:
                        stop = stop if line == taken[-1][0] else -1
                        yield (
                            line,
                            line + 1,
                            stop,
                            None,
                            f"{reason}: say --quoting multiline, or --quoting none",
                        )
                    continue
                if problem is None:
                    after, end = taken[-1][0] + 1, taken[-1][1]
                else:
                    back.extendleft(reversed(taken[1:]))
            if problem is None and len(fields) != len(self.columns):
                one = "field" if len(fields) == 1 else "fields"
                problem = f"{len(fields)} {one} where the header has {len(self.columns)}"
            value = None if problem else dict(zip(self.columns, fields, strict=True))
            yield number, after, end, value, problem

    def _split(self, line: str, delimiter: str) -> tuple[list[str], str | None]:
        """Fields of a line, or those before a problem; "open" where a quoted field does not end."""
        if '"' not in line or self._quoting == "none":
            return line.split(delimiter), None
        fields: list[str] = []
        place = 0
        while True:
            if not line.startswith('"', place):
                stop = line.find(delimiter, place)
                if stop < 0:
                    return [*fields, line[place:]], None
                fields.append(line[place:stop])
                place = stop + 1
                continue
            stop = line.find('"', place + 1)
            while stop >= 0 and line.startswith('"', stop + 1):
                stop = line.find('"', stop + 2)
            if stop < 0:
                return fields, "open"
            fields.append(line[place + 1 : stop].replace('""', '"'))
            if stop + 1 == len(line):
                return fields, None
            if line[stop + 1] != delimiter:
                return fields, f"text after a closing quote: {NO_QUOTES}"
            place = stop + 2

    def _over_lines(
        self,
        text: str,
        open_field: int,
        read: Callable[[], Line | None],
        taken: list[Line],
        decode: Callable[[bytes | int], tuple[str, str | None]],
        most: int,
    ) -> tuple[list[str], str | None, bool]:
        """A row whose quoted field goes on in the next lines, which `taken` gets; and whether they may be rows."""
        pieces, size, both = [text], len(text), False
        while (item := read()) is not None:
            taken.append(item)
            more, problem = decode(item[2])
            size += len(more)
            if problem is not None or size > most:
                break
            both = both or (self._quoting == "auto" and self._like_a_row(more, open_field))
            pieces.append(more)
            if more.count('"') % 2:  # else the quote stays as open as it was
                fields, problem = self._split("\n".join(pieces), self._delimiter)
                if problem != "open":
                    return fields, problem, both and problem is None
        return [], f"a quote that is never closed: {NO_QUOTES}", False

    def _like_a_row(self, line: str, open_field: int) -> bool:
        fields = line.split(self._delimiter)
        return len(fields) == len(self.columns) and all(
            wanted in (None, shape(field)) or place == open_field
            for place, (field, wanted) in enumerate(zip(fields, self._shapes, strict=True))
        )


def shape(field: str) -> str:
    """A field with every number as 0 and every word as a."""
    return re.sub(r"\d+", "0", re.sub(r"[^\W\d_]+", "a", field[:SHAPE_CHARACTERS]))
