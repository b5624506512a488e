"""Tiny random JinaBert checkpoints on disk, in the layout of the hub."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

# What imports torch at its head: skipped by name, and visibly, where the `export` extra is not installed.
NEED_EXTRA = {
    f"test_{name}.py"
    for name in (
        "baseline",
        "bundle",
        "cases",
        "checkpoint",
        "config",
        "declared",
        "sentence_transformers_parity",
        "distill",
        "forms",
        "graph",
        "hub",
        "layout",
        "layouts",
        "jinabert",
        "models",
        "official",
        "remake",
        "reranking",
        "source",
        "student",
        "t5",
        "quantization",
        "trace",
        "unfinished",
        "verify",
        "vocabulary",
        "windows",
    )
}


class WithoutExtra(pytest.Module):
    """A test file that says why it does not run."""

    def collect(self) -> NoReturn:
        pytest.skip(f"{self.path.name} needs the `export` extra", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Keep pytest from importing a file whose imports are not there."""
    if module_path.name not in NEED_EXTRA or importlib.util.find_spec("torch") is not None:
        return None
    return WithoutExtra.from_parent(parent, path=module_path)


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "the",
    "weather",
    "is",
    "cold",
    "today",
    "##s",
    "##ing",
    ",",
    ".",
    "a",
    "b",
    "c",
    "##d",
    "rain",
    "sun",
]


def tiny_tokens(size: int) -> list[str]:
    """A vocabulary of this many tokens."""
    return (SPECIAL + WORDS + [f"[unused{i}]" for i in range(size)])[:size]


def tiny_fields(*, heads: int = 4, hidden: int = 64, layers: int = 2, **changes: Any) -> dict[str, Any]:
    """The config.json of a tiny JinaBert."""
    return {
        "architectures": ["JinaBertForMaskedLM"],
        "model_type": "bert",
        "position_embedding_type": "alibi",
        "feed_forward_type": "geglu",
        "hidden_act": "gelu",
        "emb_pooler": "mean",
        "layer_norm_eps": 1e-12,
        "vocab_size": 64,
        "type_vocab_size": 2,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": 8192,
    } | changes


def tiny_state(fields: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Random weights under the names of published checkpoints, sized so that attention is not uniform."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    d, f = fields["hidden_size"], fields["intermediate_size"]

    def normal(*shape: int, scale: float = 1.0) -> Any:
        return torch.randn(*shape, generator=generator) * scale

    def norm(name: str) -> dict[str, Any]:
        return {f"{name}.weight": 1 + normal(d, scale=0.1), f"{name}.bias": normal(d, scale=0.1)}

    state = {
        "embeddings.word_embeddings.weight": normal(fields["vocab_size"], d),
        "embeddings.token_type_embeddings.weight": normal(fields["type_vocab_size"], d, scale=0.5),
    } | norm("embeddings.LayerNorm")
    for i in range(fields["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            state[f"{layer}.attention.{name}.weight"] = normal(d, d, scale=1.5 / d**0.5)
            state[f"{layer}.attention.{name}.bias"] = normal(d, scale=0.1)
        state |= norm(f"{layer}.attention.output.LayerNorm")
        state[f"{layer}.mlp.gated_layers.weight"] = normal(2 * f, d, scale=d**-0.5)
        state[f"{layer}.mlp.wo.weight"] = normal(d, f, scale=f**-0.5)
        state[f"{layer}.mlp.wo.bias"] = normal(d, scale=0.1)
        state |= norm(f"{layer}.mlp.layernorm")
    return state


def es_state(fields: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """The same with norms on queries and keys, under the names of base-es."""
    import torch

    generator = torch.Generator().manual_seed(seed + 1)
    state = tiny_state(fields, seed)
    for i in range(fields["num_hidden_layers"]):
        for name in ("q", "k"):
            part = f"encoder.layer.{i}.attention.self.layer_norm_{name}"
            state[f"{part}.weight"] = 1 + 0.3 * torch.randn(fields["hidden_size"], generator=generator)
            state[f"{part}.bias"] = 0.3 * torch.randn(fields["hidden_size"], generator=generator)
    return state


def code_state(fields: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """The same under the names of base-code, with its second norm after attention."""
    names = {
        "mlp.gated_layers": "mlp.up_gated_layer",
        "mlp.wo": "mlp.down_layer",
        "mlp.layernorm": "layer_norm_2",
    }
    state = es_state(fields, seed)
    for key in list(state):
        layer, _, part = key.rpartition(".attention.output.LayerNorm.")
        if layer:
            state[f"{layer}.layer_norm_1.{part}"] = state[key].flip(0).clone()
    for old, new in names.items():
        state = {key.replace(old, new): value for key, value in state.items()}
    return state


def rerank_state(fields: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """A cross-encoder: the plain encoder under ``bert.``, its pooler, and a classifier of one score."""
    import torch

    generator = torch.Generator().manual_seed(seed + 2)
    d = fields["hidden_size"]
    state = {f"bert.{key}": value for key, value in tiny_state(fields, seed).items()}
    return state | {
        "bert.pooler.dense.weight": torch.randn(d, d, generator=generator) * d**-0.5,
        "bert.pooler.dense.bias": torch.randn(d, generator=generator) * 0.1,
        "classifier.weight": torch.randn(1, d, generator=generator) * 0.5,
        "classifier.bias": torch.randn(1, generator=generator),
    }


def t5_fields(**changes: Any) -> dict[str, Any]:
    """The config.json of a tiny T5 encoder, whose heads together are wider than its hidden states."""
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "feed_forward_proj": "relu",
        "is_gated_act": False,
        "layer_norm_epsilon": 1e-6,
        "vocab_size": 64,
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 128,
        "num_heads": 6,
        "num_layers": 2,
        "n_positions": 512,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
    } | changes


def t5_state(fields: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Random weights under T5's names: attention is not uniform, positions matter, and the residual grows."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    d, f, inner = fields["d_model"], fields["d_ff"], fields["d_kv"] * fields["num_heads"]

    def normal(*shape: int, scale: float = 1.0) -> Any:
        return torch.randn(*shape, generator=generator) * scale

    state = {"shared.weight": normal(fields["vocab_size"], d, scale=3.0)}
    state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = normal(
        fields["relative_attention_num_buckets"], fields["num_heads"], scale=2.0
    )
    for i in range(fields["num_layers"]):
        block = f"encoder.block.{i}.layer"
        for name in ("q", "k", "v"):
            state[f"{block}.0.SelfAttention.{name}.weight"] = normal(inner, d, scale=0.6 * d**-0.5)
        state[f"{block}.0.SelfAttention.o.weight"] = normal(d, inner, scale=2 * inner**-0.5)
        state[f"{block}.1.DenseReluDense.wi.weight"] = normal(f, d, scale=d**-0.5)
        state[f"{block}.1.DenseReluDense.wo.weight"] = normal(d, f, scale=3 * f**-0.5)
        state |= {f"{block}.{j}.layer_norm.weight": 1 + normal(d, scale=0.2) for j in (0, 1)}
    return state | {"encoder.final_layer_norm.weight": 1 + normal(d, scale=0.2)}


def write_checkpoint(folder: Path, fields: dict[str, Any], state: dict[str, Any] | None = None) -> Path:
    """Write config.json, vocab.txt, tokenizer_config.json and model.safetensors.

    :param folder: where; made if it is not there.
    :param fields: of config.json.
    :param state: the weights; random ones if None.
    :return: the folder.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(tiny_tokens(fields["vocab_size"])) + "\n", encoding="utf-8")
    settings = {"do_lower_case": True, "model_max_length": 8192, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file(tiny_state(fields) if state is None else state, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 layers, 64 wide, 4 heads. Shared: do not change it."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny"), tiny_fields())


@pytest.fixture(scope="session")
def six_heads_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 layers, 48 wide, 6 heads: not a power of two. Shared: do not change it."""
    return write_checkpoint(tmp_path_factory.mktemp("six"), tiny_fields(heads=6, hidden=48))


@pytest.fixture(scope="session")
def es_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The six heads with norms on queries and keys, as base-es has them. Shared: do not change it."""
    fields = tiny_fields(heads=6, hidden=48)
    return write_checkpoint(tmp_path_factory.mktemp("es"), fields, es_state(fields))


@pytest.fixture(scope="session")
def code_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny shape in the form of base-code. Shared: do not change it."""
    fields = tiny_fields()
    return write_checkpoint(tmp_path_factory.mktemp("code"), fields, code_state(fields))


@pytest.fixture(scope="session")
def t5_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny T5 encoder. Shared: do not change it."""
    fields = t5_fields()
    return write_checkpoint(tmp_path_factory.mktemp("t5"), fields, t5_state(fields))


@pytest.fixture
def checkpoint_with(tmp_path: Path) -> Callable[..., Path]:
    """Make a checkpoint of one's own: ``checkpoint_with(hidden_act="relu")`` changes fields of config.json."""
    return lambda **changes: write_checkpoint(tmp_path / "checkpoint", tiny_fields() | changes)


@pytest.fixture
def copy_with(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Make a checkpoint of the tiny shape with weights of one's own."""
    return lambda state: write_checkpoint(tmp_path / "checkpoint", tiny_fields(), state)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a student is trained from: see distilling.make_place."""
    from tests.export.distilling import make_place

    return make_place(tmp_path_factory.mktemp("distill"))
