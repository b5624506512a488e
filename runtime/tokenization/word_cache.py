"""Word -> its ids, looked up when first met: most words of a text have been met before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

MAX_WORDS = 32_768  # in the cache, which then starts again: about 7 MB
MAX_WORD_LENGTH = 64  # characters; a longer word is hardly met twice


class WordCache(dict[str, tuple[int, ...]]):
    """Word -> its ids. Bounded.

    Each access is one operation of a dict, so threads need no lock: at worst two of them look up the same word.

    :param look_up: Gives the ids of a word that the cache does not hold.
    """

    __slots__ = ("look_up",)

    def __init__(self, look_up: Callable[[str], Sequence[int]]) -> None:
        super().__init__()
        self.look_up = look_up

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(self.look_up(word))
        if len(word) <= MAX_WORD_LENGTH:
            if len(self) >= MAX_WORDS:
                self.clear()
            self[word] = ids
        return ids
