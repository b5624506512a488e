"""Settings beside an encoder's weights: sentence_bert_config.json, and what else config.json and the tokenizer's hold.

Architectures and tokenizers read their own fields. Here is the rest: what would change vectors and is not implemented
is refused, what is known to change none is passed over, and what is not known is noted for the report.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.config import CONFIG, read_json
from export.errors import ExportError, listing

__all__ = ["read_backbone_settings", "unknown_fields"]

# Names that sentence-transformers tries, in its order.
TRANSFORMER_SETTINGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
MOST_TOKENS = 1 << 20  # far beyond any model
# Fields that hold arguments for loading, and those of their entries that change no vector beyond rounding.
_ARGUMENTS = (
    "model_args",
    "model_kwargs",
    "tokenizer_args",
    "processor_kwargs",
    "config_args",
    "config_kwargs",
)
_HARMLESS_ARGUMENTS = {
    "attn_implementation", "cache_dir", "device_map", "dtype", "force_download", "local_files_only",
    "low_cpu_mem_usage", "padding_side", "revision", "token", "torch_dtype", "trust_remote_code", "unpad_inputs",
    "use_auth_token", "use_fast", "use_memory_efficient_attention", "use_safetensors",
}  # fmt: skip
# Field -> the values of it that work.
_TRANSFORMER_FIELDS: dict[str, tuple[object, ...]] = {
    "transformer_task": (None, "feature-extraction"),
    "module_output_name": (None, "token_embeddings"),
    "processing_kwargs": (None, {}),
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
    "tokenizer_name_or_path": (None,),
}
_CONFIG_FIELDS: dict[str, tuple[object, ...]] = {
    "is_decoder": (None, False),
    "add_cross_attention": (None, False),
    "quantization_config": (None, {}),
    "pruned_heads": (None, {}, []),
    "transformers_weights": (None, "model.safetensors"),  # another file than the one that is read here
}
# Fields of config.json that other parts of the export read, or that only matter in training or to other programs.
_KNOWN_CONFIG = {
    "alibi_starting_size", "attention_dropout", "attn_implementation", "auto_map", "dense_act_fn", "dropout",
    "emb_pooler", "feed_forward_type", "gradient_checkpointing", "model_max_length", "n_positions", "num_labels",
    "torch_dtype", "use_flash_attn", "with_flash_attn", "_attn_implementation_autoset", "unpad_inputs",
    "use_memory_efficient_attention", "use_qk_norm", "classifier_bias", "unk_token_id", "mask_token_id",
}  # fmt: skip
_KNOWN_TOKENIZER = {
    "add_prefix_space", "added_tokens_decoder", "additional_special_tokens", "auto_map", "backend", "bos_token",
    "chat_template", "clean_up_tokenization_spaces", "cls_token", "do_basic_tokenize", "do_lower_case", "eos_token",
    "errors", "extra_ids", "extra_special_tokens", "from_slow", "is_local", "legacy", "mask_token", "max_length",
    "model_input_names", "model_max_length", "name_or_path", "pad_to_multiple_of", "pad_token", "pad_token_type_id",
    "padding_side", "processor_class", "sep_token", "sp_model_kwargs", "special_tokens_map_file", "stride",
    "strip_accents", "tokenize_chinese_chars", "tokenizer_class", "tokenizer_file", "trim_offsets", "truncation",
    "truncation_side", "truncation_strategy", "unk_token", "use_fast",
}  # fmt: skip


def read_backbone_settings(backbone: Path) -> tuple[dict[str, Any], list[Path], list[str]]:
    """Read what stands beside an encoder's weights.

    :param backbone: the folder with config.json.
    :return: ``max_tokens`` (None where sentence-transformers' file says nothing) and ``lower_case``; the files of
        sentence-transformers that were read; notes for the report.
    :raises ExportError: a field has a value that is not implemented.
    """
    from transformers import BertConfig, PretrainedConfig, T5Config

    notes: list[str] = []
    config = backbone / CONFIG
    if config.exists():
        fields = read_json(config)
        _check(config, fields, _CONFIG_FIELDS)
        standard = {name for kind in (PretrainedConfig, BertConfig, T5Config) for name in kind().to_dict()}
        _note(notes, CONFIG, fields, standard | _KNOWN_CONFIG)
    tokenizer = backbone / "tokenizer_config.json"
    if tokenizer.exists():
        fields = read_json(tokenizer)
        _note(notes, tokenizer.name, fields, _KNOWN_TOKENIZER)
        _note_tokenizer_class(notes, backbone, fields)
    path = next((backbone / name for name in TRANSFORMER_SETTINGS if (backbone / name).exists()), None)
    if path is None:
        return {}, [], notes
    return _read_transformer(path, notes), [path], notes


def _note_tokenizer_class(notes: list[str], backbone: Path, fields: dict[str, Any]) -> None:
    """Say where another class or code is named than the files are read as."""
    if code := fields.get("auto_map"):
        notes.append(f"tokenizer_config.json: code of its own is not run: auto_map {json.dumps(code)[:80]}")
    kind = fields.get("tokenizer_class")
    alone = (backbone / "vocab.txt").exists() and not (backbone / "tokenizer.json").exists()
    if alone and kind is not None and "bert" not in str(kind).lower().replace("roberta", ""):
        notes.append(f"tokenizer_config.json: tokenizer_class is {kind!r}, and vocab.txt is read as BERT's")


def _read_transformer(path: Path, notes: list[str]) -> dict[str, Any]:
    fields = read_json(path)
    limit = fields.get("max_seq_length")
    for name in _ARGUMENTS:
        arguments = fields.get(name) or {}
        if not isinstance(arguments, dict):
            raise ExportError(f"{path}: {name} is {arguments!r}, expected an object")
        if limit is None:
            limit = arguments.get("model_max_length")
        if others := sorted(arguments.keys() - _HARMLESS_ARGUMENTS - {"model_max_length"}):
            raise ExportError(
                f"{path}: {name} sets {listing(others)}, which may change vectors and is not implemented: save the "
                "model with these settings in its config.json"
            )
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 3):
        raise ExportError(f"{path}: max_seq_length is {limit!r}, expected a number of tokens of at least 3")
    if limit is not None and limit > MOST_TOKENS:
        notes.append(
            f"{path.name}: max_seq_length {limit:,} is as good as none: the tokenizer's limit is taken"
        )
        limit = None
    lower_case = fields.get("do_lower_case", False)
    if not isinstance(lower_case, bool):
        raise ExportError(f"{path}: do_lower_case is {lower_case!r}, expected true or false")
    _check(path, fields, _TRANSFORMER_FIELDS)
    modalities = fields.get("modality_config")
    if modalities is not None and set(modalities) != {"text"}:
        raise ExportError(f"{path}: modality_config has {listing(sorted(modalities))}; only text works")
    known = {
        "max_seq_length",
        "do_lower_case",
        "unpad_inputs",
        "modality_config",
        *_ARGUMENTS,
        *_TRANSFORMER_FIELDS,
    }
    _note(notes, path.name, fields, known)
    return {"max_tokens": limit, "lower_case": lower_case}


def _check(path: Path, fields: dict[str, Any], works: dict[str, tuple[object, ...]]) -> None:
    for name, values in works.items():
        if fields.get(name) not in values:
            shown = json.dumps(fields[name], ensure_ascii=False)[:60]
            raise ExportError(f"{path}: {name} is {shown}, which changes vectors and is not implemented")


def _note(notes: list[str], name: str, fields: dict[str, Any], known: set[str]) -> None:
    if unknown := unknown_fields(fields, known):
        notes.append(f"{name}: not used: {unknown}")


def unknown_fields(fields: dict[str, Any], known: set[str]) -> str:
    """List the fields that are not known; those without a value say nothing.

    :param fields: content of a file.
    :param known: names that are read, or known to change no vector.
    :return: names and values for a note, "" for none.
    """
    unknown = sorted(name for name in fields.keys() - known if fields[name] not in (None, False, [], {}))
    return listing([f"{name} {json.dumps(fields[name], ensure_ascii=False)[:60]}" for name in unknown])
