"""The modules of sentence-transformers that follow the pooling: their settings and arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.errors import ExportError, listing
from export.layouts import weight_files
from export.reader import Reader
from runtime.modules import Module, array_shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ACTIVATIONS", "read_module"]

ACTIVATIONS = {
    "Identity": "identity",
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
    "LogSigmoid": "logsigmoid",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Mish": "mish",
    "ELU": "elu",
    "SELU": "selu",
    "LeakyReLU": "leaky_relu",
    "ReLU6": "relu6",
    "Hardtanh": "hardtanh",
    "Hardsigmoid": "hardsigmoid",
    "Hardswish": "hardswish",
}


def read_module(reader: Reader, kind: str, folder: Path, size: int) -> Module:
    """Read a module.

    :param reader: collects files and notes.
    :param kind: Dense, LayerNorm or Normalize.
    :param folder: of the module.
    :param size: of the vectors that come in.
    :return: the module, its arrays included.
    :raises ExportError: it cannot be computed, or its weights do not fit.
    """
    path = folder / "config.json"
    fields = reader.json(path) if kind != "Normalize" or path.exists() else {}
    for name in ("module_input_name", "module_output_name"):
        if fields.get(name) not in (None, "sentence_embedding"):
            raise ExportError(
                f"{path}: {name} is {fields[name]!r}; only 'sentence_embedding' works: this is a module of a model "
                "with a vector for each token, or of several outputs"
            )
    names = {"module_input_name", "module_output_name"}
    if kind == "Normalize":
        reader.note_unknown(path, fields, names)
        return Module("normalize", size, size)
    if kind == "LayerNorm":
        if fields.get("dimension") != size:
            raise ExportError(
                f"{path}: dimension is {fields.get('dimension')!r} where {size} numbers come in"
            )
        reader.note_unknown(path, fields, names | {"dimension"})
        return _with_arrays(reader, Module("layer_norm", size, size), folder, "norm")
    if fields.get("in_features") != size:
        raise ExportError(
            f"{path}: in_features is {fields.get('in_features')!r} where {size} numbers come in"
        )
    out = fields.get("out_features")
    if isinstance(out, bool) or not isinstance(out, int) or not 1 <= out <= 1 << 16:
        raise ExportError(f"{path}: out_features is {out!r}, expected an integer from 1 to 65,536")
    bias, residual = fields.get("bias", True), fields.get("use_residual", False)
    if not isinstance(bias, bool) or not isinstance(residual, bool):
        raise ExportError(f"{path}: bias is {bias!r} and use_residual {residual!r}, expected true or false")
    reader.note_unknown(
        path,
        fields,
        names | {"in_features", "out_features", "bias", "use_residual", "activation_function"},
    )
    stated = fields.get("activation_function", "torch.nn.modules.activation.Tanh")
    package, _, name = str(stated).rpartition(".")
    if not package.startswith("torch.nn") or name not in ACTIVATIONS:
        raise ExportError(
            f"{path}: activation_function is {stated!r}, which is not implemented; {', '.join(ACTIVATIONS)} of "
            "torch.nn are"
        )
    if "activation_function" not in fields:
        reader.notes.append(
            f"{reader.name(path)} names no activation: it is Tanh, as sentence-transformers' default"
        )
    dense = Module("dense", size, out, bias=bias, use_residual=residual, activation=ACTIVATIONS[name])
    return _with_arrays(reader, dense, folder, "linear")


def _with_arrays(reader: Reader, module: Module, folder: Path, layer: str) -> Module:
    """Read the arrays of a module from the weights in its folder."""
    import torch

    from export.checkpoint import read_state

    state = read_state(folder)
    reader.files += weight_files(folder)
    arrays: dict[str, NDArray[np.float32]] = {}
    for name, shape in array_shapes(module).items():
        key = "residual.weight" if name == "residual" else f"{layer}.{name}"
        tensor = state.pop(key, None)
        if tensor is None:
            raise ExportError(f"{folder} lacks {key}, which its config.json promises: fetch it again")
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise ExportError(
                f"{folder}: {key} is {tensor.dtype} {list(tensor.shape)}, expected numbers of shape {list(shape)}"
            )
        array = tensor.to(torch.float32).numpy()
        if not np.isfinite(array).all():
            raise ExportError(f"{folder}: {key} holds values that are not finite: the checkpoint is damaged")
        arrays[name] = array
    if state:
        raise ExportError(f"{folder} holds {listing(sorted(state))}, which its config.json does not explain")
    return module._replace(arrays=arrays)
