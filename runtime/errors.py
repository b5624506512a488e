"""Every error that this package raises on purpose, besides TypeError for a text that is no str.

    JinaBertError
    ├── ModelError          a model folder or one of its files is missing, damaged or of another kind
    ├── InputError          an argument or an input file cannot be used   (also a ValueError)
    │   └── TextTooLongError    overflow="error" and a text longer than max_length
    ├── OutputError         the model gave a vector that is not finite
    └── OutOfMemoryError    onnxruntime could not get memory               (also a MemoryError)

Each message is one line: the value seen, the reason, the remedy.
"""

from __future__ import annotations


class JinaBertError(Exception):
    """Base of the errors above."""


class ModelError(JinaBertError):
    """A model folder, or a file in it, that is missing, damaged, unreadable or of another kind."""


class InputError(JinaBertError, ValueError):
    """An argument, a text or an input file that cannot be used."""


class TextTooLongError(InputError):
    """A text has more tokens than max_length and overflow is "error"."""

    def __init__(self, index: int, tokens: int, max_length: int) -> None:
        """Say which text it is: its index among the texts given, its tokens, and what was allowed."""
        super().__init__(
            f"texts[{index}] has {tokens:,} tokens, more than max_length {max_length:,}: shorten it, raise max_length, "
            "or cut it with overflow='truncate'"
        )
        self.index = index
        self.tokens = tokens
        self.max_length = max_length

    def __reduce__(self) -> tuple[type[TextTooLongError], tuple[int, int, int]]:
        return type(self), (self.index, self.tokens, self.max_length)


class OutputError(JinaBertError):
    """The model returned a vector that is not finite."""


class OutOfMemoryError(JinaBertError, MemoryError):
    """onnxruntime could not allocate what a text needs."""
