"""The surface of sentence-transformers' SentenceTransformer, without torch: programs written for it run with this one.

    model = SentenceTransformer()
    vectors = model.encode(["a text", "another"], precision="binary")

Not here: training, devices, multi-process pools, tensors. Needs no extra.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.batching import pad
from runtime.errors import InputError
from runtime.integrations import shared_embedder
from runtime.manifest import SIMILARITIES, check_dimensions
from runtime.pooling import norms
from runtime.prompts import DOCUMENT_NAMES
from runtime.texts import iterate

if TYPE_CHECKING:
    import os

    from numpy.typing import ArrayLike, NDArray

    from runtime.embedder import Embedder
    from runtime.tokenization.tokenizer import Tokenizer

__all__ = ["SentenceTransformer", "quantize_embeddings"]

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
DISTANCES = {"euclidean": 2, "manhattan": 1}  # similarity -> order of the norm
FEW = 100  # vectors; minima and maxima of fewer say little about the texts to come


class SentenceTransformer:
    """A loaded model, as sentence-transformers presents one."""

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        device: str | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        similarity_fn_name: str | None = None,
        truncate_dim: int | None = None,
        threads: int | None = None,
    ) -> None:
        """Load the model, or share the one that another adapter of this process has loaded.

        :param model_name_or_path: model folder; None for the bundled model. Hub names are not looked up.
        :param device: None or "cpu".
        :param prompts: name -> text that is put before each sentence, besides those of the model folder, and instead of
            those of the same name. encode_query uses "query", encode_document
            the first of "document", "passage" and "corpus".
        :param default_prompt_name: the one that encode uses when told none; None for the model folder's, if any.
        :param similarity_fn_name: "cosine", "dot", "euclidean" or "manhattan"; None for what the model folder says.
        :param truncate_dim: what encode does by default; see there.
        :param threads: as in Embedder.
        :raises ModelError: the folder or a file in it is missing, damaged or of another kind.
        :raises InputError: an argument is none of the above.
        """
        _check_device(device)
        if similarity_fn_name is not None and similarity_fn_name not in SIMILARITIES:
            raise InputError(
                f"similarity_fn_name={similarity_fn_name!r}: must be one of {', '.join(SIMILARITIES)}"
            )
        self.embedder: Embedder = shared_embedder(model_name_or_path, threads)
        manifest = self.embedder.manifest
        self.prompts = {"query": "", "document": "", **manifest.prompts, **(prompts or {})}
        self.default_prompt_name = default_prompt_name or manifest.default_prompt_name
        self.similarity_fn_name = similarity_fn_name or manifest.similarity
        self.device = "cpu"
        self.max_seq_length = self.embedder.max_tokens  # tokens after which a text is cut; may be set
        check_dimensions(self.embedder.manifest, truncate_dim)
        self.truncate_dim = truncate_dim
        if default_prompt_name is not None:
            self._prompt(default_prompt_name)

    @property
    def tokenizer(self) -> Tokenizer:
        """What makes ids of texts: `tokenizer.encode(text)`."""
        return self.embedder.tokenizer

    def encode(
        self,
        sentences: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,
        normalize_embeddings: bool | None = None,
        truncate_dim: int | None = None,
        *,
        ranges: ArrayLike | None = None,
    ) -> Any:
        """Vectors of sentences.

        :param sentences: a text, or any iterable of texts.
        :param prompt_name: key of `prompts`; None for default_prompt_name, if there is one.
        :param prompt: text put before each sentence; wins over prompt_name.
        :param batch_size: most texts in a batch; None for the runtime's token budget, which suits most machines.
        :param show_progress_bar: draw a line on standard error.
        :param output_value: "sentence_embedding"; "token_embeddings" for a [T, D] array of each text, not normalised;
            None for a dict of both.
        :param precision: "float32"; "int8" or "uint8" with a range for each number; "binary" or "ubinary" with a bit
            for each number, eight to a byte (int8 or uint8). See quantize_embeddings.
        :param convert_to_numpy: give one array; False: a list of them.
        :param convert_to_tensor: refused, as there is no torch.
        :param device: None or "cpu".
        :param normalize_embeddings: give vectors of length 1; None for what the model folder says.
        :param truncate_dim: keep only the first so many numbers of each vector, of a model exported with --rotate; None
            for what the model was made with.
        :param ranges: for int8 and uint8: [2, D], the least and the greatest value of each number over a sample of
            texts; None for those of the sentences at hand.
        :return: [n, D] float32, [n, D] int8 or uint8, or [n, D / 8] int8 or uint8; without the first axis for a str.
        :raises TypeError: a sentence is not a str.
        :raises InputError: an argument is out of range or cannot be had here.
        """
        _check_device(device)
        dimensions = self.truncate_dim if truncate_dim is None else truncate_dim
        if convert_to_tensor:
            raise InputError(
                "convert_to_tensor=True: there is no torch here; torch.from_numpy(model.encode(...)) makes a tensor"
            )
        if precision not in PRECISIONS:
            raise InputError(f"precision={precision!r}: must be one of {', '.join(PRECISIONS)}")
        if output_value not in ("sentence_embedding", "token_embeddings", None):
            raise InputError(
                f"output_value={output_value!r}: must be 'sentence_embedding', 'token_embeddings' or None"
            )
        single = isinstance(sentences, str)
        texts = [sentences] if isinstance(sentences, str) else sentences
        before = self._prompt(prompt_name or self.default_prompt_name) if prompt is None else prompt

        if output_value != "sentence_embedding":
            if precision != "float32":
                raise InputError(f"precision={precision!r}: only sentence embeddings are quantised")
            found = [
                self._tokens(text, before, output_value, normalize_embeddings, dimensions)
                for text in iterate(texts)
            ]
            return found[0] if single else found

        vectors = self.embedder.encode(
            texts,
            prompt=before,
            max_length=self.max_seq_length,
            normalize=normalize_embeddings,
            dimensions=dimensions,
            batch_size=batch_size,
            show_progress=show_progress_bar,
        )
        if precision != "float32":
            vectors = quantize_embeddings(vectors, precision, ranges)
        if single:
            return vectors[0]
        return vectors if convert_to_numpy else list(vectors)

    def encode_query(
        self, sentences: str | Iterable[str], prompt_name: str | None = None, **options: Any
    ) -> Any:
        """Encode with the prompt "query", if no other is named; never with the default one.

        :param sentences: as in encode.
        :param prompt_name: as in encode.
        :param options: as in encode.
        :return: as encode.
        """
        return self.encode(sentences, prompt_name or "query", **options)

    def encode_document(
        self, sentences: str | Iterable[str], prompt_name: str | None = None, **options: Any
    ) -> Any:
        """Encode with the prompt for documents, if no other is named.

        It is the first of "document", "passage" and "corpus" that is not empty.

        :param sentences: as in encode.
        :param prompt_name: as in encode.
        :param options: as in encode.
        :return: as encode.
        """
        names = (name for name in DOCUMENT_NAMES if self.prompts.get(name))
        return self.encode(sentences, prompt_name or next(names, "document"), **options)

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[np.float32]:
        """Compare each vector of one set with each of another.

        :param embeddings1: [n, D] or [D] float vectors.
        :param embeddings2: [m, D] or [D].
        :return: [n, m] float32: cosine, dot product or negated distance of each pair.
        """
        left, right = self._comparable(embeddings1), self._comparable(embeddings2)
        if self.similarity_fn_name in DISTANCES:
            order = DISTANCES[self.similarity_fn_name]
            rows = [-np.linalg.norm(right - vector, ord=order, axis=1) for vector in left]
            return np.array(rows, np.float32)
        products: NDArray[np.float32] = (left @ right.T).astype(np.float32)
        return products

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[np.float32]:
        """Compare the vectors of two sets pair by pair.

        :param embeddings1: [n, D] or [D] float vectors.
        :param embeddings2: as many.
        :return: [n] float32: cosine, dot product or negated distance of the first with the first, and so on.
        """
        left, right = self._comparable(embeddings1), self._comparable(embeddings2)
        if left.shape != right.shape:
            raise InputError(f"{len(left):,} vectors and {len(right):,}: must be as many of each")
        if self.similarity_fn_name in DISTANCES:
            order = DISTANCES[self.similarity_fn_name]
            distances: NDArray[np.float32] = np.linalg.norm(left - right, ord=order, axis=1).astype(
                np.float32
            )
            return -distances
        products: NDArray[np.float32] = (left * right).sum(axis=1).astype(np.float32)
        return products

    def get_sentence_embedding_dimension(self) -> int:
        """Return D, the length of a vector."""
        return self.truncate_dim or self.embedder.dimension

    get_embedding_dimension = get_sentence_embedding_dimension

    def get_max_seq_length(self) -> int:
        """Return the tokens after which a text is cut."""
        return self.max_seq_length

    def tokenize(self, texts: Iterable[str]) -> dict[str, NDArray[np.int64]]:
        """Tokenise texts.

        :param texts: any number of texts.
        :return: "input_ids" and "attention_mask", [n, T] int64, padded to the longest text.
        """
        rows = [
            self.tokenizer.truncate(self.tokenizer.encode(text), self.max_seq_length)
            for text in iterate([texts] if isinstance(texts, str) else texts)
        ]
        ids, mask = pad(rows, self.tokenizer.pad_id)
        return {"input_ids": ids, "attention_mask": mask}

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """What isinstance sees: sentence-transformers' own class where that is loaded, as KeyBERT and BERTopic ask."""
        library = sys.modules.get("sentence_transformers")
        kind: type = getattr(library, "SentenceTransformer", type(self))
        return kind

    def __reduce__(self) -> tuple[Any, ...]:
        return object.__new__, (type(self),), self.__dict__  # pickle compares classes otherwise

    def __repr__(self) -> str:
        return f"SentenceTransformer({self.embedder!r})"

    def _tokens(
        self, text: str, prompt: str, output_value: str | None, normalize: bool | None, dimensions: int | None
    ) -> Any:
        tokens = self.embedder.encode_tokens(text, prompt=prompt, max_length=self.max_seq_length)
        if output_value == "token_embeddings":
            return tokens.vectors
        vector = self.embedder.encode(
            text,
            prompt=prompt,
            max_length=self.max_seq_length,
            normalize=normalize,
            dimensions=dimensions,
        )
        return {"token_embeddings": tokens.vectors, "input_ids": tokens.ids, "sentence_embedding": vector}

    def _prompt(self, name: str | None) -> str:
        if name is None:
            return ""
        if name not in self.prompts:
            raise InputError(
                f"prompt_name={name!r}: {', '.join(map(repr, self.prompts))} are known; see prompts="
            )
        return self.prompts[name]

    def _first(self, *names: str) -> str | None:
        return next((name for name in names if self.prompts.get(name)), None)

    def _comparable(self, embeddings: ArrayLike) -> NDArray[np.float64]:
        vectors = np.atleast_2d(np.asarray(embeddings, np.float64))
        if self.similarity_fn_name == "cosine":
            vectors = vectors / norms(vectors)[:, None]
        return vectors


def quantize_embeddings(
    embeddings: ArrayLike,
    precision: str,
    ranges: ArrayLike | None = None,
    calibration_embeddings: ArrayLike | None = None,
) -> NDArray[Any]:
    """Vectors in fewer bytes, with the same numbers that sentence-transformers 6 gives.

    int8 and uint8 split the range of each number in 255 steps, round down, and cut what lies outside: a quarter of
    float32. binary and ubinary keep whether a number is above 0, eight to a byte, highest bit first: a 32nd.

    :param embeddings: [n, D] floats.
    :param precision: "float32", "int8", "uint8", "binary" or "ubinary".
    :param ranges: for int8 and uint8: [2, D], least and greatest value of each number.
    :param calibration_embeddings: [m, D] floats whose least and greatest values are taken where there are no ranges;
        without either, those of `embeddings` are, so that vectors of another call do not fit together with these.
    :return: [n, D] float32, int8 or uint8, or [n, D / 8] int8 or uint8.
    :raises InputError: an unknown precision, wrong shapes, or ranges to be taken from a single vector.
    """
    vectors = np.asarray(embeddings)
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision!r}: must be one of {', '.join(PRECISIONS)}")
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise InputError(f"embeddings of {vectors.dtype} {list(vectors.shape)}: expected floats [n, D]")
    if precision == "float32":
        return vectors.astype(np.float32)
    if precision in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0, axis=1)
        return bits if precision == "ubinary" else (bits ^ 0x80).view(np.int8)
    if ranges is None:
        ranges = _ranges(
            vectors if calibration_embeddings is None else np.asarray(calibration_embeddings), precision
        )
    bounds = np.asarray(ranges, np.float32)
    if bounds.shape != (2, vectors.shape[1]):
        raise InputError(f"ranges of shape {list(bounds.shape)}: expected [2, {vectors.shape[1]}]")
    steps = (bounds[1] - bounds[0]) / 255
    steps = np.where(steps == 0, 1, steps)
    levels = np.clip(np.floor((vectors - bounds[0]) / steps), 0, 255).astype(np.uint8)
    quantized: NDArray[Any] = levels if precision == "uint8" else (levels ^ 0x80).view(np.int8)
    return quantized


def _ranges(sample: NDArray[Any], precision: str) -> NDArray[Any]:
    if sample.ndim != 2 or len(sample) < 2:
        raise InputError(
            f"precision={precision!r} takes the least and greatest value of each number from many vectors, and "
            f"there are {len(sample)}: pass ranges="
        )
    if len(sample) < FEW:
        warnings.warn(
            f"{precision} ranges from {len(sample)} vectors, fewer than {FEW}: pass ranges= of a larger sample",
            stacklevel=3,
        )
    return np.stack([sample.min(axis=0), sample.max(axis=0)])


def _check_device(device: str | None) -> None:
    if device not in (None, "cpu"):
        raise InputError(f"device={device!r}: this runs on the CPU; leave it out or say 'cpu'")
