"""Seeded checkpoints of the shapes of the family, for what does not depend on trained weights: speed, memory, size.

Their vocabulary is the bundled model's WordPiece, filled up with unused entries to the size of the shape's own: the
graph, whose speed is measured, is that of the real model; the tokenizer is measured by ``tests.bench.tokenizer``.
"""

from __future__ import annotations

import json
from pathlib import Path

from runtime.bundled import bundled_model
from runtime.manifest import VOCABULARY
from tests.bench.environments import CACHE

__all__ = ["SHAPES", "seeded_checkpoint"]

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


def seeded_checkpoint(shape: str) -> Path:
    """Make the checkpoint of a shape where there is none yet.

    :param shape: a key of SHAPES.
    :return: a folder in Hugging Face layout in the cache, the same weights each time.
    """
    import torch
    from safetensors.torch import save_file

    from tests.export.conftest import code_state, es_state, t5_fields, t5_state, tiny_fields, tiny_state

    kind, layers, hidden, heads, intermediate, size = SHAPES[shape]
    folder = CACHE / "models" / f"seeded-{shape}"
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
    folder.mkdir(parents=True, exist_ok=True)
    tokens = (Path(bundled_model()) / VOCABULARY).read_text(encoding="utf-8").splitlines()
    tokens += [f"[unused{number}]" for number in range(10_000, 10_000 + size - len(tokens))]
    settings = {"do_lower_case": True, "model_max_length": 512 if kind == "t5" else 8192}
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    (folder / VOCABULARY).write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    partial = folder / "model.safetensors.partial"
    save_file({name: value.to(torch.float16) for name, value in state.items()}, partial)
    partial.replace(folder / "model.safetensors")
    return folder
