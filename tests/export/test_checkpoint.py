"""Weights: every key consumed, every parameter filled, or one line that lists them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from export.checkpoint import load_model, read_state, weight_files
from export.errors import ExportError
from tests.export.conftest import tiny_fields, tiny_state, write_checkpoint

IDS = torch.tensor([[2, 7, 9, 11, 3]])
MASK = torch.ones_like(IDS)
QUERY = "encoder.layer.0.attention.self.query.weight"


def hidden(folder: Path) -> torch.Tensor:
    return load_model(folder)(IDS, MASK).last_hidden_state


def refusal(folder: Path) -> str:
    with pytest.raises(ExportError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.fixture
def state() -> dict[str, Any]:
    return tiny_state(tiny_fields())


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A copy whose weights a test may replace."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def test_every_parameter_is_the_checkpoints(tiny_checkpoint: Path, state: dict[str, Any]) -> None:
    model = load_model(tiny_checkpoint)
    assert not model.training
    parameters = dict(model.named_parameters())
    assert parameters.keys() == state.keys()
    for name, value in parameters.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[name])
        assert not value.requires_grad


def test_prefix_and_unused_keys(
    tiny_checkpoint: Path, state: dict[str, Any], copy_with: Callable[..., Path]
) -> None:
    prefixed = {f"bert.{key}": value for key, value in state.items()}
    extra = [
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "cls.predictions.bias",
        "cls.predictions.decoder.weight",
    ]
    extra += ["bert.embeddings.position_ids", "bert.encoder.alibi"]
    folder = copy_with(prefixed | {key: torch.zeros(3) for key in extra})
    assert torch.equal(hidden(folder), hidden(tiny_checkpoint))


def test_sharded(folder: Path, state: dict[str, Any], tiny_checkpoint: Path) -> None:
    (folder / "model.safetensors").unlink()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    parts: list[dict[str, Any]] = [dict(list(state.items())[i::2]) for i in range(2)]
    for name, part in zip(shards, parts, strict=True):
        save_file(part, folder / name)
    index = {"weight_map": {key: name for name, part in zip(shards, parts, strict=True) for key in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_files(folder) == [folder / name for name in shards]
    assert torch.equal(hidden(folder), hidden(tiny_checkpoint))

    (folder / shards[1]).unlink()
    message = refusal(folder)
    assert shards[1] in message
    assert "missing" in message


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/passwd", "..", "", 7])
def test_index_that_leaves_the_folder(folder: Path, name: object) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {QUERY: name}}))
    assert "plain file name" in refusal(folder)


def test_index_that_promises_too_much(folder: Path, state: dict[str, Any]) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": dict.fromkeys([*state, "encoder.layer.9.odd"], "model-1.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "encoder.layer.9.odd" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(
    tmp_path: Path, state: dict[str, Any], dtype: torch.dtype, tiny_checkpoint: Path
) -> None:
    stored = {key: value.to(dtype) for key, value in state.items()}
    model = load_model(write_checkpoint(tmp_path / "stored", tiny_fields(), stored))
    for name, value in model.named_parameters():
        assert value.dtype == torch.float32
        assert torch.equal(value, stored[name].float())


def test_pytorch_bin(folder: Path, state: dict[str, Any], tiny_checkpoint: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert torch.equal(hidden(folder), hidden(tiny_checkpoint))


class Payload:
    """What a hostile checkpoint holds: code that runs when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("legacy", [False, True, None])
def test_pickled_code_never_runs(
    folder: Path, state: dict[str, Any], tmp_path: Path, legacy: bool | None
) -> None:
    (folder / "model.safetensors").unlink()
    poisoned = state | {"pooler.dense.bias": Payload(tmp_path / "was here")}
    file = folder / "pytorch_model.bin"
    if legacy is None:
        file.write_bytes(pickle.dumps(poisoned))
    else:
        torch.save(poisoned, file, _use_new_zipfile_serialization=not legacy)
    message = refusal(folder)
    assert "pickled code" in message
    assert len(message) < 400
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": 1}, {1: torch.ones(1)}, {"state_dict": {"a": torch.ones(1)}}]
)
def test_pytorch_bin_of_something_else(folder: Path, content: object) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    assert "dict of tensors" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"\xff" * 64])
def test_damaged_file(folder: Path, name: str, content: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    assert name in refusal(folder)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_truncated_file(folder: Path, part: float) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])
    assert "model.safetensors" in refusal(folder)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no weights" in refusal(folder)


def test_all_problems_in_one_line(copy_with: Callable[..., Path], state: dict[str, Any]) -> None:
    del state["encoder.layer.1.mlp.wo.bias"]
    state["encoder.layer.0.surprise"] = torch.ones(1)
    state["embeddings.LayerNorm.bias"] = torch.ones(65)
    state["embeddings.LayerNorm.weight"] = torch.ones(64, dtype=torch.int64)
    state["encoder.layer.0.mlp.wo.weight"][3, 4] = float("nan")
    state[QUERY][0, 0] = float("inf")
    message = refusal(copy_with(state))
    assert "missing: encoder.layer.1.mlp.wo.bias" in message
    assert "not used by JinaBert: encoder.layer.0.surprise" in message
    assert "embeddings.LayerNorm.bias [65] instead of [64]" in message
    assert "not floating point: embeddings.LayerNorm.weight torch.int64" in message
    assert f"not finite: {QUERY}, encoder.layer.0.mlp.wo.weight" in message


def test_a_float64_beyond_float32_is_not_finite(
    copy_with: Callable[..., Path], state: dict[str, Any]
) -> None:
    state[QUERY] = state[QUERY].double() * 1e200
    assert f"not finite: {QUERY}" in refusal(copy_with(state))


def test_a_bert_without_gates_is_refused(copy_with: Callable[..., Path], state: dict[str, Any]) -> None:
    plain = {
        key.replace("mlp.wo", "output.dense"): value for key, value in state.items() if "gated" not in key
    }
    message = refusal(copy_with(plain | {"embeddings.position_embeddings.weight": torch.ones(512, 64)}))
    assert "of no architecture" in message
    assert "mlp.gated_layers.weight" in message


def test_a_layer_too_many(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "three", tiny_fields(layers=3))
    (folder / "config.json").write_text(json.dumps(tiny_fields(layers=2)))
    message = refusal(folder)
    assert "encoder.layer.2.attention.output.LayerNorm.bias" in message
    assert "and 3 more" in message  # listed up to a point, and counted


def test_read_state_keeps_the_precision(tmp_path: Path, state: dict[str, Any]) -> None:
    half = {key: value.half() for key, value in state.items()}
    stored = read_state(write_checkpoint(tmp_path / "half", tiny_fields(), half))
    assert {value.dtype for value in stored.values()} == {torch.float16}
