"""What one request wants computed: the texts that wait, the vectors that are there, whom to tell.

Threads of the queues set results; the one that sets the last calls `on_done`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from runtime.model import Model, Reduce


class Task:
    """n vectors [n, D] float32, or other arrays, to be made, from parts that are computed one by one."""

    def __init__(self, lengths: list[int], vectors: NDArray[Any]) -> None:
        """Start with nothing computed.

        :param lengths: tokens of each part.
        :param vectors: [n, D], room for them.
        """
        self.lengths = lengths
        self.tokens = sum(lengths)
        self.vectors = vectors
        self.on_done: Callable[[], None] = lambda: None  # called once, from any thread
        self.error: BaseException | None = None
        self.done = False  # answered, failed or given up: nothing of it is worth computing any more
        self._lock = threading.Lock()
        self._missing = len(lengths)

    def finished(self) -> None:
        """A part is done."""
        with self._lock:
            self._missing -= 1
            if self._missing or self.done:
                return
            self.done = True
        self.on_done()

    def fail(self, error: BaseException) -> None:
        """A part failed, and so the request does; the first error counts.

        :param error: see errors.error_response.
        """
        if self.cancel():
            self.error = error
            self.on_done()

    def cancel(self) -> bool:
        """Nobody waits any more.

        :return: whether somebody did.
        """
        with self._lock:
            waited, self.done = not self.done, True
        return waited


class TextsTask(Task):
    """A vector a text. Each text is a part, and may share a batch with those of other requests."""

    def __init__(
        self,
        texts: Sequence[NDArray[np.int32]],
        vectors: NDArray[Any],
        normalize: bool,
        skip: int = 0,
        reduce: Reduce | None = None,
    ) -> None:
        """Put the texts of a request together.

        :param texts: ids of each text, special tokens included.
        :param vectors: [n, D], room for them.
        :param normalize: give vectors of length 1.
        :param skip: tokens at each text's start that pooling leaves out.
        :param reduce: gives what is wanted of a text; None for its vector.
        """
        super().__init__([len(text) for text in texts], vectors)
        self.texts = texts
        self.normalize = normalize
        self.skip = skip
        self.reduce = reduce

    def set_result(self, number: int, vector: NDArray[np.float32]) -> None:
        """A text's vector [D]."""
        self.vectors[number] = vector
        self.finished()


class IndivisibleTask(Task):
    """Something that a function does in one go, with a queue's model for itself."""

    def __init__(
        self, tokens: int, vectors: int, dimension: int, compute: Callable[[Model], NDArray[np.float32]]
    ) -> None:
        """Wrap a function as a task.

        :param tokens: that it runs.
        :param vectors: n.
        :param dimension: D.
        :param compute: returns [n, D].
        """
        super().__init__([tokens], np.empty((vectors, dimension), np.float32))
        self.compute = compute

    def set_result(self, vectors: NDArray[np.float32]) -> None:
        """All vectors [n, D]."""
        self.vectors = vectors
        self.finished()
