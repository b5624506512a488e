"""Haystack: components that embed a text and documents, and one that ranks documents.

    pipeline.add_component("embedder", JinaBertTextEmbedder())
    documents = JinaBertDocumentEmbedder(meta_fields_to_embed=["title"]).run(documents)["documents"]

Both share one loaded model. Haystack's telemetry is off unless the environment turns it on, or Haystack is imported
before this file.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING, Any, cast

from runtime.integrations import missing, shared_embedder, shared_ranker
from runtime.prompts import document_prompt, query_prompt

# Nothing else of this package sends anything either.
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError as error:
    raise missing("haystack-ai", "haystack", error) from None

try:
    from haystack.core.serialization import allow_deserialization_module
except ImportError:  # an older Haystack, which loads pipelines with any module
    pass
else:
    allow_deserialization_module(__name__)  # so that a pipeline with these components can be read again

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from runtime.embedder import Embedder
    from runtime.manifest import Manifest
    from runtime.prompts import Prompt
    from runtime.reranker import Reranker

__all__ = ["JinaBertDocumentEmbedder", "JinaBertRanker", "JinaBertTextEmbedder"]


class _Component:
    """What all have in common: settings that are written down, and a model that is loaded when it is first needed."""

    model: str | None
    threads: int | None
    max_length: int | None
    _loaded: Embedder | Reranker | None = None

    @staticmethod
    def _share(model: str | None, threads: int | None) -> Embedder | Reranker:
        return shared_embedder(model, threads)

    def warm_up(self) -> None:
        """Load the model, or share the one that another adapter of this process has loaded.

        :raises ModelError: the folder or a file in it is missing, damaged or of another kind.
        """
        if self._loaded is None:
            self._loaded = self._share(self.model, self.threads)

    def to_dict(self) -> dict[str, Any]:
        """Return the component as Haystack writes it down: what it was made with."""
        names = [name for name in signature(type(self).__init__).parameters if name != "self"]
        written: dict[str, Any] = default_to_dict(self, **{name: getattr(self, name) for name in names})
        return written

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Make a component from what to_dict gave.

        :param data: what to_dict gave.
        :return: the component.
        """
        made: Self = default_from_dict(cls, data)
        return made


class _Embedding(_Component):
    """What embeds texts."""

    dimensions: int | None
    prefix: str
    suffix: str

    def _embed(
        self, texts: list[str], choose: Callable[[Manifest], Prompt], show_progress: bool = False
    ) -> tuple[list[list[float]], dict[str, Any]]:
        self.warm_up()
        embedder = cast("Embedder", self._loaded)
        vectors, stats = embedder.encode(
            [self.prefix + text + self.suffix for text in texts],
            prompt=choose(embedder.manifest).text,
            max_length=self.max_length,
            dimensions=self.dimensions,
            show_progress=show_progress,
            return_stats=True,
        )
        usage = {"prompt_tokens": stats.tokens, "total_tokens": stats.tokens}
        return vectors.tolist(), {"model": embedder.manifest.name, "usage": usage}


class _OfDocuments(_Component):
    """What reads documents."""

    meta_fields_to_embed: list[str]
    embedding_separator: str

    def _texts(self, documents: list[Document], remedy: str = "") -> list[str]:
        """Each document's content, after some fields of its meta."""
        if not isinstance(documents, list) or not all(isinstance(one, Document) for one in documents):
            raise TypeError(f"documents is not a list of Document{remedy}")
        texts = []
        for document in documents:
            fields = [document.meta.get(name) for name in self.meta_fields_to_embed]
            parts = [*(str(field) for field in fields if field is not None), document.content or ""]
            texts.append(self.embedding_separator.join(parts))
        return texts


@component
class JinaBertTextEmbedder(_Embedding):
    """Embeds a text, such as a query. The vector has length 1."""

    def __init__(
        self,
        model: str | None = None,
        threads: int | None = None,
        max_length: int | None = None,
        prefix: str = "",
        suffix: str = "",
        dimensions: int | None = None,
    ) -> None:
        """Nothing is loaded before warm_up or the first run.

        :param model: model folder; None for the bundled model.
        :param threads: as in Embedder.
        :param max_length: longer texts are cut after this many tokens; None for the model's own maximum.
        :param dimensions: numbers of a vector, of a model exported with --rotate; None for all.
        :param prefix: put before the text.
        :param suffix: put after the text.
        """
        self.model, self.threads, self.max_length, self.dimensions = model, threads, max_length, dimensions
        self.prefix, self.suffix = prefix, suffix

    @component.output_types(embedding=list[float], meta=dict[str, Any])  # type: ignore[untyped-decorator]
    def run(self, text: str) -> dict[str, Any]:
        """Embed what the component is given.

        :param text: one text.
        :return: "embedding", a vector of D numbers, and "meta" with the model's name and the tokens that were run.
        :raises TypeError: text is not a str.
        """
        if not isinstance(text, str):
            raise TypeError(
                f"text is {type(text).__name__}, not str: for a list of Document use JinaBertDocumentEmbedder"
            )
        vectors, meta = self._embed([text], query_prompt)
        return {"embedding": vectors[0], "meta": meta}

    @component.output_types(embedding=list[float], meta=dict[str, Any])  # type: ignore[untyped-decorator]
    async def run_async(self, text: str) -> dict[str, Any]:
        """As `run`, in a thread."""
        return await asyncio.to_thread(self.run, text)


@component
class JinaBertDocumentEmbedder(_Embedding, _OfDocuments):
    """Embeds documents: their content, after the fields of their meta that are asked for. Vectors have length 1."""

    def __init__(
        self,
        model: str | None = None,
        threads: int | None = None,
        max_length: int | None = None,
        prefix: str = "",
        suffix: str = "",
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        progress_bar: bool = False,
        dimensions: int | None = None,
    ) -> None:
        """Nothing is loaded before warm_up or the first run.

        :param model: model folder; None for the bundled model.
        :param threads: as in Embedder.
        :param max_length: longer texts are cut after this many tokens; None for the model's own maximum.
        :param dimensions: numbers of a vector, of a model exported with --rotate; None for all.
        :param prefix: put before each text.
        :param suffix: put after each text.
        :param meta_fields_to_embed: fields of a document's meta that are put before its content.
        :param embedding_separator: between these fields and the content.
        :param progress_bar: draw a line on standard error.
        """
        self.model, self.threads, self.max_length, self.dimensions = model, threads, max_length, dimensions
        self.prefix, self.suffix = prefix, suffix
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator
        self.progress_bar = progress_bar

    @component.output_types(documents=list[Document], meta=dict[str, Any])  # type: ignore[untyped-decorator]
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Embed what the component is given.

        :param documents: any number of documents; they stay as they are.
        :return: "documents", copies with their embedding, and "meta" with the model's name and the tokens that were
            run.
        :raises TypeError: documents is not a list of Document.
        """
        texts = self._texts(documents, ": for a str use JinaBertTextEmbedder")
        vectors, meta = self._embed(texts, document_prompt, self.progress_bar)
        embedded = [
            replace(document, embedding=vector) for document, vector in zip(documents, vectors, strict=True)
        ]
        return {"documents": embedded, "meta": meta}

    @component.output_types(documents=list[Document], meta=dict[str, Any])  # type: ignore[untyped-decorator]
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """As `run`, in a thread."""
        return await asyncio.to_thread(self.run, documents)


@component
class JinaBertRanker(_OfDocuments):
    """Orders documents by how well they answer a query, with an embedding model or a cross-encoder."""

    def __init__(
        self,
        model: str | None = None,
        threads: int | None = None,
        top_k: int | None = 10,
        max_length: int | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
    ) -> None:
        """Nothing is loaded before warm_up or the first run.

        :param model: model folder; None for the bundled model.
        :param threads: as in Embedder.
        :param top_k: documents that are kept; None for all.
        :param max_length: longer documents are cut after this many tokens; None for the model's own maximum.
        :param meta_fields_to_embed: fields of a document's meta that are put before its content.
        :param embedding_separator: between these fields and the content.
        """
        self.model, self.threads, self.top_k, self.max_length = model, threads, top_k, max_length
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator

    @staticmethod
    def _share(model: str | None, threads: int | None) -> Embedder | Reranker:
        return shared_ranker(model, threads)

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, Any]:
        """Rank documents.

        :param query: a text that is not empty.
        :param documents: any number of documents; they stay as they are.
        :param top_k: documents that are kept; None for the component's own.
        :return: "documents", copies of the best with their score, the best first.
        :raises TypeError: documents is not a list of Document, or query is not a str.
        :raises InputError: the query is empty or too long.
        """
        texts = self._texts(documents)
        self.warm_up()
        assert self._loaded is not None
        ranked = self._loaded.rerank(
            query, texts, self.top_k if top_k is None else top_k, max_length=self.max_length, spans=False
        )
        return {"documents": [replace(documents[each.index], score=each.score) for each in ranked]}

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, Any]:
        """As `run`, in a thread."""
        return await asyncio.to_thread(self.run, query, documents, top_k)
