"""What quality is measured of: one checkpoint in torch, ONNX and int8, the models beside it, and other ways to search.

A model is a function from texts to vectors. Texts of about equal length run together, padded, wherever the system pads.
A search (BM25, hybrid, reranked: searching.py) is a function from documents and queries to scores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime import Embedder
from runtime.manifest import VOCABULARY
from runtime.tokenization.wordpiece import WordPiece
from tests.bench import searching
from tests.bench.minilm import SHA256, MiniLM, PeerMissingError, load_minilm
from tests.bench.retrieval import Search
from tests.bench.settings import Settings
from tests.bench.vectors import unit

__all__ = ["NAMES", "System", "load", "run_padded"]

BATCH_TEXTS = 32
TORCH_BATCH_TOKENS = 4096  # padded; a longer text runs alone
Encode = Callable[[list[str]], NDArray[np.float32]]


class System(NamedTuple):
    """A loaded model."""

    title: str
    encode: Encode | None = None
    search: Search | None = None  # without encode: it has no similarity of sentences
    left_out: dict[str, str] = {}  # noqa: RUF012 - set -> why it is not measured; nobody changes it
    made_of: str | None = None  # what its figures follow from; None: from code of this repository too


def load(name: str, settings: Settings, stack: ExitStack) -> System:
    """Load a system.

    :param name: a key of NAMES.
    :param settings: models and threads.
    :param stack: closes what was opened.
    :return: the system.
    :raises OSError: it cannot be had here.
    """
    return NAMES[name](settings, stack)


def run_padded(
    texts: Sequence[Sequence[int]],
    run: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]],
    pad: int = 0,
) -> NDArray[np.float32]:
    """Run texts in padded batches, shortest first.

    :param texts: token ids of each text.
    :param run: ids and mask, int64 [batch, length], to hidden states [batch, length, D].
    :param pad: id of padding.
    :return: means over the tokens of each text, float32 [n, D], in the order given; not normalised.
    """
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    means: list[NDArray[np.float32]] = []
    while len(means) < len(order):
        batch = order[len(means) : len(means) + BATCH_TEXTS]
        while len(batch) > 1 and len(batch) * len(texts[batch[-1]]) > TORCH_BATCH_TOKENS:
            batch.pop()
        ids = np.full((len(batch), len(texts[batch[-1]])), pad, np.int64)
        mask = np.zeros_like(ids)
        for row, number in enumerate(batch):
            ids[row, : len(texts[number])] = texts[number]
            mask[row, : len(texts[number])] = 1
        hidden = run(ids, mask)
        means += [hidden[row, : len(texts[number])].mean(axis=0) for row, number in enumerate(batch)]
    vectors = np.empty((len(means), len(means[0])), np.float32)
    vectors[order] = means
    return vectors


def _torch(settings: Settings, stack: ExitStack) -> System:
    import torch

    from export import checkpoint
    from export.reference import ATTENTION_ROWS

    torch.set_num_threads(settings.threads)
    model = checkpoint.load_model(settings.artifacts.checkpoint)

    def run(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        model.block_rows = ATTENTION_ROWS if ids.shape[1] > ATTENTION_ROWS else None
        with torch.inference_mode():
            hidden = model(torch.from_numpy(ids), torch.from_numpy(mask), return_dict=False)[0]
        return np.asarray(hidden)

    # About half an hour for torch; ONNX fp32, which agrees with it to 1e-5, has no such trouble.
    left_out = {"passkey_8192": "too slow in torch"}
    return System("torch fp32", _encode(settings, run), left_out=left_out)


def _onnx(settings: Settings, stack: ExitStack) -> System:
    return _ours("ONNX fp32", settings.artifacts.fp32(), settings, stack)


def _int8(settings: Settings, stack: ExitStack) -> System:
    manifest = settings.artifacts.manifest
    title = "our int8" if manifest.precision == "int8" else f"our {manifest.precision}"
    return _ours(title, settings.artifacts.model, settings, stack)


def _ours(title: str, model: Path, settings: Settings, stack: ExitStack) -> System:
    embedder = stack.enter_context(Embedder(model, threads=settings.threads))
    return System(title, lambda texts: embedder.encode(texts))


def _optimum(settings: Settings, stack: ExitStack) -> System:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    graph = settings.artifacts.optimum() / "model.onnx"
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(session.run(None, {"input_ids": ids, "attention_mask": mask})[0])

    return System("optimum int8", _encode(settings, run), left_out={"passkey_8192": "needs 18 GB"})


def _encode(
    settings: Settings, run: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
) -> Encode:
    """The model's own tokenizer and limit before `run`."""
    manifest = settings.artifacts.manifest
    tokenizer = WordPiece.from_file(settings.artifacts.model / VOCABULARY, lower_case=manifest.lower_case)
    limit = manifest.max_tokens

    def encode(texts: list[str]) -> NDArray[np.float32]:
        tokens = [tokenizer.encode(text) for text in texts]
        cut = [ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]] for ids in tokens]
        return run_padded(cut, run, tokenizer.pad_id)

    return encode


def _minilm(settings: Settings, stack: ExitStack) -> System:
    model = load_minilm(settings.threads)
    return System(
        "all-MiniLM-L6-v2 int8", model.encode, made_of=f"{SHA256}, onnxruntime {version('onnxruntime')}"
    )


def _teacher(settings: Settings, stack: ExitStack) -> System:
    """A folder as sentence-transformers keeps it, with a mean as pooling; nothing else is implemented."""
    folder = settings.teacher
    if folder is None:
        raise PeerMissingError("the teacher was not named: --teacher DIR, an unpacked all-mpnet-base-v2")
    pooling, module = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("1_Pooling/config.json", "sentence_bert_config.json")
    )
    if not pooling.get("pooling_mode_mean_tokens"):
        raise PeerMissingError(f"{folder} does not pool by the mean: only that is implemented here")
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(settings.threads)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model: Any = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    def run(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            hidden = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))[0]
        return np.asarray(hidden)

    def encode(texts: list[str]) -> NDArray[np.float32]:
        ids = tokenizer(texts, truncation=True, max_length=module["max_seq_length"])["input_ids"]
        return run_padded(ids, run, tokenizer.pad_token_id)

    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return System(f"{folder.name} fp32", encode, made_of=f"{digest}, torch {version('torch')}")


def _bm25(settings: Settings, stack: ExitStack) -> System:
    searching.need_bm25s()
    return System("BM25", search=searching.bm25, made_of=f"bm25s {version('bm25s')}")


def _embedder(settings: Settings, stack: ExitStack) -> Embedder | MiniLM:
    return stack.enter_context(Embedder(settings.artifacts.model, threads=settings.threads))


def _peer(settings: Settings, stack: ExitStack) -> Embedder | MiniLM:
    return load_minilm(settings.threads)


def _searching(
    who: str, open_model: Callable[[Settings, ExitStack], Embedder | MiniLM], *, again: bool
) -> Callable[[Settings, ExitStack], System]:
    """Loads the hybrid of a model, or its order of the best by cosine `again` by token vectors."""

    def load(settings: Settings, stack: ExitStack) -> System:
        searching.need_bm25s()
        model = open_model(settings, stack)

        def search(documents: list[str], queries: list[str]) -> NDArray[np.float64]:
            if not again:
                found, asked = (unit(np.asarray(model.encode(texts))) for texts in (documents, queries))
                return searching.hybrid(asked @ found.T, searching.bm25(documents, queries))
            stored = model.encode_multivector(documents)
            several = model.encode_multivector(queries, query=True)
            left, right = (unit(np.stack([each.pooled for each in own])) for own in (several, stored))
            return searching.reranked(left @ right.T, several, stored)

        return System(f"{who}, {'reranked' if again else 'hybrid'}", search=search)

    return load


# Name on the command line -> how it is loaded; the first four are the model itself.
NAMES: dict[str, Callable[[Settings, ExitStack], System]] = {
    "torch": _torch,
    "onnx": _onnx,
    "int8": _int8,
    "optimum": _optimum,
    "minilm": _minilm,
    "teacher": _teacher,
    "bm25": _bm25,
    "hybrid": _searching("our int8", _embedder, again=False),
    "reranked": _searching("our int8", _embedder, again=True),
    "minilm-hybrid": _searching("all-MiniLM-L6-v2", _peer, again=False),
    "minilm-reranked": _searching("all-MiniLM-L6-v2", _peer, again=True),
}
