"""What a folder declares: every module type works, or is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from export.declared import Declared, read_declared
from export.errors import ExportError
from runtime.modules import array_shapes

MODELS = "sentence_transformers.models"


NEWER = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}


Make = Callable[..., Path]


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def save_sentence_transformer(
    folder: Path, modules: list[tuple[str, dict[str, Any] | None]], *, names: dict[str, str] | None = None
) -> Path:
    """Write modules.json and a config.json for each module after the Transformer.

    :param folder: of a checkpoint.
    :param modules: type and config of each module after the Transformer; None: no config.json.
    :param names: type -> its name in modules.json; those of sentence-transformers 2 to 5 if None.
    """
    names = names or {}
    entries = [{"idx": 0, "name": "0", "path": "", "type": names.get("Transformer", f"{MODELS}.Transformer")}]
    for number, (kind, config) in enumerate(modules, start=1):
        path = f"{number}_{kind}"
        entries.append(
            {"idx": number, "name": str(number), "path": path, "type": names.get(kind, f"{MODELS}.{kind}")}
        )
        if config is not None:
            write_json(folder / path / "config.json", config)
    write_json(folder / "modules.json", entries)
    return folder


def save_dense(
    folder: Path, size: int, out: int, *, seed: int = 0, bin_file: bool = False, **config: Any
) -> dict[str, Any]:
    """Write the weights of a Dense module.

    :return: its config.
    """
    generator = torch.Generator().manual_seed(seed)
    config = {"in_features": size, "out_features": out, "bias": True} | config
    state = {"linear.weight": torch.randn(out, size, generator=generator) / size**0.5}
    if config["bias"]:
        state["linear.bias"] = torch.randn(out, generator=generator) * 0.1
    if config.get("use_residual") and size != out:
        state["residual.weight"] = torch.randn(out, size, generator=generator) / size**0.5
    folder.mkdir(parents=True, exist_ok=True)
    if bin_file:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors")
    return config


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A copy to write declarations into."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "st"))


def pooled(modes: dict[str, Any]) -> list[tuple[str, dict[str, Any] | None]]:
    return [("Pooling", {"word_embedding_dimension": 64} | modes)]


def refusal(folder: Path) -> str:
    with pytest.raises(ExportError) as caught:
        read_declared(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_without_declarations(tiny_checkpoint: Path) -> None:
    assert read_declared(tiny_checkpoint) == Declared(tiny_checkpoint, tiny_checkpoint)


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}, ("max",)),
        (
            {
                f"pooling_mode_{name}": True
                for name in (
                    "lasttoken",
                    "weightedmean_tokens",
                    "mean_sqrt_len_tokens",
                    "mean_tokens",
                    "max_tokens",
                )
            }
            | {"pooling_mode_cls_token": True},
            ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"),
        ),
        ({"pooling_mode": "weightedmean"}, ("weightedmean",)),
        ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
        ({}, ("mean",)),
    ],
)
def test_pooling_modes_in_the_order_of_sentence_transformers(
    checkpoint: Path, config: dict[str, Any], modes: tuple[str, ...]
) -> None:
    stated = read_declared(save_sentence_transformer(checkpoint, pooled(config)))
    assert stated.pooling == modes
    assert not stated.normalize
    assert stated.include_prompt


@pytest.mark.parametrize(
    "config", [{"pooling_mode_attention": True}, {"pooling_mode": "attention"}, {"pooling_mode": 3}]
)
def test_other_modes_are_refused_by_name(checkpoint: Path, config: dict[str, Any]) -> None:
    message = refusal(save_sentence_transformer(checkpoint, pooled(config)))
    assert str(next(iter(config.values()))) in message or next(iter(config)) in message
    assert "weightedmean" in message


def test_modules_of_every_kind_under_old_and_new_names(checkpoint: Path) -> None:
    first = save_dense(checkpoint / "2_Dense", 64, 32, activation_function="torch.nn.modules.activation.Tanh")
    second = save_dense(
        checkpoint / "5_Dense",
        32,
        8,
        bias=False,
        bin_file=True,
        activation_function="torch.nn.modules.linear.Identity",
    )
    (checkpoint / "4_LayerNorm").mkdir()
    save_file(
        {"norm.weight": torch.ones(32), "norm.bias": torch.zeros(32)},
        checkpoint / "4_LayerNorm" / "model.safetensors",
    )
    modules = [
        *pooled({}),
        ("Dense", first),
        ("Dropout", {"dropout": 0.1}),
        ("LayerNorm", {"dimension": 32}),
        ("Dense", second),
        ("Normalize", None),
    ]
    for names in (None, NEWER):
        stated = read_declared(save_sentence_transformer(checkpoint, modules, names=names))
        assert [(module.type, module.size, module.output_size) for module in stated.modules] == [
            ("dense", 64, 32),
            ("layer_norm", 32, 32),
            ("dense", 32, 8),
        ]
        assert [module.activation for module in stated.modules if module.type == "dense"] == [
            "tanh",
            "identity",
        ]
        assert stated.normalize
        assert all(module.arrays.keys() == array_shapes(module).keys() for module in stated.modules)


def test_a_normalize_in_the_middle_stays_a_module(checkpoint: Path) -> None:
    config = save_dense(
        checkpoint / "3_Dense", 64, 16, activation_function="torch.nn.modules.linear.Identity"
    )
    stated = read_declared(
        save_sentence_transformer(checkpoint, [*pooled({}), ("Normalize", None), ("Dense", config)])
    )
    assert [module.type for module in stated.modules] == ["normalize", "dense"]
    assert not stated.normalize


@pytest.mark.parametrize(
    "kind",
    [
        "Asym", "BoW", "CLIPModel", "CNN", "LSTM", "Router", "StaticEmbedding", "WeightedLayerPooling",
        "WordEmbeddings", "WordWeights", "SpladePooling", "MLMTransformer", "LogitScore", "TokenPooling",
        "SomethingNew",
    ],
)  # fmt: skip
def test_other_modules_are_refused_by_name(checkpoint: Path, kind: str) -> None:
    assert kind in refusal(save_sentence_transformer(checkpoint, [*pooled({}), (kind, {})]))


def test_code_of_the_checkpoints_own_is_refused(checkpoint: Path) -> None:
    save_sentence_transformer(checkpoint, [*pooled({}), ("Pooler", {})], names={"Pooler": "custom_st.Pooler"})
    assert "custom_st.Pooler" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"activation_function": "torch.nn.modules.activation.Softmax"}, "Softmax"),
        ({"activation_function": "my_code.Act"}, "my_code.Act"),
        ({"in_features": 32}, "in_features"),
        ({"out_features": 0}, "out_features"),
        ({"module_input_name": "token_embeddings"}, "token_embeddings"),
        ({"bias": "yes"}, "bias"),
    ],
)
def test_dense_that_cannot_be_computed(checkpoint: Path, changes: dict[str, Any], word: str) -> None:
    config = save_dense(checkpoint / "2_Dense", 64, 16) | changes
    assert word in refusal(save_sentence_transformer(checkpoint, [*pooled({}), ("Dense", config)]))


def test_dense_whose_weights_do_not_fit(checkpoint: Path) -> None:
    config = save_dense(checkpoint / "2_Dense", 64, 16)
    folder = save_sentence_transformer(checkpoint, [*pooled({}), ("Dense", config | {"out_features": 8})])
    assert "linear.weight" in refusal(folder)
    save_sentence_transformer(checkpoint, [*pooled({}), ("Dense", config | {"bias": False})])
    assert "linear.bias" in refusal(folder)
    (checkpoint / "2_Dense" / "model.safetensors").unlink()
    assert "no weights" in refusal(folder)


def test_prompts_and_lengths(checkpoint: Path) -> None:
    save_sentence_transformer(checkpoint, pooled({"include_prompt": False}))
    settings = {
        "__version__": {"sentence_transformers": "5.1.0"},
        "prompts": {"query": "query: ", "document": "", "clustering": None},
        "default_prompt_name": "query",
        "similarity_fn_name": "dot",
    }
    write_json(checkpoint / "config_sentence_transformers.json", settings)
    write_json(checkpoint / "sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": False})
    stated = read_declared(checkpoint)
    assert stated.prompts == {"query": "query: ", "document": "", "clustering": ""}
    assert (stated.default_prompt_name, stated.similarity, stated.max_tokens) == ("query", "dot", 128)
    assert not stated.include_prompt
    assert stated.notes == ()


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "query"),
        ("config_sentence_transformers.json", {"prompts": ["query: "]}, "prompts"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "jaccard"}, "jaccard"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "SparseEncoder"),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, "truncate_dim is 0"),
        ("config_sentence_transformers.json", {"truncate_dim": "64"}, "truncate_dim is '64'"),
        ("sentence_bert_config.json", {"max_seq_length": 2}, "max_seq_length"),
        ("sentence_bert_config.json", {"do_lower_case": 1}, "do_lower_case"),
        ("sentence_bert_config.json", {"config_args": {"num_hidden_layers": 1}}, "num_hidden_layers"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "fill-mask"),
        ("1_Pooling/config.json", {"word_embedding_dimension": 32}, "32"),
        ("1_Pooling/config.json", {"include_prompt": None}, "include_prompt"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_mean_tokens": "false"},
            "pooling_mode_mean_tokens is 'false'",
        ),
        ("modules.json", {}, "modules.json"),
        ("modules.json", [{}], "type"),
        (
            "modules.json",
            [{"type": f"{MODELS}.Transformer", "name": "0"}] * 2,
            "several modules have the name 0",
        ),
        ("modules.json", [{"type": f"{MODELS}.Transformer", "path": "../other"}], "other"),
        ("modules.json", [{"type": f"{MODELS}.Transformer", "path": ""}], "Pooling"),
    ],
)
def test_declarations_that_cannot_be_used(checkpoint: Path, file: str, content: object, word: str) -> None:
    save_sentence_transformer(checkpoint, pooled({}))
    write_json(checkpoint / file, content)
    message = refusal(checkpoint)
    assert word in message
    assert Path(file).name in message


def test_what_is_not_known_is_noted(checkpoint: Path) -> None:
    save_sentence_transformer(checkpoint, pooled({"temperature": 0.5, "nothing": None}))
    write_json(checkpoint / "config_sentence_transformers.json", {"whitening": True})
    (pooling, settings) = sorted(read_declared(checkpoint).notes)
    assert "temperature 0.5" in pooling
    assert "nothing" not in pooling
    assert "whitening true" in settings


def test_unknown_fields_of_config_and_tokenizer_are_noted_too(checkpoint: Path) -> None:
    for name, field in (("config.json", "softcap"), ("tokenizer_config.json", "never_split")):
        fields = json.loads((checkpoint / name).read_text(encoding="utf-8")) | {field: [7]}
        write_json(checkpoint / name, fields)
    assert read_declared(checkpoint).notes == (
        "config.json: not used: softcap [7]",
        "tokenizer_config.json: not used: never_split [7]",
    )


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"auto_map": {"AutoTokenizer": ["x--y.T", None]}}, "code of its own is not run"),
        ({"tokenizer_class": "T5Tokenizer"}, "'T5Tokenizer', and vocab.txt is read as BERT's"),
        ({"tokenizer_class": "RobertaTokenizer"}, "'RobertaTokenizer', and vocab.txt is read as BERT's"),
        ({"tokenizer_class": "DistilBertTokenizer"}, None),
    ],
)
def test_tokenizers_of_another_class_or_code_are_noted(
    checkpoint: Path, fields: dict[str, Any], note: str | None
) -> None:
    path = checkpoint / "tokenizer_config.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | fields)
    notes = read_declared(checkpoint).notes
    assert notes == () if note is None else note in notes[0]


def test_a_maximum_length_beyond_reason_is_none(checkpoint: Path) -> None:
    save_sentence_transformer(checkpoint, pooled({}))
    write_json(checkpoint / "sentence_bert_config.json", {"max_seq_length": 10**9})
    stated = read_declared(checkpoint)
    assert stated.max_tokens is None
    assert "1,000,000,000 is as good as none" in stated.notes[0]


@pytest.mark.parametrize("field", ["is_decoder", "quantization_config", "transformers_weights"])
def test_fields_that_change_vectors_are_refused(checkpoint: Path, field: str) -> None:
    fields = json.loads((checkpoint / "config.json").read_text(encoding="utf-8")) | {field: {"bits": 4}}
    write_json(checkpoint / "config.json", fields)
    assert field in refusal(checkpoint)


def test_an_adapter_without_config_json(tmp_path: Path) -> None:
    write_json(tmp_path / "adapter" / "adapter_config.json", {"base_model_name_or_path": "jinaai/base"})
    assert "jinaai/base" in refusal(tmp_path / "adapter")


def test_a_pooling_folder_without_modules_json_is_noted(checkpoint: Path) -> None:
    write_json(checkpoint / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    stated = read_declared(checkpoint)
    assert stated.pooling == ("mean",)
    assert "1_Pooling" in stated.notes[0]
