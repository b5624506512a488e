"""Rerank requests, in the forms of Jina, Cohere and vLLM (`documents`) and of text-embeddings-inference (`texts`).

With an embedding model documents are scored by their token vectors (late interaction, runtime/multivector.py), with a
cross-encoder by the pair of query and document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from runtime.errors import InputError
from runtime.prompts import document_prompt, skipped_tokens

from .context import Answer, Computation
from .errors import ServiceError, dump, invalid
from .fields import Field, RequestType, boolean, choice, ignored, integer, kind, read, refused, word
from .inputs import Inputs, TokenizedTexts, check_total, inputs_of, memory_for, tokens_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .context import Context, Limits
    from .fields import Values

TRUNCATED_HEADER = "X-Truncated-Documents"  # how many were cut


class DocumentText(TypedDict):
    """A document."""

    text: str


class Span(TypedDict):
    """A part of a document, in characters."""

    start: int
    end: int


class RerankResult(TypedDict, total=False):
    """A document and how well it answers the query."""

    index: int
    relevance_score: float
    document: DocumentText
    span: Span  # the part that answers best, if asked for


class RerankUsage(TypedDict):
    """Tokens computed, and how many documents were cut."""

    prompt_tokens: int
    total_tokens: int
    truncated_texts: int


class RerankList(TypedDict):
    """Documents, the best first. meta is Cohere's."""

    id: str
    model: str
    results: list[RerankResult]
    usage: RerankUsage
    meta: dict[str, Any]


class Rank(TypedDict, total=False):
    """A text and how well it answers the query, as text-embeddings-inference has it."""

    index: int
    score: float
    text: str


Ranks = list[Rank]


def _query() -> Field:
    def check(value: Any, given: str, _: Limits) -> str:
        if isinstance(value, dict) and set(value) == {"text"}:
            value = value["text"]
        if not isinstance(value, str):
            raise invalid("query", f"{given} is {kind(value)}: expected a text")
        if not value.strip():
            raise invalid("query", f"{given} is empty: expected a text")
        return value

    text = {"type": "string", "pattern": r"\S"}
    own = {
        "anyOf": [
            text,
            {
                "type": "object",
                "properties": {"text": text},
                "required": ["text"],
                "additionalProperties": False,
            },
        ]
    }
    return Field("query", check, own, "What is asked", required=True)


def _documents(name: str, **more: Any) -> Field:
    def check(value: Any, given: str, limits: Limits) -> Inputs:
        if not isinstance(value, list):
            raise invalid(name, f"{given} is {kind(value)}: expected a list of texts")
        return inputs_of(value, name, given, limits._replace(accept_token_ids=False))

    text = {"type": "string"}
    item = {
        "type": "object",
        "properties": {"text": text},
        "required": ["text"],
        "additionalProperties": False,
    }
    own = {"type": "array", "items": {"anyOf": [text, item]}, "minItems": 1}
    return Field(name, check, own, 'Texts, or objects {"text": a text}', required=True, **more)


def _counts(_: Limits) -> tuple[int, int]:
    return 1, (1 << 31) - 1


def _lengths(limits: Limits) -> tuple[int, int]:
    return 3, (1 << 31) - 1


RERANK_REQUEST = RequestType(
    "RerankRequest",
    (
        _query(),
        _documents("documents"),
        word("model", "There is one model here: the answer names it"),
        integer("top_n", "Give the best so many; by default all", _counts, aliases={"top_k": None}),
        boolean("return_documents", "Give the texts too", default=False),
        boolean("return_spans", "Say which part of each document answers best (embedding models)", default=False),
        integer(
            "max_tokens_per_doc", "Cut each document to so many tokens; longer ones are cut anyway", _lengths,
            aliases={"truncate_prompt_tokens": None},
        ),
        refused("rank_fields", "documents are texts", (["text"],)),
        refused("max_chunks_per_doc", "a document is read as a whole", (1,)),
        refused("return_embeddings", "scores are given", (False,)),
        ignored("truncation", "Documents that are too long are cut, and X-Truncated-Documents says how many"),
        ignored("user"),
        ignored("priority"),
        ignored("request_id"),
    ),
    {"query": "How is the weather?", "documents": ["It rains.", "Bake the bread."]},
)  # fmt: skip

TEI_RERANK_REQUEST = RequestType(
    "TeiRerankRequest",
    (
        _query(),
        _documents("texts"),
        boolean("raw_scores", "Give a cross-encoder's logits instead of numbers from 0 to 1", default=False),
        boolean("return_text", "Give the texts too", default=False),
        boolean("truncate", "Cut texts that are too long instead of refusing them", default=False),
        choice("truncation_direction", ("right", "Right"), "Which end is cut", default="right"),
    ),
    {"query": "How is the weather?", "texts": ["It rains.", "Bake the bread."]},
)


def rerank(document: object, context: Context) -> Answer:
    """POST /v1/rerank and /v2/rerank, of Jina, Cohere and vLLM."""
    values = read(document, RERANK_REQUEST, context.limits)
    if values["model"] not in (None, context.manifest.name):
        values.ignored = ("model", *values.ignored)
    texts = [text for text in values["documents"] if isinstance(text, str)]
    asked, tokens, query_tokens, spans = _asked(
        values["query"],
        texts,
        "documents",
        context,
        truncate=True,
        max_length=values["max_tokens_per_doc"],
        spans=bool(values["return_spans"]),
    )
    count = sum(map(len, tokens.texts)) + query_tokens

    def respond(found: NDArray[np.float32]) -> bytes:
        from runtime.reranker import best_first

        scores = _between_0_and_1(found[:, 0], context)
        results: list[RerankResult] = []
        for index in best_first(found[:, 0], values["top_n"]):
            result: RerankResult = {"index": index, "relevance_score": scores[index]}
            if values["return_documents"]:
                result["document"] = {"text": texts[index]}
            if spans is not None:
                start, end = spans(index, found[index])
                result["span"] = {"start": start, "end": end}
            results.append(result)
        name = context.manifest.name
        usage: RerankUsage = {
            "prompt_tokens": count, "total_tokens": count, "truncated_texts": tokens.truncated
        }  # fmt: skip
        meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
        answer: RerankList = {"id": name, "model": name, "results": results, "usage": usage, "meta": meta}
        return dump(answer)

    return _answer(values, asked._replace(respond=respond), tokens)


def tei_rerank(document: object, context: Context) -> Answer:
    """POST /rerank, of text-embeddings-inference; with documents instead of texts, as /v1/rerank."""
    if isinstance(document, dict) and "documents" in document:
        try:
            return rerank(document, context)
        except ServiceError as error:
            error.in_tei_form = False
            raise
    values = read(document, TEI_RERANK_REQUEST, context.limits)
    texts = [text for text in values["texts"] if isinstance(text, str)]
    asked, tokens, _, _ = _asked(values["query"], texts, "texts", context, truncate=bool(values["truncate"]))

    def respond(found: NDArray[np.float32]) -> bytes:
        from runtime.reranker import best_first

        raw = bool(values["raw_scores"])
        scores = found[:, 0].tolist() if raw else _between_0_and_1(found[:, 0], context)
        ranks: Ranks = []
        for index in best_first(found[:, 0], None):
            rank: Rank = {"index": index, "score": scores[index]}
            if values["return_text"]:
                rank["text"] = texts[index]
            ranks.append(rank)
        return dump(ranks)

    return _answer(values, asked._replace(respond=respond), tokens)


def _asked(
    query: str,
    texts: list[str],
    name: str,
    context: Context,
    *,
    truncate: bool,
    max_length: int | None = None,
    spans: bool = False,
) -> tuple[Computation, TokenizedTexts, int, Callable[[int, NDArray[np.float32]], tuple[int, int]] | None]:
    """What is to be computed, the documents' tokens, the query's, and what finds a document's best span."""
    if context.manifest.task == "rerank":
        tokens = _pairs(query, texts, name, context, truncate=truncate, max_length=max_length)
        return Computation(tokens.texts, False, _unset, request_bytes=tokens.request_bytes), tokens, 0, None
    from runtime.reranker import TokenScorer, span_of  # not part of a function's cold start

    manifest, limits = context.manifest, context.limits
    prompt = document_prompt(manifest)
    try:
        scorer = TokenScorer(context.model, query, limits.max_length, spans=spans)
    except InputError as error:
        raise invalid("query", str(error)) from None
    tokens = tokens_of(
        list(texts),
        name,
        context,
        truncate=truncate,
        max_length=max_length,
        prompt=prompt.text,
        value_bytes=0,
    )
    check_total(sum(map(len, tokens.texts)) + scorer.tokens, name, limits)
    most = min(max_length or limits.max_length, limits.max_length)

    def span(index: int, found: NDArray[np.float32]) -> tuple[int, int]:
        _, first, end = found.tolist()
        return span_of(context.model, prompt.text, texts[index], int(first), int(end), most)

    asked = Computation(
        tokens.texts,
        True,
        _unset,
        skip=skipped_tokens(manifest, context.tokenizer, prompt),
        truncated=tokens.truncated,
        request_bytes=tokens.request_bytes,
        reduce=scorer,
        width=TokenScorer.SIZE,
    )
    return asked, tokens, scorer.tokens, span if spans else None


def _pairs(
    query: str, texts: list[str], name: str, context: Context, *, truncate: bool, max_length: int | None
) -> TokenizedTexts:
    """Token ids of query and document together; the document is cut."""
    tokenizer, limits = context.tokenizer, context.limits
    request_bytes, longest = memory_for(texts, context, 0)
    most = min(max_length or limits.max_length, limits.max_length)
    room = tokenizer.count(query) + len(tokenizer.middle)
    if room >= most:
        raise invalid(
            "query", f"the query has {room:,} tokens, which leaves no room for a document in {most:,}"
        )
    found: list[NDArray[np.int32]] = []
    truncated = total = 0
    for number, text in enumerate(texts):
        ids, _, cut = tokenizer.encode_pair(query, text, most)
        if cut and not truncate:
            raise ServiceError(
                400,
                "text_too_long",
                f"{name}[{number}] has {len(ids) + cut:,} tokens with the query, more than {most:,}: shorten it, or "
                "pass truncate true to have it cut",
                param=name,
            )
        if len(ids) > longest:
            raise ServiceError(
                413,
                "out_of_memory",
                f"{name}[{number}] has {len(ids):,} tokens; the service has memory for {longest:,}: shorten it",
                param=name,
            )
        truncated += cut > 0
        total += len(ids)
        check_total(total, name, limits)
        found.append(np.array(ids, np.int32))
    return TokenizedTexts(found, truncated, request_bytes)


def _between_0_and_1(scores: NDArray[np.float32], context: Context) -> list[float]:
    """A cross-encoder's logits through the logistic function; the scores of an embedding model as they are."""
    if context.manifest.task != "rerank":
        return [float(score) for score in scores]
    return [1 / (1 + float(np.exp(-min(max(float(score), -80.0), 80.0)))) for score in scores]


def _answer(values: Values, asked: Computation, tokens: TokenizedTexts) -> Answer:
    headers = values.headers()
    if tokens.truncated:
        headers[TRUNCATED_HEADER] = str(tokens.truncated)
    return Answer(asked, headers)


def _unset(_: NDArray[np.float32]) -> bytes:
    return b""
