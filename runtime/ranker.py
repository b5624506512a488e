"""Whatever ranks documents: an Embedder or a Reranker, as the model folder says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .embedder import Embedder

if TYPE_CHECKING:
    import os

    from .reranker import Reranker


def load_ranker(
    model: str | os.PathLike[str] | None = None, *, threads: int | None = None, verify: bool = False
) -> Embedder | Reranker:
    """Load whatever ranks documents: both classes have rerank with the same arguments.

    :param model: model folder, of an embedding model or of a cross-encoder; None for the bundled model.
    :param threads: as in Embedder.
    :param verify: as in Embedder.
    :return: an Embedder, or a Reranker for a folder with the task "rerank".
    :raises ModelError: the folder or a file in it is missing, damaged or of another kind.
    """
    from .bundled import model_folder
    from .manifest import load_manifest

    folder = model_folder(model)
    if load_manifest(folder).task == "rerank":
        from .reranker import Reranker

        return Reranker(folder, threads=threads, verify=verify)
    return Embedder(folder, threads=threads, verify=verify)
