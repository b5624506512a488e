"""Is the exported graph the model? Parity of vectors, measured before anything is written.

A vector here is the mean of the last hidden states over the real tokens, in float64, divided by its length; int8 is
judged by what a user gets, pooled as the checkpoint declares (``pooled_as``). Figures are plain dicts of JSON values,
for the manifest and for ``export.report``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from export.sample import spread
from runtime import pooling
from runtime.modules import apply

if TYPE_CHECKING:
    import onnxruntime

    from export.models import EncoderModel
    from runtime.modules import Module

Figures = dict[str, object]
Progress = Callable[[str], None]

FP32_LENGTHS = (1, 2, 3, 8, 100, 513, 2048, 8192)  # tokens
# Ragged batches, each text beside longer and shorter ones.
FP32_BATCHES = ((1, 2, 3, 8), (100, 1, 513, 8, 2), (3, 2048, 100), (2048, 1, 513))
FP32_TOLERANCE = 1e-5  # largest difference of a component of the unit vector
INT8_WORST_COSINE = 0.99
PADDED_TOKENS = 2048  # of a batch
ALONE_TEXTS = 32  # texts whose vector in a batch is compared with their vector alone
ALONE_LONGEST = 512  # tokens of the longest of them
ALONE_COSINE = 0.9999


_POOL: ContextVar[Callable[[NDArray[np.float32]], NDArray[np.float64]] | None] = ContextVar(
    "pool", default=None
)


def open_session(model: Path | bytes, threads: int) -> onnxruntime.InferenceSession:
    """Open an exported graph.

    :param model: a file, or the bytes of a model that holds its weights.
    :param threads: of one operator.
    :raises ExportError: onnxruntime cannot load it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Waiting threads that spin cost minutes where other work shares the CPU cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own classes derive from Exception alone
        raise ExportError(
            f"onnxruntime {onnxruntime.__version__} cannot load the exported graph: {_line(error)}"
        ) from None


def padded(batch: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Put texts into one array.

    :param batch: token ids, padded here with 0 on the right.
    :return: ids and mask, int64 [len(batch), longest].
    """
    ids = np.zeros((len(batch), max(map(len, batch))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(batch):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return ids, mask


def onnx_means(
    session: onnxruntime.InferenceSession,
    batch: Sequence[Sequence[int]],
    feed: Mapping[str, NDArray[np.int64]] | None = None,
) -> NDArray[np.float64]:
    """Run a batch and pool it.

    :param session: of a graph.
    :param batch: token ids, padded here with 0 on the right.
    :param feed: further inputs of the graph.
    :return: mean of the last hidden states over the real tokens, float64 [len(batch), D].
    :raises ExportError: the run fails, or a value is not finite.
    """
    hidden = _token_vectors(session, batch, feed or {})
    return np.stack([_mean(hidden[row, : len(text)], "the exported graph") for row, text in enumerate(batch)])


def onnx_tokens(session: onnxruntime.InferenceSession, ids: Sequence[int]) -> NDArray[np.float32]:
    """Run an exported graph on one text.

    :param ids: the tokens of one text.
    :return: the last hidden states [T, D].
    :raises ExportError: the run fails.
    """
    return _token_vectors(session, [ids], {})[0]


def _token_vectors(
    session: onnxruntime.InferenceSession,
    batch: Sequence[Sequence[int]],
    feed: Mapping[str, NDArray[np.int64]],
) -> NDArray[np.float32]:
    ids, mask = padded(batch)
    try:
        (hidden,) = session.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask, **feed})
    except Exception as error:
        raise ExportError(
            f"the exported graph fails on a batch of {ids.shape[0]} x {ids.shape[1]} tokens: {_line(error)}"
        ) from None
    return hidden


def torch_mean(model: EncoderModel, ids: Sequence[int]) -> NDArray[np.float64]:
    """Run the checkpoint in torch on one text, and average its token vectors.

    :param ids: the tokens of one text.
    :return: mean of the last hidden states, float64 [D]; attention in row blocks.
    :raises ExportError: a value is not finite.
    """
    from export.reference import torch_states

    return _mean(torch_states(model, ids).numpy(), "the torch model")


def verify_fp32(
    model: EncoderModel,
    path: Path,
    tokens: Sequence[int],
    *,
    longest: int = 8192,
    threads: int = 2,
    progress: Progress = lambda line: None,
) -> Figures:
    """Compare the fp32 graph with torch, texts alone and in ragged padded batches.

    :param model: the torch model that the graph was built from.
    :param path: its fp32 graph.
    :param tokens: token ids to cut texts from, repeated as needed.
    :param longest: leave out texts of more tokens than this.
    :return: largest difference of the unit vector by length alone, and over all batches.
    :raises ExportError: a difference above ``FP32_TOLERANCE``, or a value that is not finite.
    """
    session = open_session(path, threads)
    texts = {length: _cut(tokens, length) for length in FP32_LENGTHS if length <= longest}
    expected: dict[int, NDArray[np.float64]] = {}
    alone: dict[str, float] = {}
    for length, text in texts.items():
        started = time.monotonic()
        expected[length] = _unit(torch_mean(model, text))
        alone[str(length)] = _difference(
            expected[length], _unit(onnx_means(session, [text])[0]), f"a text of {length} tokens"
        )
        progress(f"{length} tokens: difference {alone[str(length)]:.1e} ({time.monotonic() - started:.1f} s)")
    batches = [
        kept for batch in FP32_BATCHES if len(kept := [length for length in batch if length in texts]) > 1
    ]
    padded = 0.0
    for batch in batches:
        found = onnx_means(session, [texts[length] for length in batch])
        for length, mean in zip(batch, found, strict=True):
            where = f"a text of {length} tokens in a batch padded to {max(batch)}"
            padded = max(padded, _difference(expected[length], _unit(mean), where))
    progress(f"{len(batches)} padded batches: difference {padded:.1e}")
    return {
        "alone": alone,
        "padded": padded,
        "batches": [list(batch) for batch in batches],
        "tolerance": FP32_TOLERANCE,
    }


@dataclass(frozen=True)
class Reference:
    """Exact vectors of the verification texts, made once."""

    vectors: NDArray[np.float64]  # unit vectors, [texts, D]
    seconds: float  # what they took


def fp32_reference(
    path: Path,
    texts: Sequence[Sequence[int]],
    max_dense_tokens: int | None,
    threads: int,
    progress: Progress = lambda line: None,
) -> Reference:
    """Encode the verification texts in fp32.

    :param path: the fp32 graph.
    :param texts: token ids of each text.
    :param max_dense_tokens: the graph takes longer texts in a batch of one; None: any batch.
    :param threads: of one operator.
    :param progress: gets a line now and then.
    :return: their vectors.
    """
    return Reference(*timed(open_session(path, threads), texts, max_dense_tokens, "fp32", progress))


def verify_int8(
    path: Path,
    reference: Reference,
    texts: Sequence[Sequence[int]],
    *,
    max_dense_tokens: int | None,
    bound: float | None = INT8_WORST_COSINE,
    minimum: int = 1000,
    threads: int = 2,
    progress: Progress = lambda line: None,
) -> tuple[Figures, NDArray[np.float64]]:
    """Compare the int8 graph with fp32, texts in batches by length as at run time.

    :param path: the int8 graph.
    :param reference: the texts' vectors in fp32.
    :param texts: token ids of each text.
    :param max_dense_tokens: the int8 graph takes longer texts in a batch of one; None: any batch.
    :param bound: the least cosine; None where none is asked for, as of a baseline that is only measured.
    :param minimum: how many texts there must be.
    :return: figures: worst, 1st percentile and mean cosine, the worst text's index and length, how close texts alone
        come to the same texts in a batch, and the time beside that of fp32; and the cosine of each text. Whether the
        bound is met is for the caller to see.
    :raises ExportError: too few texts, a vector that depends on its batch, or a value that is not finite.
    """
    if len(texts) < minimum:
        raise ExportError(
            f"{len(texts):,} texts are too few to judge int8 by: at least {minimum:,} are needed"
        )
    session = open_session(path, threads)
    found, seconds = timed(session, texts, max_dense_tokens, "int8", progress)
    cosines: NDArray[np.float64] = (reference.vectors * found).sum(axis=1)
    sample = spread(
        [index for index, text in enumerate(texts) if len(text) <= ALONE_LONGEST], texts, ALONE_TEXTS
    )
    alone = min(
        (float(found[i] @ _unit(_pooled(onnx_tokens(session, texts[i])))) for i in sample), default=1.0
    )
    worst = int(cosines.argmin())
    figures: Figures = {
        "texts": len(texts),
        "tokens": sum(map(len, texts)),
        "longest_tokens": max(map(len, texts)),
        "worst": _cosine(cosines.min()),
        "percentile_1": _cosine(np.percentile(cosines, 1)),
        "mean": _cosine(cosines.mean()),
        "worst_text": {"index": worst, "tokens": len(texts[worst])},
        "least_allowed": bound,
        "alone_against_batch": {"texts": len(sample), "worst": _cosine(alone)},
        "tokens_per_second": round(sum(map(len, texts)) / seconds),
        "times_fp32_speed": round(reference.seconds / seconds, 2),
    }
    if bound is not None and not alone >= ALONE_COSINE:
        raise ExportError(
            f"the int8 vector of a text depends on its batch: alone and in a batch have cosine {alone:.5f}, "
            f"at least {ALONE_COSINE} is needed"
        )
    return figures, cosines


def batches_by_length(
    lengths: Sequence[int], max_dense_tokens: int | None, budget: int = PADDED_TOKENS
) -> Iterator[list[int]]:
    """Put texts of about the same length into batches.

    :param lengths: tokens of each text.
    :param max_dense_tokens: longer texts come alone; None: never for that reason.
    :param budget: padded tokens a batch, unless one text has more.
    :return: indices of the texts of each batch, the shortest texts first.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (lengths[index], index)):
        alone = max_dense_tokens is not None and lengths[index] > max_dense_tokens
        if batch and (alone or (len(batch) + 1) * lengths[index] > budget):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def timed(
    session: onnxruntime.InferenceSession,
    texts: Sequence[Sequence[int]],
    max_dense_tokens: int | None,
    what: str,
    progress: Progress,
) -> tuple[NDArray[np.float64], float]:
    """Encode texts as :func:`encode` does; also the seconds that it took."""
    started = time.monotonic()
    vectors = encode(session, texts, max_dense_tokens, what, progress)
    return vectors, time.monotonic() - started


def encode(
    session: onnxruntime.InferenceSession,
    texts: Sequence[Sequence[int]],
    max_dense_tokens: int | None,
    what: str = "",
    progress: Progress = lambda line: None,
    feed: Mapping[str, NDArray[np.int64]] | None = None,
) -> NDArray[np.float64]:
    """Encode texts in batches by length.

    :param session: of a graph.
    :param texts: token ids.
    :param max_dense_tokens: longer texts come alone; None: never for that reason.
    :param what: begins the lines of progress.
    :param progress: gets a line now and then.
    :param feed: further inputs of the graph.
    :return: unit vectors, float64 [len(texts), D].
    """
    vectors: list[NDArray[np.float64] | None] = [None] * len(texts)
    started = reported = time.monotonic()
    done = 0
    for batch in batches_by_length([len(text) for text in texts], max_dense_tokens):
        hidden = _token_vectors(session, [texts[index] for index in batch], feed or {})
        for row, index in enumerate(batch):
            vectors[index] = _unit(_pooled(hidden[row, : len(texts[index])]))
        done += len(batch)
        if what and time.monotonic() - reported > 5:
            reported = time.monotonic()
            progress(f"{what}: {done:,} of {len(texts):,} texts ({reported - started:.0f} s)")
    if what:
        progress(f"{what}: {done:,} texts ({time.monotonic() - started:.1f} s)")
    return np.stack([vector for vector in vectors if vector is not None])


@contextmanager
def pooled_as(modes: Sequence[str], modules: Sequence[Module]) -> Iterator[None]:
    """Have :func:`encode` pool as a checkpoint declares, while the context is open; it takes the mean otherwise.

    :param modes: pooling modes.
    :param modules: what follows, arrays included.
    """

    def pool(hidden: NDArray[np.float32]) -> NDArray[np.float64]:
        vector: NDArray[np.float64] = pooling.pool(hidden[None], np.array([len(hidden)]), modes, [0])
        return apply(modules, vector)[0]

    token = _POOL.set(pool)
    try:
        yield
    finally:
        _POOL.reset(token)


def _pooled(hidden: NDArray[np.float32]) -> NDArray[np.float64]:
    """A text's vector of its token vectors, not normalised."""
    mean = _mean(hidden, "the exported graph")
    pool = _POOL.get()
    return mean if pool is None else pool(hidden)


def _mean(hidden: NDArray[np.float32], whose: str) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = hidden.mean(axis=0, dtype=np.float64)
    # A NaN or infinity anywhere in a column is one in its mean.
    if not np.isfinite(mean).all():
        raise ExportError(
            f"{whose} gives values that are not finite (NaN or infinity) for a text of {len(hidden)} tokens: "
            "the checkpoint is damaged, or its activations pass the range of its number type"
        )
    return mean


def _unit(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    norm = float(np.linalg.norm(mean))
    if norm == 0.0:
        raise ExportError(
            "the vector of a text is zero, so it has no direction: the checkpoint is not a trained model"
        )
    return mean / norm


def _difference(expected: NDArray[np.float64], found: NDArray[np.float64], where: str) -> float:
    difference = float(np.abs(expected - found).max())
    if not difference <= FP32_TOLERANCE:
        raise ExportError(
            f"the exported fp32 graph is not the model: the unit vector of {where} differs by {difference:.1e}, "
            f"at most {FP32_TOLERANCE:g} is allowed"
        )
    return float(f"{difference:.2e}")


def _cut(tokens: Sequence[int], length: int) -> list[int]:
    if not tokens:
        raise ExportError("there are no tokens to verify with")
    repeated = list(tokens[:length])
    while len(repeated) < length:
        repeated += tokens[: length - len(repeated)]
    return repeated


def _cosine(value: float) -> float:
    return round(float(value), 7)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
