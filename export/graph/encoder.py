"""What the graph is built from: an encoder's sizes and weights, whatever its architecture.

A layer is a dict of parts. Matrices are "NAME.fp32", [inputs, outputs], NAME out of ``weights.MATRICES``; vectors have
the names of JinaBert's checkpoints. What a layer does follows from the parts that it has:

    attention.self.{query, key, value}, attention.output.dense     attention; 1 / sqrt(d) is in the query's parts
    attention.self.{layer_norm_q, layer_norm_k}.{weight, bias}     norms of queries and keys; then the scale is in them
    attention.output.LayerNorm.{weight, bias}                      the norm after attention and residual
    layer_norm_1.{weight, bias}                                    a second one after that, the residual added again
    mlp.{gate, up, wo}                                             wo(GELU(gate(x)) * up(x)), or wo(ReLU(up(x)))
    mlp.layernorm.{weight, bias}                                   the norm after the feed-forward and residual
    {attention, mlp}.pre_norm.weight                               RMSNorm of what goes into attention, feed-forward
    NAME.bias                                                      a bias of that matrix
    {attention.self, mlp}.factor                                   what the input's channels are multiplied by before
                                                                   they are quantised; the int8 matrices that take
                                                                   them are divided by it. In all layers or in none.
    {input}.step                                                   one scale for all tokens of that input (a key of
                                                                   ``weights.INPUTS``), scalar. In all layers or none.
    NAME.{int8, scale}                                             a matrix that is rounded to int8 already
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.graph.positions import Alibi, RelativeBias
from export.graph.weights import MATRICES, Arrays, Shape

__all__ = ["Encoder", "Float"]

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Encoder:
    """Sizes and weights."""

    table: Float  # the embeddings of all tokens, [vocabulary, hidden]
    norm: tuple[Float, Float] | None  # LayerNorm of the embeddings: weight and bias, [hidden]
    layers: Sequence[Arrays]
    positions: Alibi | RelativeBias
    shape: Shape
    final_norm: Float | None = None  # RMSNorm of the output: weight, [hidden]

    @property
    def matrices(self) -> list[str]:
        """Names of the matrices of a layer, in the order in which they run."""
        return [name for name in MATRICES if name + ".fp32" in self.layers[0]]
