"""Requests whose content says what they ask for, since their path does not.

A further task is one more RequestType, a function that prepares it, and its routes (routes.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .embed import embed, similarity
from .embeddings import embeddings
from .errors import ServiceError
from .rerank import rerank

if TYPE_CHECKING:
    from .context import Answer, Context


def default(document: object, context: Context) -> Answer:
    """POST / and /invocations: as /v1/embeddings; where there is inputs instead of input, as /embed or /similarity."""
    inputs = document.get("inputs") if isinstance(document, dict) else None
    tei = inputs is not None
    prepare = embed if tei else embeddings
    if isinstance(inputs, dict) and "source_sentence" in inputs:
        prepare = similarity
    try:
        return prepare(document, context)
    except ServiceError as error:
        error.in_tei_form = tei
        raise


def message(document: object, context: Context) -> Answer:
    """A request that has no path: of a direct invocation or of a queue. It is answered with an object."""
    if isinstance(document, dict) and "documents" in document:
        return rerank(document, context)
    return embeddings(document, context)
