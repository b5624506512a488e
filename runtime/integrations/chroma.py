"""Chroma: an EmbeddingFunction that a collection remembers by name.

    collection = client.create_collection("texts", embedding_function=JinaBertEmbeddingFunction())

A later process imports this file, which registers the name, and opens the collection without naming a function.
Chroma's telemetry is off unless the environment turns it on.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

from runtime.bundled import bundled_model
from runtime.errors import InputError, ModelError
from runtime.integrations import missing, shared_embedder
from runtime.manifest import load_manifest
from runtime.modules import MODULES_DATA

os.environ.setdefault("ANONYMIZED_TELEMETRY", "False")  # nothing else of this package sends anything either

try:
    from chromadb.api.types import EmbeddingFunction
    from chromadb.utils.embedding_functions import register_embedding_function
except ImportError as error:
    raise missing("chromadb", "chroma", error) from None

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from runtime.embedder import Embedder
    from runtime.manifest import Manifest

__all__ = ["JinaBertEmbeddingFunction"]

FIELDS = {"model": str, "threads": int, "max_length": int, "weights": str, "dimensions": int}


class JinaBertEmbeddingFunction(EmbeddingFunction):  # type: ignore[misc]
    """Vectors of length 1 for Chroma.

    The collection keeps the folder's name and which weights its vectors come from. Opened with other weights, it can be
    read, but refuses to embed: old and new vectors would not fit together, and nothing would say so.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        max_length: int | None = None,
        weights: str | None = None,
        dimensions: int | None = None,
    ) -> None:
        """Only the model folder's manifest is read; the model is loaded by the first call.

        :param model: model folder; None for the bundled model.
        :param threads: as in Embedder.
        :param max_length: longer texts are cut after this many tokens; None for the model's own maximum.
        :param weights: weights that are expected, as a collection remembers them; None for what the folder holds.
        :param dimensions: numbers of a vector, of a model exported with --rotate; None for all.
        :raises ModelError: the folder has no valid manifest (unless `weights` is given: then the first call says it).
        """
        self.model = None if model is None else os.fspath(model)
        self.threads = threads
        self.max_length = max_length
        self.dimensions = dimensions
        self.weights = _weights(load_manifest(self._folder())) if weights is None else weights
        self._embedder: Embedder | None = None

    def __call__(self, input: list[str]) -> list[NDArray[np.float32]]:  # noqa: A002 - Chroma checks this name
        """Embed documents.

        :param input: any number of texts.
        :return: a vector [D] float32 for each.
        :raises ModelError: the model cannot be loaded, or is not the one that the collection was made with.
        """
        return list(
            self._checked().encode_document(input, max_length=self.max_length, dimensions=self.dimensions)
        )

    def _checked(self) -> Embedder:
        """The model, if it is the one that the collection was made with."""
        if self._embedder is None:
            embedder = shared_embedder(self.model, self.threads)
            found = _weights(embedder.manifest)
            if found != self.weights:
                raise ModelError(
                    f"{self._folder()!r} holds {embedder.manifest.name} with weights {found}, but this collection's "
                    f"vectors are from {self.weights}: put that model there, or embed the texts in a new collection"
                )
            self._embedder = embedder
        return self._embedder

    def embed_query(self, input: list[str]) -> list[NDArray[np.float32]]:  # noqa: A002
        """The same with the prompt for queries, if the model folder has one. Older Chroma has no such method.

        :param input: any number of queries.
        :return: a vector [D] float32 for each.
        """
        return list(
            self._checked().encode_query(input, max_length=self.max_length, dimensions=self.dimensions)
        )

    @staticmethod
    def name() -> str:
        """Return what a collection remembers the function by."""
        return "jinabert-runtime"

    def default_space(self) -> str:
        """Return the distance of a new collection."""
        return "cosine"

    def supported_spaces(self) -> list[str]:
        """Return distances that make sense with vectors of length 1: all."""
        return ["cosine", "l2", "ip"]

    def max_tokens(self) -> int:
        """Return the tokens after which a text is cut."""
        return self.max_length or load_manifest(self._folder()).max_tokens

    def get_config(self) -> dict[str, Any]:
        """Return what a collection keeps; no path of the bundled model is in it."""
        return {
            "model": self.model,
            "threads": self.threads,
            "max_length": self.max_length,
            "weights": self.weights,
            "dimensions": self.dimensions,
        }

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> JinaBertEmbeddingFunction:
        """Make the function that a collection remembers.

        :param config: what get_config gave.
        :return: the function.
        :raises InputError: config is something else.
        """
        JinaBertEmbeddingFunction.validate_config(config)
        return JinaBertEmbeddingFunction(**config)

    @staticmethod
    def validate_config(config: dict[str, Any]) -> None:
        """Refuse a configuration that is not of this function.

        :param config: to look at.
        :raises InputError: a field is unknown or of another type.
        """
        for field, value in config.items():
            if field not in FIELDS:
                raise InputError(
                    f"{field!r} is no field of jinabert-runtime's configuration: {', '.join(FIELDS)}"
                )
            if value is not None and type(value) is not FIELDS[field]:
                raise InputError(f"{field}={value!r}: expected {FIELDS[field].__name__} or None")

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Refuse a change that would change vectors.

        :param old_config: what the collection keeps.
        :param new_config: what it is to keep; the folder may move, threads may change.
        :raises InputError: its vectors would come from other weights, or from texts cut elsewhere.
        """
        self.validate_config(new_config)
        for field in ("weights", "max_length", "dimensions"):
            old, new = old_config.get(field), new_config.get(field)
            if old != new:
                raise InputError(
                    f"{field} {new!r}: this collection's vectors were made with {old!r}; make a new collection"
                )

    def _folder(self) -> str:
        return bundled_model() if self.model is None else self.model


# Not as a decorator: Chroma 1.0.0's gives nothing back.
register_embedding_function(JinaBertEmbeddingFunction)


def _weights(manifest: Manifest) -> str:
    """Return what two folders share whose vectors fit together.

    It is the checkpoint, whatever precision it was exported to, and the rotation of its vectors, if any.
    """
    sources = manifest.document["source"].get("sha256") or {}
    sums = [sources[name] for name in sorted(sources) if name.endswith((".safetensors", ".bin"))]
    sums = sums or [
        manifest.files[name].sha256 for name in sorted(manifest.files) if name.startswith("model.onnx")
    ]
    if manifest.truncatable and MODULES_DATA in manifest.files:
        sums.append(manifest.files[MODULES_DATA].sha256)
    return hashlib.sha256(" ".join(sums).encode()).hexdigest()[:16]
