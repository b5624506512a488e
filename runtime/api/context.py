"""What the API knows of a door: the model that it serves and its limits. And what a request becomes for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from runtime.manifest import Manifest
    from runtime.model import Model, Reduce
    from runtime.tokenization.tokenizer import Tokenizer

# What clients send when nobody told them otherwise: OpenAI's own limits are 2,048 texts and 300,000 tokens.
MAX_TEXTS = 2048
MAX_REQUEST_TOKENS = 300_000
MAX_BODY_BYTES = 4 << 20


class Limits(NamedTuple):
    """What a request may ask for."""

    dimension: int  # D, of the model
    vocabulary: int  # token ids of the model
    max_length: int  # tokens of a text
    max_texts: int = MAX_TEXTS
    max_request_tokens: int = MAX_REQUEST_TOKENS
    max_body_bytes: int = MAX_BODY_BYTES
    max_response_bytes: int | None = None
    accept_token_ids: bool = False
    prompts: tuple[str, ...] = ()  # names of the model's
    truncatable: bool = False  # its vectors may be cut
    max_token_vectors: int | None = (
        None  # tokens whose vectors are given at once; None: as many as a text may have
    )


class Context(NamedTuple):
    """A door."""

    model: Model
    limits: Limits
    longest: Callable[[int], int]  # bytes of a request -> tokens of a text that memory allows beside them
    created: int = 0  # seconds since 1970, of the model folder

    @property
    def manifest(self) -> Manifest:
        """Of the model."""
        return self.model.manifest

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        return self.model.tokenizer


class Computation(NamedTuple):
    """What a door has the model compute for a request, and what then becomes of it."""

    texts: list[NDArray[np.int32]]  # ids of each, special tokens included
    normalize: bool
    respond: Callable[[NDArray[Any]], bytes]  # results: [n, D], a vector a text -> the answer's body
    skip: int = 0  # tokens at a text's start that pooling leaves out, see runtime/prompts.py
    late: bool = False  # the texts are parts of one, which is read as a whole (late chunking)
    truncated: int = 0  # texts that were cut
    request_bytes: int = 0  # memory that request and answer take
    reduce: Reduce | None = None  # what a text is wanted for instead of its vector, see Model.reduce_batch
    width: int | None = None  # numbers that it gives; None: D; 0: an array of any shape

    def results(self, dimension: int) -> NDArray[Any]:
        """Make room for what a text each gives.

        :param dimension: D.
        :return: [n, width]; n objects where the width is 0.
        """
        if self.width == 0:
            return np.empty(len(self.texts), object)
        return np.empty((len(self.texts), self.width or dimension), np.float32)


class Answer(NamedTuple):
    """A prepared request: its body, or what has to be computed for it, and headers that go with it."""

    content: bytes | Computation
    headers: dict[str, str]


def created(folder: str) -> int:
    """When a model folder was made.

    :param folder: model folder.
    :return: seconds since 1970.
    """
    from runtime.manifest import MANIFEST

    return int(os.stat(os.path.join(folder, MANIFEST)).st_mtime)
