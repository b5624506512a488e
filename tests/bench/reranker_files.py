"""A seeded cross-encoder in each peer's form, made once and kept outside the repository: see files()."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.bench.artifacts import made_of_code, preset
from tests.bench.environments import CACHE
from tests.bench.shapes import seeded_reranker

__all__ = ["RerankerFiles", "files"]


class RerankerFiles(NamedTuple):
    """Where each is."""

    checkpoint: Path
    ours: dict[str, Path]  # precision -> model folder
    torch: Path  # tokenizer and configuration, under a name that rankers.py registers
    onnx: Path  # model.onnx in fp32, model_int8.onnx by optimum, and what their users read beside them


def files() -> RerankerFiles:
    """Make what is missing.

    :return: folders of the same seeded weights.
    :raises OSError: ../shared is missing.
    """
    from tests.unverified import make_folder

    checkpoint = seeded_reranker()
    code = made_of_code(checkpoint)
    ours = {}
    for precision in ("int8", "fp32"):
        folder = CACHE / "models" / f"ours-{code}" / f"{checkpoint.name}-{precision}"
        ours[precision] = folder if folder.is_dir() else make_folder(checkpoint, folder, precision)
    peers = CACHE / "models" / f"{checkpoint.name}-peers"
    if not peers.is_dir():
        with tempfile.TemporaryDirectory(dir=peers.parent, prefix=".making-") as staging:
            made = Path(staging) / "made"
            _make_torch(checkpoint, made / "torch")
            _make_onnx(checkpoint, made / "onnx")
            made.rename(peers)
    return RerankerFiles(checkpoint, ours, peers / "torch", peers / "onnx")


def _make_torch(checkpoint: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoint / name, folder)
    fields = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    document = json.dumps(fields | {"model_type": "bench-reranker", "checkpoint": str(checkpoint)})
    (folder / "config.json").write_text(document, encoding="utf-8")


def _make_onnx(checkpoint: Path, folder: Path) -> None:
    """The graph that optimum makes of the encoder, and the head behind it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from export import baseline, trace
    from export.checkpoint import load_model

    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoint / name, folder)
    special = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokens = {key: value for key, value in special.items() if key.endswith("_token")}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens), encoding="utf-8")
    model = load_model(checkpoint)
    file = folder / "model.onnx"
    trace.trace(model, file)
    graph = onnx.load(file)
    inner = graph.graph
    before = "last_hidden_state"
    nodes = [helper.make_node("Gather", [before, "bench.first"], ["bench.cls"], axis=1)]
    inner.initializer.append(helper.make_tensor("bench.first", TensorProto.INT64, [], [0]))
    value = "bench.cls"
    for number, (part, activation) in enumerate(zip(model.head, ("Tanh", None), strict=True)):
        names = [f"bench.{number}.{kind}" for kind in ("weight", "bias")]
        inner.initializer.extend(
            numpy_helper.from_array(part.arrays[kind], name)
            for kind, name in zip(("weight", "bias"), names, strict=True)
        )
        after = f"bench.{number}.pooled" if activation else "logits"
        nodes.append(helper.make_node("Gemm", [value, *names], [after], transB=1))
        value = after
        if activation:
            value = f"bench.{number}.active"
            nodes.append(helper.make_node(activation, [after], [value]))
    inner.node.extend(nodes)
    del inner.output[:]
    inner.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1]))
    onnx.checker.check_model(graph)
    onnx.save(graph, file)
    baseline.quantize_optimum(file, folder / "model_int8.onnx", preset())
