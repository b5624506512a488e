"""LlamaIndex: a BaseEmbedding, and late chunking with any of its node parsers.

    model = JinaBertEmbedding()
    nodes = LateChunking(embed_model=model, splitter=SentenceSplitter(chunk_size=256))(documents)
    index = VectorStoreIndex(nodes, embed_model=model)

Nodes that have a vector keep it; others get theirs from the model, as always in LlamaIndex.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from runtime.integrations import late_chunks, missing, shared_embedder, shared_ranker
from runtime.manifest import check_dimensions

try:
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.node_parser import NodeParser
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle, TransformComponent
except ImportError as error:
    raise missing("llama-index-core", "llama-index", error) from None

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.embedder import Embedder

__all__ = ["JinaBertEmbedding", "JinaBertRerank", "LateChunking"]


class JinaBertEmbedding(BaseEmbedding):  # type: ignore[misc]
    """Vectors of length 1 for LlamaIndex. It can be pickled: a copy loads its model at first use."""

    model: str | None = Field(default=None, description="Model folder; None for the bundled model.")
    threads: int | None = Field(default=None, description="Threads; None for as many as the process may use.")
    max_length: int | None = Field(default=None, description="Longer texts are cut after this many tokens.")
    dimensions: int | None = Field(default=None, description="Numbers of a vector; None for all.")
    _embedder: Any = PrivateAttr(default=None)

    def __init__(
        self,
        model: str | None = None,
        *,
        threads: int | None = None,
        max_length: int | None = None,
        dimensions: int | None = None,
        embed_batch_size: int = 256,  # texts; memory is bounded by the runtime's token budget
        **fields: Any,
    ) -> None:
        """Load the model, or share the one that another adapter of this process has loaded.

        :param model: model folder; None for the bundled model.
        :param threads: as in Embedder.
        :param max_length: longer texts are cut after this many tokens; None for the model's own maximum.
        :param dimensions: numbers of a vector, of a model exported with --rotate; None for all.
        :param embed_batch_size: texts that LlamaIndex hands over at a time.
        :param fields: of BaseEmbedding: callback_manager, num_workers and others.
        :raises ModelError: the folder or a file in it is missing, damaged or of another kind.
        :raises InputError: threads is not a positive number, or there are no such dimensions.
        """
        embedder = shared_embedder(model, threads)
        check_dimensions(embedder.manifest, dimensions)
        fields = {"model_name": embedder.manifest.name} | fields
        super().__init__(
            model=model,
            threads=threads,
            max_length=max_length,
            dimensions=dimensions,
            embed_batch_size=embed_batch_size,
            **fields,
        )
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex writes it down."""
        return "JinaBertEmbedding"

    @property
    def embedder(self) -> Embedder:
        """The loaded model."""
        embedder: Embedder = self._embedder
        return embedder

    def tokenize(self, text: str) -> list[int]:
        """A SentenceSplitter's tokenizer, for chunk sizes in the model's own tokens.

        :param text: one text.
        :return: its ids, without [CLS] and [SEP].
        """
        tokenizer = self.embedder.tokenizer
        return list(tokenizer.strip_special(tokenizer.encode(text)))

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self.embedder.encode_document(
            texts, max_length=self.max_length, dimensions=self.dimensions
        ).tolist()
        return vectors

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self.embedder.encode_query(
            query, max_length=self.max_length, dimensions=self.dimensions
        ).tolist()
        return vector

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)


class JinaBertRerank(BaseNodePostprocessor):  # type: ignore[misc]
    """Keeps the nodes that answer a query best: a node_postprocessor for query engines and retrievers."""

    model: str | None = Field(
        default=None,
        description="Model folder, of an embedding model or a cross-encoder; None for the bundled model.",
    )
    threads: int | None = Field(default=None, description="Threads; None for as many as the process may use.")
    max_length: int | None = Field(default=None, description="Longer nodes are cut after this many tokens.")
    top_n: int | None = Field(default=2, description="Nodes that are kept; None for all.")

    @classmethod
    def class_name(cls) -> str:
        """:return: the name under which LlamaIndex writes it down."""
        return "JinaBertRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("JinaBertRerank needs a query: pass query_str or query_bundle")
        if not nodes:
            return []
        ranker = shared_ranker(self.model, self.threads)
        texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        ranked = ranker.rerank(
            query_bundle.query_str, texts, self.top_n, max_length=self.max_length, spans=False
        )
        return [NodeWithScore(node=nodes[each.index].node, score=each.score) for each in ranked]


class LateChunking(TransformComponent):  # type: ignore[misc]
    """Documents in, nodes with vectors out: one pass over each document, a vector for each chunk of it.

    It is a step of an IngestionPipeline, and does without a step that embeds. The pass reads the document's text
    alone; what a chunk's metadata adds to an ordinary vector is not in it.
    """

    embed_model: JinaBertEmbedding = Field(description="The model.")
    splitter: NodeParser = Field(description="Any that copies chunks word for word.")

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex writes it down."""
        return "JinaBertLateChunking"

    def __call__(self, nodes: Sequence[BaseNode], **options: Any) -> list[BaseNode]:
        """Split documents, and embed their chunks.

        :param nodes: documents (or nodes: then each is split on its own), of any length.
        :param options: passed to the splitter.
        :return: their chunks, with embedding and place in the document set; chunks without a token are left out.
        :raises InputError: the splitter changed a text.
        """
        split: list[BaseNode] = []
        for node in nodes:
            parts = self.splitter.get_nodes_from_documents([node], **options)
            texts = [part.get_content(metadata_mode=MetadataMode.NONE) for part in parts]
            starts = [getattr(part, "start_char_idx", None) for part in parts]
            whole = node.get_content(metadata_mode=MetadataMode.NONE)
            model = self.embed_model
            chunks = late_chunks(model.embedder, whole, texts, starts, model.dimensions)
            for part, chunk in zip(parts, chunks, strict=True):
                if chunk is not None:
                    part.embedding = chunk.vector.tolist()
                    part.start_char_idx, part.end_char_idx = chunk.start, chunk.end
                    split.append(part)
        return split
