"""The forward passes in numpy, float64, one text without padding and one head at a time: written from the published
equations alone, and sharing nothing with the exporter's modules."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from export.checkpoint import read_state

Array = np.ndarray[Any, np.dtype[np.float64]]
erf = np.vectorize(math.erf, otypes=[np.float64])


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * weight + bias


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def slopes(heads: int) -> list[float]:
    """As the reference code of ALiBi has them."""
    if math.log2(heads).is_integer():
        return [2 ** (-8 / heads * (i + 1)) for i in range(heads)]
    below = 2 ** int(math.log2(heads))
    return slopes(below) + slopes(2 * below)[::2][: heads - below]


def hidden_states(folder: Path, ids: list[int]) -> Array:
    """Compute hidden states with numpy.

    :param folder: a JinaBert checkpoint: plain, with norms on q and k (base-es), or base-code's.
    :param ids: tokens of a text.
    :return: last hidden states, float64 [tokens, hidden].
    """
    fields = json.loads((folder / "config.json").read_text())
    w: dict[str, Array] = {
        name.removeprefix("bert."): value.double().numpy() for name, value in read_state(folder).items()
    }
    heads, f = fields["num_attention_heads"], fields["intermediate_size"]
    d = fields["hidden_size"] // heads
    normed = "encoder.layer.0.attention.self.layer_norm_q.weight" in w
    post = "encoder.layer.0.layer_norm_1.weight" in w

    def norm(x: Array, name: str) -> Array:
        return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(x: Array, name: str) -> Array:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    distance = np.abs(np.arange(len(ids))[:, None] - np.arange(len(ids))[None, :])
    for i in range(fields["num_hidden_layers"]):
        name = f"encoder.layer.{i}"
        q, k, v = (linear(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        if normed:
            q, k = (
                norm(q, f"{name}.attention.self.layer_norm_q"),
                norm(k, f"{name}.attention.self.layer_norm_k"),
            )
        outputs = []
        for h, slope in enumerate(slopes(heads)):
            part = slice(h * d, (h + 1) * d)
            scores = q[:, part] @ k[:, part].T / math.sqrt(d) - slope * distance
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            outputs.append(shares / shares.sum(-1, keepdims=True) @ v[:, part])
        attended = linear(np.concatenate(outputs, -1), f"{name}.attention.output.dense")
        a = norm(attended + x, f"{name}.attention.output.LayerNorm")
        if post:
            hidden = norm(a + x, f"{name}.layer_norm_1")
            z = hidden @ w[f"{name}.mlp.up_gated_layer.weight"].T
            x = norm(
                linear(z[:, :f] * gelu(z[:, f:]), f"{name}.mlp.down_layer") + hidden, f"{name}.layer_norm_2"
            )
        else:
            z = a @ w[f"{name}.mlp.gated_layers.weight"].T
            x = norm(linear(gelu(z[:, :f]) * z[:, f:], f"{name}.mlp.wo") + a, f"{name}.mlp.layernorm")
    return x
