"""LangChain: an Embeddings, and late chunking with any of its text splitters.

    late = LateChunking(JinaBertEmbeddings(), RecursiveCharacterTextSplitter(chunk_size=800))
    store = InMemoryVectorStore(late)
    store.add_documents(late.split_documents(documents))

Not here: a vector store; any of LangChain's takes either class as its embedding.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from runtime.errors import InputError
from runtime.integrations import late_chunks, missing, shared_embedder, shared_ranker
from runtime.manifest import check_dimensions

try:
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.embeddings import Embeddings
except ImportError as error:
    raise missing("langchain-core", "langchain", error) from None

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from langchain_text_splitters import TextSplitter

    from runtime.embedder import Embedder

__all__ = ["JinaBertEmbeddings", "JinaBertRerank", "LateChunking"]


class JinaBertEmbeddings(Embeddings):  # type: ignore[misc]
    """Vectors of length 1 for LangChain. The asynchronous methods are the same in a thread."""

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        threads: int | None = None,
        max_length: int | None = None,
        dimensions: int | None = None,
    ) -> None:
        """Load the model, or share the one that another adapter of this process has loaded.

        :param model: model folder; None for the bundled model.
        :param threads: as in Embedder.
        :param max_length: longer texts are cut after this many tokens; None for the model's own maximum.
        :param dimensions: numbers of a vector, of a model exported with --rotate; None for all.
        :raises ModelError: the folder or a file in it is missing, damaged or of another kind.
        :raises InputError: threads is not a positive number, or there are no such dimensions.
        """
        self.embedder: Embedder = shared_embedder(model, threads)
        self.max_length = max_length
        self.dimensions = dimensions
        check_dimensions(self.embedder.manifest, dimensions)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents.

        :param texts: any number of texts.
        :return: a vector of D numbers for each.
        """
        vectors: list[list[float]] = self.embedder.encode_document(
            texts, max_length=self.max_length, dimensions=self.dimensions
        ).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Embed a query.

        :param text: one text.
        :return: its vector of D numbers.
        """
        vector: list[float] = self.embedder.encode_query(
            text, max_length=self.max_length, dimensions=self.dimensions
        ).tolist()
        return vector

    def count_tokens(self, text: str) -> int:
        """A splitter's length_function, for chunk sizes in the model's own tokens.

        :param text: one text.
        :return: its tokens, without [CLS] and [SEP].
        """
        return self.embedder.count_tokens(text) - 2


class JinaBertRerank(BaseDocumentCompressor):  # type: ignore[misc]
    """Keeps the documents that answer a query best: a compressor for ContextualCompressionRetriever."""

    model: str | None = (
        None  # model folder, of an embedding model or a cross-encoder; None for the bundled model
    )
    threads: int | None = None
    max_length: int | None = None  # tokens of a document; None for the model's own maximum
    top_n: int | None = 3  # documents that are kept; None for all

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: object = None
    ) -> Sequence[Document]:
        """Rank documents.

        :param documents: any number of them; they stay as they are.
        :param query: a text that is not empty.
        :param callbacks: LangChain's; not called.
        :return: copies of the best, the best first. Their metadata gets relevance_score and, of an embedding model,
            relevant_start and relevant_end: where the part that answers best stands in page_content.
        :raises InputError: the query is empty or too long.
        """
        texts = [document.page_content for document in documents]
        ranker = shared_ranker(self.model, self.threads)
        kept = []
        for ranked in ranker.rerank(query, texts, self.top_n, max_length=self.max_length):
            found: dict[str, object] = {"relevance_score": ranked.score}
            if ranked.start is not None:
                found |= {"relevant_start": ranked.start, "relevant_end": ranked.end}
            document = documents[ranked.index]
            kept.append(document.model_copy(update={"metadata": {**document.metadata, **found}}))
        return kept


class LateChunking(Embeddings):  # type: ignore[misc]
    """Splits documents and has a vector for each chunk from one pass over its whole document.

    A vector store only hands texts to its Embeddings. So this one remembers the vectors of what it has split until
    they are asked for, each once: add all that split_documents returned, in that order, to one store.
    """

    def __init__(self, embeddings: JinaBertEmbeddings, splitter: TextSplitter) -> None:
        """Put together a model and a splitter.

        :param embeddings: the model; its max_length does not apply, since the whole document is read.
        :param splitter: any that copies chunks word for word; add_start_index is used where it is set.
        """
        self.embeddings = embeddings
        self.splitter = splitter
        self._waiting: dict[str, deque[list[float]]] = {}

    def embed_chunks(self, document: Document) -> list[tuple[Document, list[float]]]:
        """Split one document.

        :param document: any length: documents over the model's maximum go through overlapping windows.
        :return: its chunks, each with its vector of D numbers; chunks without a token are left out.
        :raises InputError: the splitter changed the text.
        """
        documents = self.splitter.create_documents([document.page_content], [document.metadata])
        parts = [chunk.page_content for chunk in documents]
        starts = [chunk.metadata.get("start_index") for chunk in documents]
        model = self.embeddings
        chunks = late_chunks(model.embedder, document.page_content, parts, starts, model.dimensions)
        return [
            (part, chunk.vector.tolist())
            for part, chunk in zip(documents, chunks, strict=True)
            if chunk is not None
        ]

    def split_documents(self, documents: Iterable[Document]) -> list[Document]:
        """Split documents, and keep the vectors of their chunks for the store that these are added to.

        :param documents: any number.
        :return: their chunks, without those that hold no token.
        :raises InputError: the splitter changed a text.
        """
        split = [pair for document in documents for pair in self.embed_chunks(document)]
        for chunk, vector in split:
            self._waiting.setdefault(chunk.page_content, deque()).append(vector)
        return [chunk for chunk, _ in split]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents.

        :param texts: chunks that split_documents returned.
        :return: the vector of each; chunks of the same text get theirs in the order in which they were split.
        :raises InputError: a text that was not split here, or whose vector was asked for before.
        """
        vectors = []
        for number, text in enumerate(texts):
            waiting = self._waiting.get(text)
            if not waiting:
                raise InputError(
                    f"texts[{number}] {text[:40]!r} is no chunk of split_documents that waits for a store: split its "
                    "document (again), or use JinaBertEmbeddings"
                )
            vectors.append(waiting.popleft())
            if not waiting:
                del self._waiting[text]
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Embed a query.

        :param text: one text.
        :return: its vector of D numbers, as JinaBertEmbeddings gives it.
        """
        return self.embeddings.embed_query(text)
