"""Seeded checkpoints of the shapes of the family, for what does not depend on trained weights: speed, memory, size.

Their vocabulary is the bundled model's WordPiece, filled up with unused entries to the size of the shape's own: the
graph, whose speed is measured, is that of the real model; the tokenizer is measured by ``tests.bench.tokenizer``.
"""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

from runtime.bundled import bundled_model
from runtime.manifest import VOCABULARY
from tests.bench.environments import CACHE
from tests.paths import SHARED

__all__ = ["SHAPES", "seeded_checkpoint", "seeded_reranker"]

# layers, hidden size, heads, feed-forward, vocabulary; and which architecture
SHAPES = {
    "small": ("plain", 4, 512, 8, 2048, 30528),
    "base": ("plain", 12, 768, 12, 3072, 30528),
    "base-zh": ("plain", 12, 768, 12, 3072, 61056),
    "base-es": ("es", 12, 768, 12, 3072, 61056),
    "base-code": ("code", 12, 768, 12, 3072, 61056),
    "v1-s": ("t5", 6, 512, 8, 2048, 32128),
    "v1-b": ("t5", 12, 768, 12, 3072, 32128),
}


def seeded_checkpoint(shape: str, scale: float = 1.0) -> Path:
    """Make the checkpoint of a shape where there is none yet.

    :param shape: a key of SHAPES.
    :param scale: every matrix is multiplied by it.
    :return: a folder in Hugging Face layout in the cache, the same weights each time.
    """
    from tests.export.conftest import code_state, es_state, t5_fields, t5_state, tiny_fields, tiny_state

    kind, layers, hidden, heads, intermediate, size = SHAPES[shape]
    folder = CACHE / "models" / (f"seeded-{shape}" + (f"-{scale:g}" if scale != 1 else ""))
    if (folder / "model.safetensors").is_file():
        return folder
    if kind == "t5":
        names = {
            "num_layers": layers,
            "d_model": hidden,
            "num_heads": heads,
            "d_kv": 64,
            "d_ff": intermediate,
        }
        fields = t5_fields(**names, vocab_size=size)
        state = t5_state(fields)
    else:
        fields = tiny_fields(heads=heads, hidden=hidden, layers=layers) | {
            "intermediate_size": intermediate,
            "vocab_size": size,
        }
        state = {"plain": tiny_state, "es": es_state, "code": code_state}[kind](fields)
    matrices = {name for name, value in state.items() if value.ndim == 2 and "embeddings" not in name}
    state = {name: value * scale if name in matrices else value for name, value in state.items()}
    tokens = (Path(bundled_model()) / VOCABULARY).read_text(encoding="utf-8").splitlines()
    tokens += [f"[unused{number}]" for number in range(10_000, 10_000 + size - len(tokens))]
    settings = {"do_lower_case": True, "model_max_length": 512 if kind == "t5" else 8192}
    vocabulary = "".join(f"{token}\n" for token in tokens).encode()
    _write(folder, fields, settings, {VOCABULARY: vocabulary}, state)
    return folder


def seeded_reranker() -> Path:
    """Make a cross-encoder in the shape of jina-reranker-v1-tiny-en where there is none yet.

    Its tokenizer is the pipeline of the real one, self-trained (../shared): texts have more tokens than with the real
    one's, the same for everybody who is measured.

    :return: as seeded_checkpoint.
    :raises OSError: ../shared is missing.
    """
    from tests.export.conftest import rerank_state, tiny_fields

    folder = CACHE / "models" / "seeded-reranker-tiny"
    if (folder / "model.safetensors").is_file():
        return folder
    packed = SHARED / "data" / "tokenizers" / "selftrained" / "characters_tokenizer.json.xz"
    fields = tiny_fields(heads=12, hidden=384, layers=4) | {
        "intermediate_size": 1536,
        "vocab_size": 61056,
        "architectures": ["JinaBertForSequenceClassification"],
        "model_type": "bert",
        "num_labels": 1,
    }
    settings = {
        "model_max_length": 8192,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "cls_token": "<s>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    tokenizer = {"tokenizer.json": lzma.decompress(packed.read_bytes())}
    _write(folder, fields, settings, tokenizer, rerank_state(fields))
    return folder


def _write(
    folder: Path,
    fields: dict[str, Any],
    settings: dict[str, Any],
    files: dict[str, bytes],
    state: dict[str, Any],
) -> None:
    """Write a checkpoint, the weights last: a folder without them is made again."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    partial = folder / "model.safetensors.partial"
    save_file({name: value.to(torch.float16) for name, value in state.items()}, partial)
    partial.replace(folder / "model.safetensors")
