"""Where the parts of a checkpoint stand: every layout works, or is refused by what it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from export.declared import read_declared
from export.errors import ExportError
from export.layouts import checkpoint_root, weight_files
from tests.export.conftest import tiny_fields, tiny_state, write_checkpoint
from tests.export.test_declared import (
    MODELS,
    pooled,
    refusal,
    save_sentence_transformer,
    write_json,
)


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A copy to write declarations into."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "st"))


def test_the_old_layout_with_a_folder_for_the_transformer(tmp_path: Path, tiny_checkpoint: Path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "st" / "0_Transformer")
    entries = [
        {"idx": 0, "name": "0", "path": "0_Transformer", "type": f"{MODELS}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{MODELS}.Pooling"},
    ]
    write_json(tmp_path / "st" / "modules.json", entries)
    write_json(tmp_path / "st" / "0_Transformer" / "sentence_roberta_config.json", {"max_seq_length": 256})
    stated = read_declared(tmp_path / "st")
    assert stated.backbone == tmp_path / "st" / "0_Transformer"
    assert stated.max_tokens == 256
    assert "1_Pooling/config.json is missing" in stated.notes[0]


def test_byte_order_marks(checkpoint: Path) -> None:
    save_sentence_transformer(checkpoint, pooled({}))
    for path in (*checkpoint.glob("*.json"), *checkpoint.glob("*/*.json")):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_declared(checkpoint).pooling == ("mean",)


def test_the_cache_of_a_hub(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Links into blobs, as huggingface_hub makes them; the model's folder, or a snapshot of it."""
    model = tmp_path / "models--jinaai--tiny"
    snapshot = model / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (model / "blobs").mkdir()
    for number, file in enumerate(tiny_checkpoint.iterdir()):
        shutil.copy(file, model / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert checkpoint_root(model) == checkpoint_root(snapshot) == snapshot
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0123abc")
    (model / "snapshots" / "other").mkdir()
    assert checkpoint_root(model) == snapshot
    assert weight_files(snapshot) == [snapshot / "model.safetensors"]
    (model / "refs" / "main").unlink()
    with pytest.raises(ExportError, match="0123abc, other"):
        checkpoint_root(model)
    (snapshot / "config.json").resolve().unlink()
    assert "a link to" in refusal(snapshot) if (snapshot / "modules.json").exists() else True


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 65338248\n"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "modules.json"])
def test_a_git_lfs_pointer(checkpoint: Path, file: str) -> None:
    from export.checkpoint import load_model

    save_sentence_transformer(checkpoint, pooled({}))
    (checkpoint / file).write_text(POINTER)
    with pytest.raises(ExportError, match=r"Git LFS pointer .*65,338,248.*git lfs pull"):
        load_model(read_declared(checkpoint).backbone)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("tf_model.h5", "TensorFlow"),
        ("flax_model.msgpack", "Flax"),
        ("model-q4.gguf", "GGUF"),
        ("model.fp16.safetensors", "variant"),
        ("model.onnx", "ONNX"),
        ("weights.pt", "rename"),
        ("openvino_model.xml", "OpenVINO"),
        ("readme.md", "expected model.safetensors"),
    ],
)
def test_weights_of_other_kinds_are_refused_by_what_they_are(checkpoint: Path, file: str, words: str) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / file).write_bytes(b"x")
    with pytest.raises(ExportError, match=words):
        weight_files(checkpoint)


def test_an_adapter_is_refused_with_its_base(checkpoint: Path) -> None:
    write_json(checkpoint / "adapter_config.json", {"base_model_name_or_path": "jinaai/base"})
    (checkpoint / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(ExportError, match=r"LoRA adapter.*jinaai/base.*merge_and_unload"):
        weight_files(checkpoint)


def test_folders_of_a_training(tmp_path: Path) -> None:
    for step in (500, 1000):
        write_json(tmp_path / f"checkpoint-{step}" / "config.json", {})
    with pytest.raises(ExportError, match="checkpoint-1000, checkpoint-500"):
        checkpoint_root(tmp_path)


@pytest.mark.parametrize(
    "prefix",
    ["bert.", "_orig_mod.", "module.", "0.auto_model.", "model.", "module._orig_mod.bert.", "a.b.c."],
)
def test_prefixes_of_weight_names_are_removed_and_said(tmp_path: Path, prefix: str) -> None:
    from export.checkpoint import load_model

    fields = tiny_fields()
    state = tiny_state(fields)
    named = {prefix + name: value for name, value in state.items()}
    outer = prefix.split("bert.")[0] if "bert." in prefix else prefix
    named |= {f"{prefix}pooler.dense.weight": torch.zeros(2), f"{outer}cls.predictions.bias": torch.zeros(2)}
    folder = write_checkpoint(tmp_path / "prefixed", fields, named)
    notes: list[str] = []
    parameters = dict(load_model(folder, notes=notes).named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in state.items())
    assert len(notes) == 1
    assert all(part in notes[0] for part in prefix.split("."))


def test_wrappers_inside_names(tmp_path: Path) -> None:
    from export.checkpoint import load_model

    fields = tiny_fields()
    state = tiny_state(fields)
    named = {
        name.replace("encoder.layer.0.", "encoder.layer.0._checkpoint_wrapped_module."): value
        for name, value in state.items()
    }
    notes: list[str] = []
    load_model(write_checkpoint(tmp_path / "wrapped", fields, named), notes=notes)
    assert "_checkpoint_wrapped_module" in notes[0]


def test_two_encoders_in_one_file(tmp_path: Path) -> None:
    from export.checkpoint import load_model

    fields = tiny_fields()
    one, other = tiny_state(fields), tiny_state(fields, seed=1)
    twice = {f"query.{k}": v for k, v in one.items()} | {f"document.{k}": v for k, v in other.items()}
    with pytest.raises(ExportError, match=r"'query\.' and 'document\.'"):
        load_model(write_checkpoint(tmp_path / "two", fields, twice))
    same = {f"query.{k}": v for k, v in one.items()} | {f"document.{k}": v.clone() for k, v in one.items()}
    with pytest.raises(ExportError, match=r"document\.embeddings"):
        load_model(write_checkpoint(tmp_path / "same", fields, same))


def test_a_head_is_refused_and_left_out_when_asked(tmp_path: Path) -> None:
    from export.checkpoint import load_model

    fields = tiny_fields()
    state = tiny_state(fields)
    head = {"classifier.weight": torch.zeros(2, 64), "classifier.bias": torch.zeros(2)}
    named = {f"bert.{name}": value for name, value in state.items()} | head
    folder = write_checkpoint(tmp_path / "head", fields, named)
    with pytest.raises(ExportError, match=r"head .*classifier\.bias, classifier\.weight.*--without-head"):
        load_model(folder)
    notes: list[str] = []
    load_model(folder, without_head=True, notes=notes)
    assert any("classifier.weight" in note for note in notes)


def test_tied_weights_that_were_stored_once(tmp_path: Path) -> None:
    from export.checkpoint import load_model

    fields = tiny_fields()
    state = tiny_state(fields)
    folder = write_checkpoint(tmp_path / "tied", fields, state)
    tied = "embeddings.word_embeddings.weight"
    stored = {
        ("cls.predictions.decoder.weight" if name == tied else name): value for name, value in state.items()
    }
    save_file(stored, folder / "model.safetensors", metadata={tied: "cls.predictions.decoder.weight"})
    assert torch.equal(dict(load_model(folder).named_parameters())[tied], state[tied])


def test_sharded_pickles(tmp_path: Path) -> None:
    from export.checkpoint import load_model

    fields = tiny_fields()
    state = tiny_state(fields)
    folder = write_checkpoint(tmp_path / "shards", fields, state)
    (folder / "model.safetensors").unlink()
    names = list(state)
    parts = {f"pytorch_model-0000{part}-of-00002.bin": names[part - 1 :: 2] for part in (1, 2)}
    for file, part in parts.items():
        torch.save({name: state[name] for name in part}, folder / file)
    write_json(
        folder / "pytorch_model.bin.index.json",
        {"weight_map": {name: file for file, part in parts.items() for name in part}},
    )
    parameters = dict(load_model(folder).named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in state.items())
