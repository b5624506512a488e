"""The first teacher: a BERT with mean pooling, read from disk only, which shares the student's vocabulary.

It is run along in every step, so that each token has a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertModel

from export.config import read_json
from export.distill.corpus import CLS, SEP
from export.errors import ExportError

__all__ = [
    "WINDOW",
    "check_vocabulary",
    "first_teacher",
    "mean",
    "token_targets",
]

WINDOW = 254  # tokens of a document that the first teacher sees at a time, [CLS] and [SEP] aside


def first_teacher(folder: Path, *, attentions: bool = False) -> BertModel:
    """Load the first teacher.

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
    """Refuse a teacher whose vocabulary does not begin the student's.

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
    """Average the vectors of real tokens.

    :param hidden: float [batch, length, width].
    :param mask: 1 for a real token and 0 for padding, [batch, length].
    :return: the mean over real tokens, of length 1, float32 [batch, width].
    """
    weights = mask.to(torch.float32)[:, :, None]
    return functional.normalize((hidden.float() * weights).sum(1) / weights.sum(1), dim=-1)


def token_targets(teacher: BertModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Compute the first teacher's token vectors.

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
