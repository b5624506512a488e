"""Traces a model to ONNX through optimum's exporter: the graph as its operators are, which ``baseline`` quantises."""

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
from export.models import EncoderModel
from export.quiet import quiet

__all__ = ["MAX_OPSET", "EncoderOnnxConfig", "trace"]

# The newest operator set that torch's TorchScript exporter writes, which is the one optimum calls ...
_TRACED_OPSET = 20
# ... and the newest that onnx's own converter is trusted with, from there.
MAX_OPSET = 21
# Said at every export by torch, whichever way optimum calls it.
_WARNED = ("You are using the legacy TorchScript-based ONNX export", "The feature will be removed")


class EncoderOnnxConfig(TextEncoderOnnxConfig):
    """Inputs and outputs of the graph: no token types, no pooler, both axes dynamic."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Name the inputs and their dynamic axes."""
        return {name: {0: "batch", 1: "sequence"} for name in ("input_ids", "attention_mask")}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """Name the outputs and their dynamic axes."""
        return {"last_hidden_state": {0: "batch", 1: "sequence"}}


def trace(model: EncoderModel, path: Path, *, opset: int = MAX_OPSET) -> onnx.ModelProto:
    """Trace a model.

    :param model: the model, fp32.
    :param path: where to write the graph; the weights are inside the file, or beside it where they pass 2 GiB.
    :param opset: version of the ai.onnx operators to write, 17 to :data:`MAX_OPSET`.
    :return: the graph, weights included: int64 ``input_ids`` and ``attention_mask`` [batch, sequence], float32
        ``last_hidden_state`` [batch, sequence, hidden].
    :raises ExportError: this opset cannot be written, or the model's code branches on its input.
    """
    if not 17 <= opset <= MAX_OPSET:
        raise ExportError(f"opset {opset} cannot be written: choose 17 to {MAX_OPSET}")
    block_rows, model.block_rows = model.block_rows, None
    try:
        with quiet(["optimum"], _WARNED):
            # A value of the example that gets frozen into the graph is an error, not a warning.
            warnings.filterwarnings("error", category=torch.jit.TracerWarning)
            export(model, EncoderOnnxConfig(model.config), path, opset=min(opset, _TRACED_OPSET))
    except (torch.jit.TracerWarning, SystemError) as error:
        # int() of a traced size wraps the warning in a SystemError.
        if not isinstance(error.__cause__ or error, torch.jit.TracerWarning):
            raise
        raise ExportError(
            f"the trace would freeze a value of its example: {error.__cause__ or error}"
        ) from error
    finally:
        model.block_rows = block_rows
    graph = onnx.load(path)
    if opset > _TRACED_OPSET:
        graph = onnx.version_converter.convert_version(graph, opset)
        onnx.save(graph, path)
    return graph
