"""Token -> id, without paying for a dictionary of 30,000 tokens (about 6 ms in a new process) to look up a dozen.

The first look-ups search the bytes of vocab.txt (0.1 ms each); a program that makes one vector and ends needs no
more. After some dozens the dictionary is built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike

from runtime.errors import ModelError

_SEARCHES = 32  # before the dictionary is built: a query of twelve words, half of them rare


class Vocabulary:
    """A list of tokens; a token's index is its id, and of two equal tokens the last counts, as in `tokenizers`.

    Safe from several threads: at worst two of them build the same dictionary.

    :param tokens: The tokens.
    """

    get: Callable[[str], int | None]  # id of a token, None for one that is not in the vocabulary

    def __init__(self, tokens: Sequence[str]) -> None:
        self.longest = 0  # characters in a token; 0 until the dictionary is built
        self._size = len(tokens)
        self._lines = b""
        self._tokens: list[str] = []  # made at the first `tokens`
        self._searches_left = 0
        self._ids = self._build(tokens)

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> Vocabulary:
        """Read vocab.txt: UTF-8, one token a line.

        :param path: The file.
        :return: Its tokens.
        :raises ModelError: The file cannot be read or is not UTF-8.
        """
        try:
            with open(path, "rb") as file:
                lines = file.read()
            lines.decode("utf-8")
        except OSError as error:
            raise ModelError(f"{path}: cannot read the vocabulary: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ModelError(f"{path}: not UTF-8 at byte {error.start}; export the model again") from error
        if b"\r" in lines:
            lines = lines.replace(b"\r\n", b"\n")
        self = cls([])
        self._lines = b"\n" + lines + (b"" if lines.endswith(b"\n") or not lines else b"\n")
        self._size = self._lines.count(b"\n") - 1
        self._searches_left = _SEARCHES
        self.get = self._search
        return self

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self._size

    def tokens(self) -> list[str]:
        """:return: The tokens; the index of each is its id."""
        if not self._tokens:
            lines = self._lines.decode("utf-8").split("\n")[1:-1] if self._lines else []
            self._tokens = lines or sorted(self._ids, key=self._ids.__getitem__)
        return self._tokens

    def _search(self, token: str) -> int | None:
        if self._searches_left <= 0:
            if not self._ids:
                self._ids = self._build(self._lines.decode("utf-8").split("\n")[1:-1])
            return self._ids.get(token)
        self._searches_left -= 1
        line = b"\n" + token.encode("utf-8") + b"\n"
        found = self._lines.find(line)
        if found < 0:
            return None
        while (later := self._lines.find(line, found + 1)) >= 0:
            found = later
        return self._lines.count(b"\n", 0, found)

    def _build(self, tokens: Sequence[str]) -> dict[str, int]:
        ids = dict(zip(tokens, range(len(tokens)), strict=True))
        self.longest = max(map(len, tokens), default=0)
        self.get = ids.get
        return ids
