"""Traces a JinaBertModel to ONNX through optimum's exporter.

Two forms: the plain graph, which onnxruntime runs as it is, and the coarse one, in which each layer is one node
``jinabert::Layer`` for the graph rewrite to expand.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import onnx.version_converter
import torch
from optimum.exporters.onnx import export
from optimum.exporters.onnx.config import TextEncoderOnnxConfig
from optimum.utils import NormalizedTextConfig

from export.errors import ExportError
from export.modeling import JinaBertModel, fold_token_types
from export.quiet import quiet

__all__ = ["MAX_OPSET", "JinaBertOnnxConfig", "trace"]

# The newest operator set that torch's TorchScript exporter writes, which is the one optimum calls ...
_TRACED_OPSET = 20
# ... and the newest that onnx's own converter is trusted with, from there.
MAX_OPSET = 21
# Said at every export by torch, whichever way optimum calls it.
_WARNED = ("You are using the legacy TorchScript-based ONNX export", "The feature will be removed")


class JinaBertOnnxConfig(TextEncoderOnnxConfig):
    """Inputs and outputs of the graph: no token types, no pooler, both axes dynamic."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        return {name: {0: "batch", 1: "sequence"} for name in ("input_ids", "attention_mask")}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return {"last_hidden_state": {0: "batch", 1: "sequence"}}


def trace(model: JinaBertModel, path: Path, *, coarse: bool, opset: int = MAX_OPSET) -> onnx.ModelProto:
    """Trace a model, with token type 0 folded into its embedding table (which changes no output).

    :param model: the model, fp32; the fold is in place.
    :param path: where to write the graph; the weights are inside the file, or beside it where they pass 2 GiB.
    :param coarse: write one ``jinabert::Layer`` node a layer instead of its operators.
    :param opset: version of the ai.onnx operators to write, 17 to :data:`MAX_OPSET`.
    :return: the graph, weights included: int64 ``input_ids`` and ``attention_mask`` [batch, sequence], float32
        ``last_hidden_state`` [batch, sequence, hidden].
    :raises ExportError: this opset cannot be written, or the model's code branches on its input.
    """
    if not 17 <= opset <= MAX_OPSET:
        raise ExportError(f"opset {opset} cannot be written: choose 17 to {MAX_OPSET}")
    fold_token_types(model)
    blocked, model.block_rows, model.coarse = model.block_rows, None, coarse
    try:
        with quiet(["optimum"], _WARNED):
            # A value of the example that gets frozen into the graph is an error, not a warning.
            warnings.filterwarnings("error", category=torch.jit.TracerWarning)
            # The fix of dynamic axes runs the graph, and no runtime knows the coarse node.
            export(
                model,
                JinaBertOnnxConfig(model.config),
                path,
                opset=min(opset, _TRACED_OPSET),
                disable_dynamic_axes_fix=coarse,
            )
    except (torch.jit.TracerWarning, SystemError) as error:
        # int() of a traced size wraps the warning in a SystemError.
        if not isinstance(error.__cause__ or error, torch.jit.TracerWarning):
            raise
        raise ExportError(
            f"the trace would freeze a value of its example: {error.__cause__ or error}"
        ) from error
    finally:
        model.block_rows, model.coarse = blocked, False
    graph = onnx.load(path)
    if coarse:
        _drop_identities(graph.graph)
    if opset > _TRACED_OPSET:
        graph = onnx.version_converter.convert_version(graph, opset)
    if coarse or opset > _TRACED_OPSET:
        onnx.save(graph, path)
    return graph


def _drop_identities(graph: onnx.GraphProto) -> None:
    """Give every node its weights directly: torch stores weights of equal value once, behind Identity nodes."""
    source = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    kept = [node for node in graph.node if node.op_type != "Identity"]
    for node in kept:
        node.input[:] = [source.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)
