"""The second teacher: a sentence-transformers folder with mean pooling, of any size and vocabulary.

It is asked once, about some of the texts, and its answers are kept.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions
from optimum.exporters.onnx import export
from optimum.exporters.tasks import TasksManager
from tokenizers import Tokenizer
from transformers import AutoModel

from export.baseline import quantize_optimum
from export.config import read_json
from export.distill.teachers import mean
from export.errors import ExportError
from export.quiet import quiet
from runtime.files import replacing

__all__ = ["second_vectors"]

# Texts in a file of kept vectors; a run that is cut off loses less than one file.
SHARD = 4096
TOKENS_AT_ONCE = 2048
LONGEST = 384


def second_vectors(
    folder: Path, texts: Sequence[str], cache: Path, threads: int, report: Callable[[str], None]
) -> NDArray[np.float16]:
    """Compute the second teacher's vectors, or read those of an earlier run.

    :param folder: of a teacher with mean pooling, in sentence-transformers layout.
    :param texts: what it is asked about, always the same for the same cache.
    :param cache: folder for the answers; what is there is not asked for again.
    :param threads: of onnxruntime, which runs the teacher in int8.
    :return: float16 [texts, width], of length 1.
    :raises ExportError: the folder does not hold such a teacher.
    """
    cache.mkdir(parents=True, exist_ok=True)
    shards = [cache / f"{start:08}.npy" for start in range(0, len(texts), SHARD)]
    if not all(shard.exists() for shard in shards):
        session = _int8(folder, cache / "int8.onnx", threads)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(LONGEST)
        for number, shard in enumerate(shards):
            if shard.exists():
                continue
            part = _ask(session, tokenizer, texts[number * SHARD : (number + 1) * SHARD])
            with replacing(shard) as partial, open(partial, "wb") as file:
                np.save(file, part)
            report(f"{folder.name}: {min(len(texts), (number + 1) * SHARD):,} of {len(texts):,} texts")
    return np.concatenate([np.load(shard) for shard in shards])


def _int8(folder: Path, path: Path, threads: int) -> InferenceSession:
    """The teacher as optimum makes it int8, once: a second teacher is large, and a CPU multiplies int8 fastest."""
    if not path.exists():
        pooling = read_json(folder / "1_Pooling" / "config.json")
        if not pooling.get("pooling_mode_mean_tokens"):
            raise ExportError(f"{folder}: 1_Pooling/config.json does not say mean pooling")
        try:
            model = AutoModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False).eval()
            kind = TasksManager.get_exporter_config_constructor("onnx", model, task="feature-extraction")
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise ExportError(f"{folder} cannot be read as a teacher: {error}") from None
        with tempfile.TemporaryDirectory(prefix="teacher-") as work, replacing(path) as partial:
            with quiet(["optimum", "torch"], [""]), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of tracing transformers' own code
                export(model, kind(model.config), Path(work) / "model.onnx", opset=18)
            quantize_optimum(Path(work) / "model.onnx", Path(partial))
    options = SessionOptions()
    options.intra_op_num_threads = threads
    return InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _ask(session: InferenceSession, tokenizer: Tokenizer, texts: Sequence[str]) -> NDArray[np.float16]:
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    padding = tokenizer.token_to_id("<pad>") or 0
    names = {argument.name for argument in session.get_inputs()}
    answers: dict[int, NDArray[np.float16]] = {}
    while order:
        count = max(1, min(len(order), TOKENS_AT_ONCE // len(encoded[order[-1]])))
        batch, order = order[-count:], order[:-count]
        rows = np.full((count, len(encoded[batch[-1]])), padding, np.int64)
        mask = np.zeros_like(rows)
        for row, text in enumerate(batch):
            rows[row, : len(encoded[text])] = encoded[text]
            mask[row, : len(encoded[text])] = 1
        inputs = {"input_ids": rows, "attention_mask": mask, "token_type_ids": np.zeros_like(rows)}
        hidden = session.run(["last_hidden_state"], {name: inputs[name] for name in names})[0]
        means = mean(torch.from_numpy(hidden), torch.from_numpy(mask)).numpy().astype(np.float16)
        answers |= dict(zip(batch, means, strict=True))
    return np.stack([answers[i] for i in range(len(texts))])
