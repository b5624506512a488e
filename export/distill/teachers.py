"""The teachers: sentence-transformers folders of BERT or MPNet, mean pooling, read from disk only.

The first teacher shares the student's vocabulary and is run along in every step, so that each token has a target. The
second may be of any size and vocabulary: it is asked once, about some of the texts, and its answers are kept.
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
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, BertModel

from export.baseline import quantize_optimum
from export.config import read_json
from export.errors import ExportError
from export.quiet import quiet

__all__ = [
    "WINDOW",
    "check_vocabulary",
    "first_teacher",
    "mean",
    "token_targets",
    "vectors",
]

WINDOW = 254  # tokens of a document that the first teacher sees at a time, [CLS] and [SEP] aside
CLS, SEP = 101, 102
# Texts in a file of kept vectors; a run that is cut off loses less than one file.
SHARD = 4096
TOKENS_AT_ONCE = 2048
LONGEST = 384


def first_teacher(folder: Path, *, attentions: bool = False) -> BertModel:
    """
    :param folder: of a BERT encoder.
    :param attentions: it must be able to give its attention (slower).
    :return: the encoder without its pooler, in fp32.
    :raises ExportError: the folder holds something else.
    """
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "bert":
        raise ExportError(f"{folder} holds a {kind} model: the first teacher is a BERT encoder")
    implementation = "eager" if attentions else "sdpa"
    try:
        teacher: BertModel = BertModel.from_pretrained(
            folder, add_pooling_layer=False, attn_implementation=implementation, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ExportError(f"{folder} cannot be read as a BERT encoder: {error}") from None
    return teacher.eval()


def check_vocabulary(folder: Path, tokens: Sequence[str]) -> None:
    """
    :param folder: of the first teacher.
    :param tokens: the student's vocabulary.
    :raises ExportError: the teacher's is not the beginning of it.
    """
    try:
        own = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ExportError(f"{folder / 'vocab.txt'} cannot be read: {error.strerror}") from None
    own = own[:-1] if own[-1] == "" else own
    if list(tokens[: len(own)]) != own:
        raise ExportError(f"{folder}: its vocab.txt is not the beginning of the student's vocabulary")


def mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """
    :param hidden: float [batch, length, width].
    :param mask: 1 for a real token and 0 for padding, [batch, length].
    :return: the mean over real tokens, of length 1, float32 [batch, width].
    """
    weights = mask.to(torch.float32)[:, :, None]
    return functional.normalize((hidden.float() * weights).sum(1) / weights.sum(1), dim=-1)


def token_targets(teacher: BertModel, ids: Tensor, mask: Tensor) -> Tensor:
    """
    :param teacher: the first teacher.
    :param ids: int64 [batch, length], [CLS] and [SEP] included; of any length.
    :param mask: [batch, length].
    :return: float32 [batch, length, width]. Documents, which fill their row and are longer than the window, are seen in
        windows of nearly the same size; their [CLS] is that of the first window and their [SEP] that of the last.
    """
    length = ids.shape[1]
    with torch.no_grad(), torch.autocast(ids.device.type, torch.bfloat16):
        if length <= WINDOW + 2:
            states: Tensor = teacher(input_ids=ids, attention_mask=mask).last_hidden_state
            return states.float()
        parts = torch.tensor_split(ids[:, 1:-1], -(-(length - 2) // WINDOW), dim=1)
        outputs = []
        for i, part in enumerate(parts):
            framed = functional.pad(functional.pad(part, (1, 0), value=CLS), (0, 1), value=SEP)
            states = teacher(input_ids=framed).last_hidden_state
            outputs.append(states[:, (0 if i == 0 else 1) : (None if i == len(parts) - 1 else -1)])
    return torch.cat(outputs, dim=1).float()


def vectors(
    folder: Path, texts: Sequence[str], cache: Path, threads: int, report: Callable[[str], None]
) -> NDArray[np.float16]:
    """
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
            partial = shard.with_suffix(".partial")
            with partial.open("wb") as file:
                np.save(file, part)
            partial.replace(shard)
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
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".teacher-") as work:
            with quiet(["optimum", "torch"], [""]), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of tracing transformers' own code
                export(model, kind(model.config), Path(work) / "model.onnx", opset=18)
            quantize_optimum(Path(work) / "model.onnx", Path(work) / "int8.onnx")
            (Path(work) / "int8.onnx").replace(path)
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
