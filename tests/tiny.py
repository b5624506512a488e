"""A model folder of a few kilobytes with the real one's contract, made with onnx and numpy only.

Its graph looks ids up in a random table and adds one head of attention over the real tokens, so that vectors
depend on every token of their text, and on no other text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from runtime.manifest import SCHEMA_VERSION, content_checksum, file_facts

DIMENSION = 16
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *LETTERS,
    *(f"##{c}" for c in LETTERS),
    "hello",
    "world",
    ",",
]


def make_model(
    folder: Path,
    *,
    kind: str = "wordpiece",
    poison: bool = False,
    external: bool = False,
    **changes: Any,
) -> Path:
    """Write model.onnx, the tokenizer's file and manifest.json.

    :param folder: created.
    :param kind: of tokenizer: "wordpiece" or one of tests.tokenizer_kinds.TINY.
    :param poison: the graph gives NaN for a text with the token "z".
    :param external: weights in model.onnx.data.
    :param changes: fields of the manifest.
    :return: folder.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True)
    tokens = len(VOCABULARY)
    if kind != "wordpiece":
        from tests.tokenizer_kinds import write_model_files

        changes = {**(described := write_model_files(folder, kind)), **changes}
        tokens = described["vocabulary"]
    table = np.random.default_rng(7).standard_normal((tokens, DIMENSION)).astype(np.float32)
    if poison:
        table[VOCABULARY.index("z")] = np.nan
    weights = {"table": table, "one": np.float32(1), "far": np.float32(-1e9), "axis": np.array([1], np.int64)}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "mask"], ["padding"]),
        helper.make_node("Mul", ["padding", "far"], ["flat_bias"]),
        helper.make_node("Unsqueeze", ["flat_bias", "axis"], ["bias"]),
        helper.make_node("Transpose", ["x"], ["keys"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "keys"], ["raw_scores"]),
        helper.make_node("Add", ["raw_scores", "bias"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "x"], ["context"]),
        helper.make_node("Add", ["x", "context"], ["last_hidden_state"]),
    ]
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, shape)
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*shape, DIMENSION])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(
        model,
        folder / "model.onnx",
        save_as_external_data=external,
        location="model.onnx.data",
        size_threshold=256,
    )
    if kind == "wordpiece":
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY), encoding="utf-8")
    write_manifest(folder, **changes)
    return folder


def make_cross_encoder(folder: Path) -> Path:
    """Write the folder of a cross-encoder: the first token's vector through BERT's pooler and a classifier.

    :param folder: created.
    :return: folder.
    """
    from runtime.modules import MODULES_DATA, Module, describe, pack

    make_model(folder)
    chance = np.random.default_rng(11)

    def dense(outputs: int, activation: str) -> Module:
        arrays = {
            "weight": chance.standard_normal((outputs, DIMENSION)).astype(np.float32),
            "bias": chance.standard_normal(outputs).astype(np.float32),
        }
        return Module("dense", DIMENSION, outputs, arrays, bias=True, activation=activation)

    head = [dense(DIMENSION, "tanh"), dense(1, "identity")]
    (folder / MODULES_DATA).write_bytes(pack(head))
    write_manifest(
        folder,
        task="rerank",
        dimension=1,
        normalize=False,
        pooling={"modes": ["cls"], "include_prompt": True},
        modules=[describe(module) for module in head],
    )
    return folder


def write_manifest(folder: Path, **changes: Any) -> None:
    """Write a manifest.json that fits the other files of the folder."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "manifest.json")
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": "tiny",
        "architecture": "jinabert",
        "source": {"name": "tests", "revision": None, "sha256": {}},
        "dimension": DIMENSION,
        "layers": 1,
        "heads": 1,
        "intermediate": DIMENSION,
        "vocabulary": len(VOCABULARY),
        "max_tokens": 32,
        "hidden_size": DIMENSION,
        "pooling": {"modes": ["mean"], "include_prompt": True},
        "modules": [],
        "normalize": True,
        "prompts": {},
        "default_prompt_name": None,
        "similarity": "cosine",
        "tokenizer": {"type": "wordpiece", "lower_case": True},
        "precision": "fp32",
        "scheme": None,
        "max_dense_tokens": 24,
        "made_with": {},
        "files": {name: file_facts(folder / name)._asdict() for name in names},
        "verification": {},
    }
    seal(folder, document | changes)


def seal(folder: Path, document: dict[str, Any]) -> None:
    """Write a manifest.json with the checksum of its content."""
    document = document | {"checksum": content_checksum(document)}
    (folder / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
