"""Whole corpora: files of texts in, parts of vectors out, and a function for the engines that do more than one machine.

`embed_files` and `python -m runtime.bulk` are a resumable job on one machine; `ArrowEmbedder` is a function of Arrow
data for Ray Data, Spark, datasets, Dask, Daft and Lance. Needs the extra `bulk` (pyarrow, tqdm). Nothing else of
runtime/ imports this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arrow import ArrowEmbedder, multivectors
    from .job import Summary, embed_files

__all__ = ["ArrowEmbedder", "Summary", "embed_files", "multivectors"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(".job" if name in ("Summary", "embed_files") else ".arrow", __name__), name)
