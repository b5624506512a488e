"""The paths that every door answers: what each takes, gives and speaks (OpenAI's or text-embeddings-inference's form).

A door serves HEAD wherever it serves GET.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from . import embed, embeddings, requests, rerank, responses, tokens
from .errors import ServiceError, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from .context import Answer, Context
    from .fields import RequestType

    Prepare = Callable[[object, Context], Answer]


class Route(NamedTuple):
    """A path and method."""

    path: str
    operation: str  # its name; one document path each
    summary: str
    tei: bool = False  # errors as text-embeddings-inference writes them
    prepare: Prepare | None = None  # of a POST
    request: RequestType | None = None
    response: Any = None  # type of the answer; None: no JSON, or any
    public: bool = False  # needs no API key: it tells nothing about use
    same_as: str | None = None  # another path for what that one does
    media_type: str = "application/json"

    @property
    def method(self) -> str:
        """Its method: POST or GET."""
        return "GET" if self.prepare is None else "POST"


def _without(message: str) -> Prepare:
    def prepare(_: object, __: Context) -> Answer:
        raise ServiceError(500, "not_of_this_model", message)

    return prepare


ROUTES = (
    Route(
        "/v1/embeddings", "embeddings", "Vectors of texts, in OpenAI's and Jina's form", False,
        embeddings.embeddings, embeddings.EMBEDDING_REQUEST, responses.EmbeddingList,
    ),
    Route("/embeddings", "embeddings_unversioned", "", False, embeddings.embeddings, same_as="/v1/embeddings"),
    Route("/v1/models", "models", "The model, in OpenAI's form", response=responses.ModelList),
    Route("/v1/models/{id}", "model", "The model by its name", response=responses.ModelCard),
    Route(
        "/embed", "embed", "Vectors of texts, in text-embeddings-inference's form", True,
        embed.embed, embed.EMBED_REQUEST, responses.Vectors,
    ),
    Route(
        "/similarity", "similarity", "Cosine similarity of a text with others", True,
        embed.similarity, embed.SIMILARITY_REQUEST, responses.Similarities,
    ),
    Route(
        "/tokenize", "tokenize", "Tokens of texts", True,
        tokens.tokenize, tokens.TOKENIZE_REQUEST, responses.TokenLists,
    ),
    Route(
        "/decode", "decode", "Texts of token ids", True, tokens.decode, tokens.DECODE_REQUEST, responses.Texts,
    ),
    Route("/vertex", "vertex", "", True, embed.vertex, same_as="/embed"),
    Route(
        "/", "root", "As /v1/embeddings; with inputs instead of input, as /embed", False,
        requests.default, embeddings.EMBEDDING_REQUEST, responses.EmbeddingList, same_as="/v1/embeddings",
    ),
    Route("/invocations", "invocations", "", False, requests.default, same_as="/v1/embeddings"),
    Route(
        "/embed_all", "embed_all", "The vector of each token, special tokens included, before pooling", True,
        embed.embed_all, embed.EMBED_ALL_REQUEST, responses.TokenVectors,
    ),
    Route(
        "/embed_sparse", "embed_sparse", "", True,
        _without("Model is not an embedding model with SPLADE pooling"), same_as="",
    ),
    Route("/predict", "predict", "", True, _without("Model is not a classifier model"), same_as=""),
    Route(
        "/v1/rerank", "rerank_v1", "Documents by how well they answer a query, in Jina's and Cohere's form", False,
        rerank.rerank, rerank.RERANK_REQUEST, rerank.RerankList,
    ),
    Route("/v2/rerank", "rerank_v2", "", False, rerank.rerank, same_as="/v1/rerank"),
    Route(
        "/rerank", "rerank", "Texts by how well they answer a query, in text-embeddings-inference's form; with "
        "documents instead of texts, as /v1/rerank", True,
        rerank.tei_rerank, rerank.TEI_RERANK_REQUEST, rerank.Ranks,
    ),
    Route("/info", "info", "The model and the limits", True, response=responses.Info),
    Route("/health", "health", "Whether the service takes requests", True, response=responses.Health, public=True),
    Route("/ping", "ping", "", True, public=True, same_as="/health"),
)  # fmt: skip

MODELS = "/v1/models/"
BY_PATH = {(route.method, route.path): route for route in ROUTES}


def find(method: str, path: str) -> Route | None:
    """The route of a request, whatever stage or prefix stands before its path.

    :param method: of HTTP.
    :param path: of the URL.
    :return: None for a path that no route ends.
    """
    path = "/" + path.strip("/")
    method = "GET" if method == "HEAD" else method
    while True:
        found = BY_PATH.get((method, path))
        if found is None and path.startswith(MODELS):
            found = BY_PATH.get((method, MODELS + "{id}"))
        if found is not None or path == "/":
            return found
        _, slash, rest = path[1:].partition("/")
        if not slash:
            return None
        path = slash + rest


def model_named(name: str, context: Context) -> responses.ModelCard:
    """GET /v1/models/{id}.

    :param name: that the client asks for.
    :param context: of the door.
    :raises ServiceError: 404.
    """
    own = context.manifest.name
    if name != own:
        raise ServiceError(
            404,
            "model_not_found",
            f"model {shown(name)} is not here{nearest(name, [own]) or f': {own} is'}",
            param="model",
        )
    return responses.model_card(context)


def no_route(path: str) -> ServiceError:
    """Make the 404 of a path that is not known."""
    known = sorted({route.path for route in ROUTES})
    return ServiceError(
        404, "not_found", f"no such path{nearest(path, known) or ': GET /openapi.json lists them'}"
    )


def wrong_method(allowed: str) -> ServiceError:
    """Make the 405 of a known path."""
    return ServiceError(
        405, "method_not_allowed", f"not for this path: must be {allowed}", headers={"Allow": allowed}
    )
