"""A student out of a model folder: the int8 weights of an earlier export as a start for more training.

What the export changed is undone: weights are multiplied by their scales, the query's 1 / sqrt(width) is taken back,
and channels that balance.py wrote to several dimensions are gathered into one again, since Adam would pull such copies
apart. Biases that the export folded into others stay there; they would be redundant. int8 rounding cannot be undone:
vectors are as close to the original checkpoint's as those of the folder are (cosine 0.9995 for the bundled model).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from export.config import read_json
from export.distill.initialize import layer_norms
from export.errors import ExportError
from export.graph.assembly import EMBEDDINGS
from export.graph.weights import MATRICES
from export.models.jinabert import JinaBertConfig, JinaBertModel
from runtime.manifest import MANIFEST, MODEL

__all__ = ["gather_copies", "load_model_folder", "stored_arrays"]

ROW_DEVIATION = 0.05  # of the embedding table: its rows' scales are not stored, since a LayerNorm follows


def load_model_folder(folder: Path) -> JinaBertModel:
    """Load an int8 model folder for further training.

    :param folder: a model folder in int8, as ``python -m export`` writes it with the per-token scheme.
    :return: the model in fp32, with the weights that the folder holds.
    :raises ExportError: the folder holds something else.
    """
    manifest = read_json(folder / MANIFEST)
    if manifest.get("precision") != "int8" or manifest.get("scheme") != "per-token":
        raise ExportError(f"{folder} is not int8 per token: only such a model folder can be trained further")
    arrays = stored_arrays(folder)

    def array(name: str) -> NDArray[Any]:
        if name not in arrays:
            raise ExportError(f"{folder / MODEL} has no {name}: it is of another export, make it again")
        return arrays[name]

    def matrix(name: str) -> Tensor:
        whole = array(name + ".int8") * array(name + ".scale")
        factor = name.rpartition(".")[0] + ".factor"  # see graph/encoder.py
        if factor in arrays and not name.endswith((".dense", ".wo")):
            whole = whole * arrays[factor][:, None]
        return torch.from_numpy(whole.T.astype(np.float32))

    def vector(name: str) -> Tensor:
        return torch.from_numpy(array(name).astype(np.float32))

    rows = torch.from_numpy(array(EMBEDDINGS + ".int8").astype(np.float32))
    model = JinaBertModel(
        JinaBertConfig(
            vocab_size=rows.shape[0],
            hidden_size=rows.shape[1],
            num_hidden_layers=manifest["layers"],
            num_attention_heads=manifest["heads"],
            intermediate_size=manifest["intermediate"],
        )
    )
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    state["embeddings.word_embeddings.weight"] = (
        rows * ROW_DEVIATION / rows.std(1, keepdim=True).clamp(min=1e-9)
    )
    norms = ["embeddings.LayerNorm"]
    for i, layer in enumerate(model.encoder.layer):
        prefix = f"encoder.layer.{i}."
        parts = {name: matrix(prefix + name) for name in MATRICES}
        state[prefix + "mlp.gated_layers.weight"] = torch.cat([parts.pop("mlp.gate"), parts.pop("mlp.up")])
        scale = layer.attention.head_width**0.5
        parts["attention.self.query"] *= scale
        state |= {f"{prefix}{name}.weight": value for name, value in parts.items()}
        state[prefix + "attention.self.query.bias"] = vector(prefix + "attention.self.query.bias") * scale
        for name in ("attention.output.dense.bias", "mlp.wo.bias"):
            state[prefix + name] = vector(prefix + name)
        norms += [prefix + "attention.output.LayerNorm", prefix + "mlp.layernorm"]
    state |= {f"{name}.{part}": vector(f"{name}.{part}") for name in norms for part in ("weight", "bias")}
    model.load_state_dict(state)
    return model


def stored_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a model folder's graph.

    :param folder: a model folder.
    :return: name of an initializer -> its value.
    :raises ExportError: the graph cannot be read.
    """
    try:
        graph = onnx.load(folder / MODEL).graph
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    except Exception as error:  # a damaged file raises anything
        raise ExportError(
            f"{folder / MODEL} cannot be read ({type(error).__name__}): fetch it again"
        ) from None


@torch.no_grad()
def gather_copies(model: JinaBertModel, constant_channel: int) -> int:
    """Undo the redistribution of outliers: the dimensions behind the constant one become empty again.

    A channel's copies are known by their LayerNorm weights, which are the channel's own in each norm. They hold the
    channel times a vector c of length 1, which is found from the embedding table; so c times them is the channel.

    :param model: changed in place.
    :param constant_channel: of the hidden states.
    :return: how many copies were gathered.
    """
    weights = torch.stack([norm.weight for norm in layer_norms(model)])
    table = model.embeddings.word_embeddings.weight
    gathered = 0
    for channel in range(constant_channel):
        same = (weights == weights[:, channel, None]).all(0)
        same[: constant_channel + 1] = False
        if not bool(same.any()):
            continue
        places = torch.cat([torch.tensor([channel]), torch.nonzero(same).flatten()])
        gathered += len(places) - 1
        direction = torch.linalg.svd(table[:, places], full_matrices=False).Vh[0]
        direction = direction * direction.sum().sign()

        def gather(rows: Tensor, places: Tensor = places, direction: Tensor = direction) -> None:
            """The rows of copies, where they are written."""
            value = direction @ rows[places]
            rows[places] = 0.0
            rows[places[0]] = value

        gather(table.T)
        for norm in layer_norms(model):
            norm.weight[places[1:]] = 0.0
            gather(norm.bias)
        for layer in model.encoder.layer:
            attention, mlp = layer.attention, layer.mlp
            # Reading has the same form: a row reads r from the copies, and r times c is what it read.
            for reader in (attention.self.query, attention.self.key, attention.self.value, mlp.gated_layers):
                gather(reader.weight.T)
            for writer in (attention.output.dense, mlp.wo):
                gather(writer.weight)
                gather(writer.bias)
    return gathered
