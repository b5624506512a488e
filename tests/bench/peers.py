"""Who is measured. Each peer runs in a process of its own (worker.py) and has

encode(texts)   everything from str to vectors [n, D] of length 1, as that peer is used for one list of texts
prepare(ids)    a function that runs the model alone on ids int64 [B, L] without padding
special(...)    measurements that only this peer knows

Imports are inside the classes: a process loads nothing but its own peer. The classes share no code on purpose; what a
peer does is to be read in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ENVIRONMENT", "PEERS"]

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]


class Ours:
    """This project's runtime."""

    def __init__(
        self,
        model: str,
        threads: int,
        batch_tokens: int | None = None,
        entries: dict[str, str] | None = None,
    ) -> None:
        """Load our model.

        :param entries: onnxruntime's session options to try, on top of runtime/session.py's.
        """
        from runtime import Embedder, session

        session.CONFIG_ENTRIES.update(entries or {})
        self.embedder = Embedder(model, threads=threads)
        self.options: dict[str, Any] = {} if batch_tokens is None else {"batch_tokens": batch_tokens}
        self.about = {"version": self.embedder.manifest.document["made_with"].get("onnxruntime")}

    def encode(self, texts: Sequence[str], **options: Any) -> Vectors:
        return self.embedder.encode(texts, **self.options, **options)

    def prepare(self, ids: Ids) -> Callable[[], object]:
        mask = np.ones_like(ids)
        return lambda: self.embedder.model.session.run(ids, mask)

    def special(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        from tests.bench import inside

        return inside.MEASURES[what](self.embedder, request)


class Optimum:
    """optimum's export, fp32 or int8, in a bare onnxruntime session, with the length sorting of our runtime.

    Sorting and batches are given to it (runtime/batching.py), since without them it would be compared on padding.
    """

    def __init__(self, folder: str, threads: int) -> None:
        import onnxruntime
        from tokenizers import BertWordPieceTokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"]
        )
        self.tokenizer = BertWordPieceTokenizer(f"{folder}/vocab.txt", lowercase=True)
        self.about = {"onnxruntime": onnxruntime.__version__}

    def encode(self, texts: Sequence[str], max_length: int = 8192) -> Vectors:
        from runtime.batching import plan

        self.tokenizer.enable_truncation(max_length)
        tokens = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        vectors: Vectors | None = None
        for batch in plan([len(ids) for ids in tokens]):
            longest = len(tokens[batch[0]])
            ids = np.zeros((len(batch), longest), np.int64)
            mask = np.zeros_like(ids)
            for row, number in enumerate(batch):
                ids[row, : len(tokens[number])] = tokens[number]
                mask[row, : len(tokens[number])] = 1
            (hidden,) = self.session.run(None, {"input_ids": ids, "attention_mask": mask})
            means = np.einsum("blh,bl->bh", hidden, mask.astype(np.float32)) / mask.sum(axis=1, keepdims=True)
            if vectors is None:
                vectors = np.empty((len(tokens), hidden.shape[2]), np.float32)
            vectors[batch] = means / np.linalg.norm(means, axis=1, keepdims=True)
        assert vectors is not None
        return vectors

    def prepare(self, ids: Ids) -> Callable[[], object]:
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return lambda: self.session.run(None, feed)

    def special(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        raise ValueError(f"no {what}")


class FastEmbed:
    """fastembed with a model of one's own from a local folder: fp32, batches in arrival order."""

    def __init__(self, folder: str, threads: int, batch_size: int = 256) -> None:
        from importlib.metadata import version

        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        TextEmbedding.add_custom_model(
            model="local/jinabert",
            pooling=PoolingType.MEAN,
            normalization=True,
            sources=ModelSource(hf="local/jinabert"),
            dim=512,
            model_file="model.onnx",
        )
        self.model = TextEmbedding("local/jinabert", specific_model_path=folder, threads=threads)
        self.batch_size = batch_size
        self.about = {"fastembed": version("fastembed"), "onnxruntime": version("onnxruntime")}

    def encode(self, texts: Sequence[str]) -> Vectors:
        return np.stack(list(self.model.embed(texts, batch_size=self.batch_size)))

    def prepare(self, ids: Ids) -> Callable[[], object]:
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return lambda: self.model.model.model.run(None, feed)  # its onnxruntime session

    def special(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        raise ValueError(f"no {what}")


class Torch:
    """The fp32 module of export/, eager, batches of 32 sorted by length: what sentence-transformers does."""

    def __init__(self, checkpoint: str, vocabulary: str, threads: int, block_rows: int | None = None) -> None:
        import torch
        from tokenizers import BertWordPieceTokenizer

        from export.checkpoint import load_model

        torch.set_num_threads(threads)
        self.torch = torch
        self.model = load_model(Path(checkpoint))
        self.model.block_rows = block_rows
        self.tokenizer = BertWordPieceTokenizer(vocabulary, lowercase=True)
        self.about = {"torch": torch.__version__}

    def encode(self, texts: Sequence[str], max_length: int = 8192, batch_size: int = 32) -> Vectors:
        torch = self.torch
        self.tokenizer.enable_truncation(max_length)
        tokens = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(tokens)), key=lambda number: -len(tokens[number]))
        vectors = np.empty((len(tokens), self.model.config.hidden_size), np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                longest = len(tokens[batch[0]])
                ids = torch.zeros((len(batch), longest), dtype=torch.int64)
                mask = torch.zeros_like(ids)
                for row, number in enumerate(batch):
                    ids[row, : len(tokens[number])] = torch.tensor(tokens[number])
                    mask[row, : len(tokens[number])] = 1
                hidden = self.model(input_ids=ids, attention_mask=mask, return_dict=True).last_hidden_state
                weights = mask.unsqueeze(-1).float()
                means = (hidden * weights).sum(1) / weights.sum(1)
                vectors[batch] = torch.nn.functional.normalize(means, dim=1).numpy()
        return vectors

    def prepare(self, ids: Ids) -> Callable[[], object]:
        rows = self.torch.from_numpy(ids)
        mask = self.torch.ones_like(rows)

        def run() -> object:
            with self.torch.inference_mode():
                return self.model(input_ids=rows, attention_mask=mask)

        return run

    def special(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        raise ValueError(f"no {what}")


class OpenVino:
    """A graph in OpenVINO's CPU plugin with its own settings, with the length sorting of our runtime."""

    def __init__(self, model: str, vocabulary: str, threads: int) -> None:
        import openvino
        from tokenizers import BertWordPieceTokenizer

        settings = {"INFERENCE_NUM_THREADS": str(threads), "PERFORMANCE_HINT": "LATENCY"}
        self.model = openvino.Core().compile_model(model, "CPU", settings)
        self.tokenizer = BertWordPieceTokenizer(vocabulary, lowercase=True)
        self.tokenizer.enable_truncation(8192)
        precision = self.model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.about = {"openvino": openvino.__version__, "precision": precision}

    def encode(self, texts: Sequence[str], max_length: int = 8192) -> Vectors:
        from runtime.batching import plan

        self.tokenizer.enable_truncation(max_length)
        tokens = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        rows: list[Vectors | None] = [None] * len(tokens)
        for batch in plan([len(ids) for ids in tokens]):
            longest = len(tokens[batch[0]])
            ids = np.zeros((len(batch), longest), np.int64)
            mask = np.zeros_like(ids)
            for row, number in enumerate(batch):
                ids[row, : len(tokens[number])] = tokens[number]
                mask[row, : len(tokens[number])] = 1
            hidden = self.model({"input_ids": ids, "attention_mask": mask})[0]
            means = np.einsum("blh,bl->bh", hidden, mask.astype(np.float32)) / mask.sum(axis=1, keepdims=True)
            for number, vector in zip(
                batch, means / np.linalg.norm(means, axis=1, keepdims=True), strict=True
            ):
                rows[number] = vector
        return np.stack(rows)  # type: ignore[arg-type]

    def prepare(self, ids: Ids) -> Callable[[], object]:
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return lambda: self.model(feed)

    def special(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        raise ValueError(f"no {what}")


class LlamaCpp:
    """llama.cpp with its own tokenizer; texts share a run, without padding, until it has CONTEXT tokens."""

    CONTEXT = 512  # more where one text is longer: such a model reads a text in one run or not at all

    def __init__(self, model: str, threads: int) -> None:
        import llama_cpp

        self.library, self.file, self.threads = llama_cpp, model, threads
        self.about = {"llama-cpp-python": llama_cpp.__version__}
        self.model = self.load(self.CONTEXT)

    def load(self, tokens: int) -> Any:
        return self.library.Llama(
            self.file,
            embedding=True,
            n_ctx=tokens,
            n_batch=tokens,
            n_ubatch=tokens,
            n_threads=self.threads,
            n_threads_batch=self.threads,
            pooling_type=self.library.LLAMA_POOLING_TYPE_MEAN,
            verbose=False,
        )

    def make_room(self, tokens: int) -> None:
        if tokens > self.model.n_batch:
            self.model.close()
            self.model = self.load(tokens)

    def encode(self, texts: Sequence[str], max_length: int = 8192) -> Vectors:
        if max(map(len, texts)) > self.model.n_batch:  # a token has a character at least
            longest = max(len(self.model.tokenize(text.encode())) for text in texts)
            self.make_room(min(longest, max_length))
        return np.array(self.model.embed(list(texts), normalize=True), np.float32)

    def prepare(self, ids: Ids) -> Callable[[], object]:
        self.make_room(ids.size)
        batch, context = self.model._batch, self.model._ctx

        def run() -> None:
            batch.reset()
            for number, row in enumerate(ids.tolist()):
                batch.add_sequence(row, number, True)
            context.kv_cache_clear()
            context.decode(batch)

        return run

    def special(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        raise ValueError(f"no {what}")


class Products:
    """The limit: the int8 weight products alone, at the shapes of the batches that our runtime would run."""

    def __init__(self, folder: str, vocabulary: str, max_dense_tokens: int | None, threads: int) -> None:
        import onnxruntime

        from runtime.tokenization.wordpiece import WordPiece

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_mem_pattern = False
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(
            f"{folder}/products.onnx", options, providers=["CPUExecutionProvider"]
        )
        self.widths = [node.shape[2] for node in self.session.get_inputs()]
        self.tokenizer = WordPiece.from_file(vocabulary)
        self.max_dense_tokens = max_dense_tokens
        self.shapes: dict[int, list[tuple[int, int]]] = {}
        self.random = np.random.default_rng(1)
        self.feeds: dict[int, dict[str, Any]] = {}
        self.about = {"onnxruntime": onnxruntime.__version__}

    def feed(self, rows: int, columns: int) -> dict[str, Any]:
        """Inputs that are there before anything is timed."""
        count = rows * columns
        if count not in self.feeds:
            self.feeds[count] = {
                name: self.random.integers(1, 256, (rows, columns, width), np.uint8)
                for name, width in zip(("rows", "wide"), self.widths, strict=True)
            }
        return self.feeds[count]

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors it has none; the time is what is wanted."""
        key = id(texts)
        if key not in self.shapes:
            from runtime.batching import plan

            lengths = [self.tokenizer.count(text) for text in texts]
            batches = plan(lengths, max_dense_tokens=self.max_dense_tokens)
            self.shapes[key] = [(len(batch), lengths[batch[0]]) for batch in batches]
        for rows, columns in self.shapes[key]:
            self.session.run(None, self.feed(rows, columns))
        return np.empty((0, 0), np.float32)

    def prepare(self, ids: Ids) -> Callable[[], object]:
        feed = self.feed(*ids.shape)
        return lambda: self.session.run(None, feed)

    def special(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        raise ValueError(f"no {what}")


PEERS: dict[str, Callable[..., Any]] = {
    "ours": Ours,
    "optimum": Optimum,
    "fastembed": FastEmbed,
    "torch": Torch,
    "openvino": OpenVino,
    "llama.cpp": LlamaCpp,
    "products": Products,
}
# Peer -> key of environments.ENVIRONMENTS
ENVIRONMENT = {
    "ours": "plain",
    "optimum": "plain",
    "fastembed": "fastembed",
    "torch": "here",
    "openvino": "openvino",
    "llama.cpp": "llama.cpp",
    "products": "plain",
}
