"""Vectors of an exported folder against the real sentence-transformers on the folder that it was made from.

sentence-transformers knows no JinaBert without remote code, so its Transformer module gets this package's torch model;
tokenizer, pooling, modules, prompts and truncation are its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Embedder
from tests.export.conftest import tiny_fields, write_checkpoint

if importlib.util.find_spec("sentence_transformers") is None:
    pytest.skip("sentence-transformers is not installed", allow_module_level=True)

import torch

from export.checkpoint import load_model
from export.quiet import quiet
from tests.export.test_declared import save_dense, save_sentence_transformer, write_json
from tests.unverified import make_folder

TEXTS = [
    "the weather is cold today",
    "rain, sun and a b c",
    "",
    "  The RAIN is cold.  ",
    "sun " * 40,  # longer than max_seq_length
]
PROMPTS = {"query": "the rain: ", "document": "a ", "none": ""}
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
TORCH = "torch.nn.modules"


class Encoder(torch.nn.Module):
    """This package's torch model where sentence-transformers has one of Transformers."""

    def __init__(self, folder: Path, config: Any) -> None:
        super().__init__()
        self.inner = load_model(folder)
        self.config = config

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> Any:
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    with quiet(["transformers", "sentence_transformers"]):
        yield


def reference(folder: Path) -> Any:
    """sentence-transformers' model of a folder."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    model[0].model = Encoder(folder, model[0].model.config)
    return model.eval()


def checkpoint(folder: Path, *modules: tuple[str, dict[str, Any] | None], **settings: Any) -> Path:
    write_checkpoint(folder, tiny_fields())
    save_sentence_transformer(folder, list(modules))
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", settings)
    return folder


def pooling(*modes: str, **changes: Any) -> tuple[str, dict[str, Any]]:
    names = {mode: f"pooling_mode_{mode}" + ("_tokens" if mode != "lasttoken" else "") for mode in MODES}
    names |= {"cls": "pooling_mode_cls_token", "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens"}
    return "Pooling", {
        "word_embedding_dimension": 64,
        **{names[mode]: mode in modes for mode in MODES},
        **changes,
    }


def check(folder: Path, output: Path, prompts: bool = True) -> None:
    theirs = reference(folder)
    with Embedder(make_folder(folder, output, "fp32"), threads=1) as ours:
        assert ours.dimension == theirs.get_embedding_dimension()
        assert ours.max_tokens == theirs.max_seq_length == 24
        pairs = {"": (ours.encode(TEXTS), theirs.encode(TEXTS))}
        if prompts:
            for name in (*PROMPTS, None):
                pairs[f"prompt {name}"] = (
                    ours.encode(TEXTS, prompt_name=name),
                    theirs.encode(TEXTS, prompt_name=name),
                )
            pairs["text"] = ours.encode(TEXTS, prompt="sun "), theirs.encode(TEXTS, prompt="sun ")
            pairs["query"] = ours.encode_query(TEXTS), theirs.encode_query(TEXTS)
            pairs["document"] = ours.encode_document(TEXTS), theirs.encode_document(TEXTS)
        for what, (found, expected) in pairs.items():
            scale = np.abs(expected).max(axis=1, keepdims=True)
            assert np.allclose(found / scale, expected / scale, rtol=0, atol=1e-5), what


@pytest.mark.parametrize("modes", [*[(mode,) for mode in MODES], MODES, ("mean", "max")])
def test_pooling(tmp_path: Path, modes: tuple[str, ...]) -> None:
    check(checkpoint(tmp_path / "st", pooling(*modes)), tmp_path / "model", prompts=False)


@pytest.mark.parametrize("include_prompt", [True, False])
def test_prompts(tmp_path: Path, include_prompt: bool) -> None:
    folder = checkpoint(
        tmp_path / "st",
        pooling(*MODES, include_prompt=include_prompt),
        ("Normalize", None),
        prompts=PROMPTS,
        default_prompt_name="query",
    )
    check(folder, tmp_path / "model")


def test_modules(tmp_path: Path) -> None:
    folder = tmp_path / "st"
    first = save_dense(folder / "3_Dense", 128, 48, activation_function=f"{TORCH}.activation.Tanh")
    second = save_dense(folder / "5_Dense", 48, 48, activation_function=f"{TORCH}.activation.GELU")
    third = save_dense(
        folder / "6_Dense", 48, 12, bias=False, bin_file=True, activation_function=f"{TORCH}.linear.Identity"
    )
    (folder / "4_LayerNorm").mkdir()
    norm = {"norm.weight": torch.linspace(0.5, 2, 48), "norm.bias": torch.linspace(-1, 1, 48)}
    torch.save(norm, folder / "4_LayerNorm" / "pytorch_model.bin")
    checkpoint(
        folder,
        pooling("cls", "mean"),
        ("Dropout", {"dropout": 0.5}),
        ("Dense", first),
        ("LayerNorm", {"dimension": 48}),
        ("Dense", second),
        ("Dense", third),
        ("Normalize", {}),
        prompts=PROMPTS,
    )
    check(folder, tmp_path / "model")


@pytest.mark.parametrize("more", [(), (("Normalize", None),)])
@pytest.mark.parametrize("cut", [1, 20, 64, 500])
def test_truncated_vectors(tmp_path: Path, more: tuple[tuple[str, None], ...], cut: int) -> None:
    """sentence-transformers cuts after all modules, and normalises nothing again."""
    folder = checkpoint(tmp_path / "st", pooling("mean"), *more, prompts=PROMPTS, truncate_dim=cut)
    check(folder, tmp_path / "model")


def test_saved_by_sentence_transformers_itself(tmp_path: Path) -> None:
    """The files that its save() writes today, and not those that this project's tests write."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

    source = write_checkpoint(tmp_path / "plain", tiny_fields())
    transformer = Transformer(str(source), max_seq_length=24)
    dense = Dense(64 * 2, 10, activation_function=torch.nn.SiLU())
    parts = [transformer, Pooling(64, pooling_mode=("mean", "max")), dense, Normalize()]
    model = SentenceTransformer(modules=parts, device="cpu", prompts=PROMPTS, default_prompt_name="query")
    folder = tmp_path / "st"
    model.save(str(folder), create_model_card=False)
    # BERT's weights and config.json of Transformers, in place of which JinaBert's go.
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((source / name).read_bytes())
    check(folder, tmp_path / "model")
