"""The student as a checkpoint in Hugging Face layout, and as something that gives vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from export.distill.teachers import mean
from export.models.jinabert import JinaBertModel
from runtime.files import replacing
from runtime.tokenization.wordpiece import WordPiece

__all__ = ["encode", "hidden_states", "write"]

TOKENS_AT_ONCE = 4096


def encode(
    model: JinaBertModel, tokenizer: WordPiece, texts: Sequence[str], longest: int = 512
) -> NDArray[np.float32]:
    """Encode texts with the student.

    :param model: in any state.
    :param longest: tokens of a text, the rest is left out.
    :return: float32 [texts, hidden], of length 1.
    """
    vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
    for numbers, hidden, mask in hidden_states(model, tokenizer, texts, longest):
        vectors[numbers] = mean(hidden, mask).cpu().numpy()
    return vectors


def hidden_states(
    model: JinaBertModel, tokenizer: WordPiece, texts: Sequence[str], longest: int = 512
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Compute the student's token vectors, batch by batch.

    :param model: in any state.
    :param longest: tokens of a text, the rest is left out.
    :return: for each batch of texts of about the same length, the longest first: which texts, their states, float
        [batch, length, hidden], and their mask, int64 [batch, length].
    """
    whole = [tokenizer.encode(text) for text in texts]
    ids = [text if len(text) <= longest else [*text[: longest - 1], text[-1]] for text in whole]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    while order:
        count = max(1, min(len(order), TOKENS_AT_ONCE // len(ids[order[-1]])))
        batch, order = order[-count:], order[:-count]
        rows = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids[i]) for i in batch], batch_first=True)
        mask = torch.arange(rows.shape[1]) < torch.tensor([len(ids[i]) for i in batch])[:, None]
        rows, mask = rows.to(model.device), mask.long().to(model.device)
        with torch.no_grad():
            hidden = model(rows, mask).last_hidden_state
        yield batch, hidden, mask


def write(model: JinaBertModel, vocabulary: Sequence[str], record: dict[str, Any], folder: Path) -> None:
    """Write a checkpoint as ``python -m export`` reads it.

    It is ``config.json``, ``model.safetensors`` (fp16), ``vocab.txt``, ``tokenizer_config.json`` and ``training.json``.

    :param vocabulary: the position is the id.
    :param record: what the checkpoint was made from and how, for ``training.json``.
    :param folder: exists.
    """
    config = model.config
    fields = {
        "model_type": "bert",
        "architectures": ["JinaBertModel"],
        "position_embedding_type": "alibi",
        "feed_forward_type": "geglu",
        "hidden_act": "gelu",
        "emb_pooler": "mean",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "type_vocab_size": config.type_vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "layer_norm_eps": config.layer_norm_eps,
        "pad_token_id": 0,
    }
    state = {
        name: value.detach().cpu().to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
    }
    texts = {
        "config.json": json.dumps(fields, indent=2) + "\n",
        "vocab.txt": "\n".join(vocabulary) + "\n",
        "tokenizer_config.json": json.dumps({"do_lower_case": True, "model_max_length": 8192}, indent=2)
        + "\n",
        "training.json": json.dumps(record, indent=2) + "\n",
    }
    with replacing(folder / "model.safetensors") as partial:
        save_file(state, partial, metadata={"format": "pt"})
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
