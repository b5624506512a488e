"""What goes into each linear layer: its second moments, and some rows of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor

from export import folder, graph, verify
from export.graph.encoder import Encoder
from export.graph.weights import INPUTS

__all__ = ["Observed", "observe"]

ROWS = 256  # rows that are kept
BATCH_TOKENS = 1024


@dataclass
class Observed:
    """Of one input."""

    gram: Tensor  # sum over tokens of x·xᵀ, float32 [inputs, inputs]
    tokens: int
    rows: Tensor  # float32 [rows, inputs]
    largest: Tensor  # magnitude of each channel, float32 [inputs]

    def divided(self, factors: Tensor) -> Observed:
        """What would be observed of the input divided by factors.

        :param factors: float32 [inputs].
        :return: the same of x / factors.
        """
        gram = self.gram / torch.outer(factors, factors)
        return Observed(gram, self.tokens, self.rows / factors, self.largest / factors)


def observe(
    encoder: Encoder, texts: Sequence[Sequence[int]], work: Path, threads: int
) -> dict[tuple[int, str], Observed]:
    """Run texts through the fp32 graph and look at the input of each linear layer.

    :param encoder: sizes and weights.
    :param texts: token ids.
    :param work: an existing folder, for the graph.
    :param threads: of one operator.
    :return: layer number and key of INPUTS -> what was seen.
    """
    model = graph.build(encoder, precision="fp32", blockwise=False)
    taken = {node.input[1]: node.input[0] for node in model.graph.node if node.op_type == "MatMul"}
    inputs = {
        (layer, group): taken[f"encoder.layer.{layer}.{matrices[-1]}.fp32"]
        for layer in range(len(encoder.layers))
        for group, matrices in INPUTS.items()
    }
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in dict.fromkeys(inputs.values())
    )
    (path, *_) = folder.save_model(model, work)
    session = verify.open_session(path, threads)
    keep = -(-sum(map(len, texts)) // ROWS)  # every so many tokens, a row is kept
    found: dict[tuple[int, str], Observed] = {}
    for batch in verify.batches_by_length([len(text) for text in texts], None, BATCH_TOKENS):
        ids, mask = verify.padded([texts[index] for index in batch])
        real = mask.astype(bool)
        values = session.run(list(inputs.values()), {"input_ids": ids, "attention_mask": mask})
        for key, value in zip(inputs, values, strict=True):
            x = torch.from_numpy(np.ascontiguousarray(value[real]))
            seen = Observed(x.T @ x, len(x), x[::keep], x.abs().amax(0))
            if key in found:
                old = found[key]
                old.gram += seen.gram
                largest = torch.maximum(old.largest, seen.largest)
                seen = Observed(old.gram, old.tokens + seen.tokens, torch.cat([old.rows, seen.rows]), largest)
            found[key] = seen
    return found
