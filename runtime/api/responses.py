"""The answers: their types, from which the OpenAPI document is made, and how they are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

from runtime import __version__

from .encoding import write
from .errors import dump

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from runtime.tokenization.tokenizer import Tokenizer

    from .context import Context

FLOAT_CHARACTERS = 16  # of a value in JSON: nine digits, sign, point, leading zeros, comma
ITEM_CHARACTERS = 64  # of what stands around one vector

Vectors = list[list[float]]
TokenVectors = list[Vectors]  # a vector a token, of each text
Texts = list[str]
Similarities = list[float]


class Embedding(TypedDict):
    """The vector of one text."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str  # numbers, or base64


class Usage(TypedDict):
    """Tokens computed, special tokens included, and how many texts were cut."""

    prompt_tokens: int
    total_tokens: int
    truncated_texts: int


class EmbeddingList(TypedDict):
    """Vectors, in the order of the input."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Token(TypedDict):
    """A token of a text; start and stop count characters."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


TokenLists = list[list[Token]]


class PoolingOf(TypedDict):
    """How token vectors become a text's."""

    pooling: str


class ModelType(TypedDict, total=False):
    """What the model is for: one of the two."""

    embedding: PoolingOf
    reranker: dict[str, dict[str, str]]


class Info(TypedDict):
    """The model and the limits, as text-embeddings-inference tells them; the last three are not of it."""

    model_id: str
    model_sha: None
    model_dtype: str
    model_type: ModelType
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: None
    docker_label: None
    dimension: int
    max_request_tokens: int
    accept_token_ids: bool


class ModelCard(TypedDict):
    """A model, as OpenAI lists it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    """The one model that is served."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(TypedDict):
    """The service takes requests."""

    status: Literal["ok"]


def embedding_list(vectors: NDArray[np.float32], kind: str, model: str, tokens: int, truncated: int) -> bytes:
    """An EmbeddingList as JSON.

    :param vectors: [n, D].
    :param kind: of encoding.EMBEDDING_TYPES.
    :param model: the model's name.
    :param tokens: that were computed.
    :param truncated: texts that were cut.
    """
    items = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, vector)
        for index, vector in enumerate(write(vectors, kind))
    )
    usage: Usage = {"prompt_tokens": tokens, "total_tokens": tokens, "truncated_texts": truncated}
    return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % (items, dump(model), dump(usage))


def vector_list(vectors: NDArray[np.float32]) -> bytes:
    """Vectors as JSON.

    :param vectors: [n, D].
    """
    return b"[%b]" % b",".join(write(vectors, "float"))


def token_vector_lists(texts: Iterable[NDArray[np.float32]]) -> bytes:
    """Token vectors as JSON.

    :param texts: [T, hidden_size] of each text.
    """
    return b"[%b]" % b",".join(map(vector_list, texts))


def characters_of(dimension: int, kind: str) -> int:
    """The most that one text's vector takes of an answer.

    :param dimension: D.
    :param kind: of encoding.EMBEDDING_TYPES.
    :return: characters.
    """
    inside = {"float": dimension * FLOAT_CHARACTERS, "base64": (dimension * 4 + 2) // 3 * 4 + 2}
    return ITEM_CHARACTERS + inside.get(kind, (dimension + 7) // 8 * 5 + 2)


def model_list(context: Context) -> ModelList:
    """List the model, as GET /v1/models does."""
    return {"object": "list", "data": [model_card(context)]}


def model_card(context: Context) -> ModelCard:
    """Show the model, as GET /v1/models/{id} does."""
    return {
        "id": context.manifest.name,
        "object": "model",
        "created": context.created,
        "owned_by": "jinabert-runtime",
    }


def info(context: Context, *, requests: int, batch_tokens: int, workers: int) -> Info:
    """The model and the limits, as GET /info tells them.

    :param context: of the door.
    :param requests: answered at once.
    :param batch_tokens: budget of a batch.
    :param workers: threads that tokenize.
    """
    manifest, limits = context.manifest, context.limits
    model_type: ModelType = {"embedding": {"pooling": ",".join(manifest.pooling)}}
    if manifest.task == "rerank":
        model_type = {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": "0"}}}
    return {
        "model_id": manifest.name,
        "model_sha": None,
        "model_dtype": "float32" if manifest.precision == "fp32" else manifest.precision,
        "model_type": model_type,
        "max_concurrent_requests": requests,
        "max_input_length": min(limits.max_length, context.longest(0)),
        "max_batch_tokens": batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": limits.max_texts,
        "auto_truncate": False,
        "tokenization_workers": workers,
        "version": __version__,
        "sha": None,
        "docker_label": None,
        "dimension": limits.dimension,
        "max_request_tokens": limits.max_request_tokens,
        "accept_token_ids": limits.accept_token_ids,
    }


def token_list(text: str, tokenizer: Tokenizer, special: bool) -> list[Token]:
    """The tokens of a text.

    :param text: it.
    :param tokenizer: the model's.
    :param special: list the special tokens that are added, too.
    """
    ids, offsets = tokenizer.encode_with_offsets(text)
    first, last = len(tokenizer.prefix), len(ids) - len(tokenizer.suffix)
    tokens: list[Token] = []
    for place, (number, (start, stop)) in enumerate(zip(ids, offsets, strict=True)):
        if first <= place < last:
            tokens.append(
                {"id": number, "text": text[start:stop], "special": False, "start": start, "stop": stop}
            )
        elif special:
            name = tokenizer.special_text(number)
            tokens.append({"id": number, "text": name, "special": True, "start": None, "stop": None})
    return tokens
