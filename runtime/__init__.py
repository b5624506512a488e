"""JinaBert text embeddings with onnxruntime and numpy only.

`import runtime` loads neither: names resolve on first use (PEP 562).
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from .chunking import Chunk
    from .embedder import Embedder, EncodeStats, Tokens
    from .errors import (
        InputError,
        JinaBertError,
        ModelError,
        OutOfMemoryError,
        OutputError,
        TextTooLongError,
    )
    from .manifest import Manifest
    from .multivector import Multivector, maxsim
    from .reranker import Ranked, Reranker
    from .tokenization.wordpiece import WordPiece

__version__ = "0.1.0"

_HOME = {
    "Chunk": "chunking",
    "Embedder": "embedder",
    "EncodeStats": "embedder",
    "InputError": "errors",
    "JinaBertError": "errors",
    "Manifest": "manifest",
    "Multivector": "multivector",
    "ModelError": "errors",
    "OutOfMemoryError": "errors",
    "OutputError": "errors",
    "Ranked": "reranker",
    "Reranker": "reranker",
    "TextTooLongError": "errors",
    "Tokens": "embedder",
    "WordPiece": "tokenization.wordpiece",
    "maxsim": "multivector",
}

__all__ = [
    "Chunk",
    "Embedder",
    "EncodeStats",
    "InputError",
    "JinaBertError",
    "Manifest",
    "ModelError",
    "Multivector",
    "OutOfMemoryError",
    "OutputError",
    "Ranked",
    "Reranker",
    "TextTooLongError",
    "Tokens",
    "WordPiece",
    "__version__",
    "maxsim",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
