"""Is the exported graph the model? Parity of vectors, measured before anything is written.

A vector here is the mean of the last hidden states over the real tokens, in float64, divided by its length: what a user
gets. Figures are plain dicts of JSON values, for the manifest and for ``export.report``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from export.models import EncoderModel

Figures = dict[str, object]
Progress = Callable[[str], None]

FP32_LENGTHS = (1, 2, 3, 8, 100, 513, 2048, 8192)  # tokens
# Ragged batches, each text beside longer and shorter ones.
FP32_BATCHES = ((1, 2, 3, 8), (100, 1, 513, 8, 2), (3, 2048, 100), (2048, 1, 513))
FP32_TOLERANCE = 1e-5  # largest difference of a component of the unit vector
INT8_WORST_COSINE = 0.99
# Rows of attention that torch computes at a time: 8192 x 8192 scores a head would take gigabytes.
ATTENTION_ROWS = 256
PADDED_TOKENS = 2048  # of a batch
ALONE_TEXTS = 32  # texts whose vector in a batch is compared with their vector alone
ALONE_LONGEST = 512  # tokens of the longest of them
ALONE_COSINE = 0.9999
LAYER_TEXTS = 64
LAYER_TOKENS = 128  # longest text in the layer report


def open_session(model: Path | bytes, threads: int) -> onnxruntime.InferenceSession:
    """
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


def onnx_means(session: onnxruntime.InferenceSession, batch: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """
    :param batch: token ids, padded here with 0 on the right.
    :return: mean of the last hidden states over the real tokens, float64 [len(batch), D].
    :raises ExportError: the run fails, or a value is not finite.
    """
    hidden = _token_vectors(session, batch)
    return np.stack([_mean(hidden[row, : len(text)], "the exported graph") for row, text in enumerate(batch)])


def onnx_tokens(session: onnxruntime.InferenceSession, ids: Sequence[int]) -> NDArray[np.float32]:
    """
    :param ids: the tokens of one text.
    :return: the last hidden states [T, D].
    :raises ExportError: the run fails.
    """
    return _token_vectors(session, [ids])[0]


def _token_vectors(
    session: onnxruntime.InferenceSession, batch: Sequence[Sequence[int]]
) -> NDArray[np.float32]:
    longest = max(map(len, batch))
    ids = np.zeros((len(batch), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(batch):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    try:
        (hidden,) = session.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask})
    except Exception as error:
        raise ExportError(
            f"the exported graph fails on a batch of {ids.shape[0]} x {longest} tokens: {_line(error)}"
        ) from None
    return hidden


def torch_mean(model: EncoderModel, ids: Sequence[int]) -> NDArray[np.float64]:
    """
    :param ids: the tokens of one text.
    :return: mean of the last hidden states, float64 [D]; attention in row blocks.
    :raises ExportError: a value is not finite.
    """
    import torch

    before, model.block_rows = model.block_rows, ATTENTION_ROWS
    try:
        with torch.inference_mode():
            tokens = torch.tensor([list(ids)], dtype=torch.int64)
            output = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), return_dict=True)
    finally:
        model.block_rows = before
    return _mean(output.last_hidden_state[0].numpy(), "the torch model")


def verify_fp32(
    model: EncoderModel,
    path: Path,
    tokens: Sequence[int],
    *,
    longest: int = 8192,
    threads: int = 2,
    progress: Progress = lambda line: None,
) -> Figures:
    """
    Compare the fp32 graph with torch, texts alone and in ragged padded batches.

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


def verify_int8(
    path: Path,
    fp32_path: Path,
    texts: Sequence[Sequence[int]],
    *,
    max_dense_tokens: int | None,
    fp32_max_dense_tokens: int | None,
    minimum: int = 1000,
    enforce: bool = True,
    threads: int = 2,
    progress: Progress = lambda line: None,
) -> Figures:
    """
    Compare the int8 graph with the fp32 graph, texts in batches by length as at run time.

    :param texts: token ids of each text.
    :param max_dense_tokens: the int8 graph takes longer texts in a batch of one; None: any batch.
    :param fp32_max_dense_tokens: the same of the fp32 graph.
    :param minimum: how many texts there must be.
    :param enforce: refuse below ``INT8_WORST_COSINE``; off for a baseline that is only measured.
    :return: worst, 1st percentile and mean cosine, the worst text's index and length, and how close texts alone come
        to the same texts in a batch.
    :raises ExportError: too few texts, a cosine too low, a vector that depends on its batch, or a value that is not
        finite.
    """
    if len(texts) < minimum:
        raise ExportError(
            f"{len(texts):,} texts are too few to judge int8 by: at least {minimum:,} are needed"
        )
    reference = _encode(open_session(fp32_path, threads), texts, fp32_max_dense_tokens, "fp32", progress)
    session = open_session(path, threads)
    found = _encode(session, texts, max_dense_tokens, "int8", progress)
    cosines = (reference * found).sum(axis=1)
    sample = spread(
        [index for index, text in enumerate(texts) if len(text) <= ALONE_LONGEST], texts, ALONE_TEXTS
    )
    alone = min((float(found[i] @ _unit(onnx_means(session, [texts[i]])[0])) for i in sample), default=1.0)
    worst = int(cosines.argmin())
    figures: Figures = {
        "texts": len(texts),
        "tokens": sum(map(len, texts)),
        "longest_tokens": max(map(len, texts)),
        "worst": _cosine(cosines.min()),
        "percentile_1": _cosine(np.percentile(cosines, 1)),
        "mean": _cosine(cosines.mean()),
        "worst_text": {"index": worst, "tokens": len(texts[worst])},
        "least_allowed": INT8_WORST_COSINE if enforce else None,
        "alone_against_batch": {"texts": len(sample), "worst": _cosine(alone)},
    }
    if enforce and not cosines.min() >= INT8_WORST_COSINE:
        raise ExportError(
            f"int8 is too far from fp32: text {worst} ({len(texts[worst])} tokens) has cosine {cosines.min():.4f}, "
            f"1st percentile {figures['percentile_1']}, mean {figures['mean']}; at least {INT8_WORST_COSINE} "
            "is needed: export with --precision fp32, or train the outliers out of the checkpoint"
        )
    if enforce and not alone >= ALONE_COSINE:
        raise ExportError(
            f"the int8 vector of a text depends on its batch: alone and in a batch have cosine {alone:.5f}, "
            f"at least {ALONE_COSINE} is needed"
        )
    return figures


def layer_report(
    build: Callable[[str], onnx.ModelProto],
    products: Sequence[str],
    texts: Sequence[Sequence[int]],
    fp32_path: Path,
    *,
    threads: int = 2,
    progress: Progress = lambda line: None,
) -> Figures:
    """
    Which product costs most accuracy? Each is quantised alone, the rest of the graph staying fp32.

    :param build: makes the model in which the named product alone is quantised.
    :param products: names to try.
    :param texts: token ids; ``sample_for_layers`` picks them.
    :param fp32_path: the fp32 graph, the reference.
    :return: name -> mean and worst cosine, the costliest first.
    :raises ExportError: a value is not finite.
    """
    reference = _encode(open_session(fp32_path, threads), texts, None, "", lambda line: None)
    report: list[tuple[float, str, Figures]] = []
    for count, name in enumerate(products, start=1):
        started = time.monotonic()
        session = open_session(build(name).SerializeToString(), threads)
        cosines = (reference * _encode(session, texts, None, "", lambda line: None)).sum(axis=1)
        report.append(
            (float(cosines.mean()), name, {"mean": _cosine(cosines.mean()), "worst": _cosine(cosines.min())})
        )
        progress(
            f"{count}/{len(products)} {name}: mean cosine {cosines.mean():.6f} ({time.monotonic() - started:.1f} s)"
        )
    return {name: figures for _, name, figures in sorted(report, key=lambda entry: entry[:2])}


def sample_for_layers(texts: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """
    :return: up to ``LAYER_TEXTS`` texts of at most ``LAYER_TOKENS`` tokens, spread evenly over the lengths.
    """
    short = [index for index, text in enumerate(texts) if len(text) <= LAYER_TOKENS]
    return [texts[index] for index in spread(short, texts, LAYER_TEXTS)]


def spread(indices: Sequence[int], texts: Sequence[Sequence[int]], count: int) -> list[int]:
    """
    :return: up to ``count`` of the indices, from the shortest text to the longest in even steps.
    """
    ordered = sorted(indices, key=lambda index: (len(texts[index]), index))
    picked = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[position] for position in picked.tolist()]


def batches_by_length(
    lengths: Sequence[int], max_dense_tokens: int | None, budget: int = PADDED_TOKENS
) -> Iterator[list[int]]:
    """
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


def _encode(
    session: onnxruntime.InferenceSession,
    texts: Sequence[Sequence[int]],
    max_dense_tokens: int | None,
    what: str,
    progress: Progress,
) -> NDArray[np.float64]:
    """Unit vectors, float64 [len(texts), D]."""
    vectors: list[NDArray[np.float64] | None] = [None] * len(texts)
    started = reported = time.monotonic()
    done = 0
    for batch in batches_by_length([len(text) for text in texts], max_dense_tokens):
        for index, mean in zip(batch, onnx_means(session, [texts[index] for index in batch]), strict=True):
            vectors[index] = _unit(mean)
        done += len(batch)
        if time.monotonic() - reported > 5:
            reported = time.monotonic()
            progress(f"{what}: {done:,} of {len(texts):,} texts ({reported - started:.0f} s)")
    progress(f"{what}: {done:,} texts ({time.monotonic() - started:.1f} s)")
    return np.stack([vector for vector in vectors if vector is not None])


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
