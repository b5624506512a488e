"""Where the parts of a checkpoint stand: folders as hubs, caches and training scripts leave them.

What cannot be used is refused here by what it is, before anything is read as what it is not: a Git LFS pointer, an
adapter without its base, weights for another framework.
"""

from __future__ import annotations

import re
from pathlib import Path

from export.config import check_file, read_json
from export.errors import ExportError, listing

__all__ = ["checkpoint_root", "refuse_adapter", "shard_map", "weight_files"]

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
# In the order of Transformers, which takes the first that is there.
WEIGHTS = (SAFETENSORS, SAFETENSORS_INDEX, PICKLED, PICKLED_INDEX)

ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")

# What stands where weights should, by the pattern of its name -> what it is, and what to do.
_OTHER_WEIGHTS = (
    (
        "tf_model.h5",
        "TensorFlow weights",
        "save them with from_pretrained(..., from_tf=True).save_pretrained()",
    ),
    (
        "flax_model.msgpack",
        "Flax weights",
        "save them with from_pretrained(..., from_flax=True).save_pretrained()",
    ),
    ("rust_model.ot", "weights for rust-bert", "give the folder that they were converted from"),
    ("*.gguf", "a GGUF file of llama.cpp", "give the folder that it was converted from"),
    ("*.ggml", "a GGML file of llama.cpp", "give the folder that it was converted from"),
    ("model.bin", "weights for CTranslate2", "give the folder that they were converted from"),
    ("openvino_model.xml", "an OpenVINO model", "give the folder that it was converted from"),
    ("zero_to_fp32.py", "a DeepSpeed checkpoint", "run `python zero_to_fp32.py . .` in it first"),
    ("__0_0.distcp", "a distributed checkpoint", "run `accelerate merge-weights` on it first"),
    ("pytorch_model_fsdp*", "an FSDP checkpoint", "run `accelerate merge-weights` on it first"),
    ("*.ckpt", "a checkpoint of PyTorch Lightning or TensorFlow", "save the model with save_pretrained()"),
    ("model.*.safetensors", "a variant of the weights", f"rename it to {SAFETENSORS}"),
    ("pytorch_model.*.bin", "a variant of the weights", f"rename it to {PICKLED}"),
    ("*.onnx", "an ONNX graph", "give the checkpoint that it was exported from"),
    ("onnx", "ONNX graphs", "give the checkpoint that they were exported from"),
    ("*.safetensors", "a safetensors file of another name", f"rename it to {SAFETENSORS}"),
    ("*.bin", "a file of another name", f"rename it to {PICKLED} if it holds the weights"),
    ("*.pt", "a PyTorch file of another name", f"rename it to {PICKLED} if it holds the weights"),
    ("*.pth", "a PyTorch file of another name", f"rename it to {PICKLED} if it holds the weights"),
)


def checkpoint_root(folder: Path) -> Path:
    """Find the folder of the checkpoint in what was given.

    :param folder: a folder in Hugging Face layout, or the folder of a model in a hub's cache (``models--ORG--NAME``).
    :return: the folder that holds config.json or modules.json.
    :raises ExportError: there is none, or there are several.
    """
    snapshots = folder / "snapshots"
    if snapshots.is_dir() and not (folder / "config.json").exists():
        main = folder / "refs" / "main"
        found = sorted(path for path in snapshots.iterdir() if path.is_dir())
        if main.is_file() and (snapshots / (commit := main.read_text(encoding="utf-8").strip())).is_dir():
            return snapshots / commit
        if len(found) != 1:
            names = listing([path.name for path in found], 4) or "none"
            raise ExportError(
                f"{folder} is a model in a hub's cache with the snapshots {names}: give one of them"
            )
        return found[0]
    if any((folder / name).exists() for name in ("config.json", "modules.json", *ADAPTER)):
        return folder
    inner = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if steps := [name for name in inner if re.fullmatch(r"checkpoint-\d+", name)]:
        raise ExportError(
            f"{folder} holds the checkpoints {listing(steps, 4)} of a training: give one of them"
        )
    hint = (
        f"give {listing(inner, 4)} in it"
        if inner
        else "give the folder that holds config.json and the weights"
    )
    raise ExportError(f"{folder / 'config.json'} is missing: {hint}")


def refuse_adapter(folder: Path) -> None:
    """Refuse an adapter, also beside whole weights: Transformers would load both.

    :param folder: the folder with the weights.
    :raises ExportError: there is one; the message names its base.
    """
    if adapters := [name for name in ADAPTER if (folder / name).exists()]:
        base = _base_of_adapter(folder / ADAPTER[0])
        raise ExportError(
            f"{folder} holds a LoRA adapter ({', '.join(adapters)}), which changes the weights of its base{base}: "
            "merge the two with peft (PeftModel.from_pretrained(base, adapter).merge_and_unload()), save that with "
            "save_pretrained() and give its folder"
        )


def weight_files(folder: Path) -> list[Path]:
    """Find the files that hold the weights of an encoder.

    :param folder: the folder with its config.json.
    :return: one file, or the shards that an index names.
    :raises ExportError: there are none, or an adapter changes them, or an index is broken; the message says what
        stands there instead.
    """
    refuse_adapter(folder)
    for name in WEIGHTS:
        check_file(folder / name)
    single = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if single is None:
        raise ExportError(f"{folder} holds no weights: {_instead(folder)}")
    files = [folder / name for name in sorted(set(shard_map(single).values()))] or [single]
    for file in files:
        check_file(file)
        if not file.is_file():
            raise ExportError(f"{file} is missing, and {single.name} names it: fetch the checkpoint again")
    return files


def shard_map(index: Path) -> dict[str, str]:
    """Read the index of sharded weights.

    :param index: the first of WEIGHTS that a folder has.
    :return: key -> file name; nothing for a file that is no index.
    :raises ExportError: the index is broken, or names something other than files beside it.
    """
    if index.suffix != ".json":
        return {}
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ExportError(f"{index} has no weight_map: fetch it again")
    for name in shards.values():
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
            raise ExportError(f"{index} names the shard {name!r}, which is not a plain file name")
    return shards


def _base_of_adapter(path: Path) -> str:
    try:
        base = read_json(path).get("base_model_name_or_path")
    except ExportError:
        return ""
    return f" {base!r}" if isinstance(base, str) and base else ""


def _instead(folder: Path) -> str:
    for pattern, what, remedy in _OTHER_WEIGHTS:
        if found := sorted(path.name for path in folder.glob(pattern)):
            return f"{listing(found, 4)} is {what}: {remedy}"
    return f"expected {', '.join(WEIGHTS[:-1])} or {WEIGHTS[-1]}"
