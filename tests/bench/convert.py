"""A checkpoint in a peer's own format, made in that peer's environment: ``python -m tests.bench.convert KIND IN OUT``.

openvino-static    OUT.xml and OUT.bin: NNCF's quantisation of weights and activations to int8, calibrated on the texts
                   of CALIBRATION (JSON lists of token ids)
openvino-dynamic   the same files with int8 weights; OpenVINO quantises activations while it runs
gguf-q8_0, gguf-f16   OUT for llama.cpp, whose architecture "jina-bert-v2" this is
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["KINDS"]

# Of a checkpoint, without "encoder.layer.N." -> of GGUF, without "blk.N."
LAYER_NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "mlp.gated_layers": "ffn_up",  # gate and up in one matrix, as in the checkpoint
    "mlp.wo": "ffn_down",
    "mlp.layernorm": "layer_output_norm",
}
NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def openvino_static(source: Path, target: Path, calibration: Path) -> None:
    """Quantise an ONNX graph with NNCF's settings for transformers."""
    import nncf
    import openvino

    texts: list[list[int]] = json.loads(calibration.read_text(encoding="utf-8"))
    model = openvino.Core().read_model(str(source))

    def feed(ids: list[int]) -> dict[str, object]:
        return {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, len(ids)), np.int64),
        }

    dataset = nncf.Dataset(texts, feed)
    quantised = nncf.quantize(model, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(texts))
    openvino.save_model(quantised, str(target), compress_to_fp16=False)


def openvino_dynamic(source: Path, target: Path) -> None:
    """Compress the weights of an ONNX graph to int8, a scale a row."""
    import nncf
    import openvino

    model = nncf.compress_weights(
        openvino.Core().read_model(str(source)), mode=nncf.CompressWeightsMode.INT8_SYM
    )
    openvino.save_model(model, str(target), compress_to_fp16=False)


def gguf(source: Path, target: Path, precision: str) -> None:
    """Write a checkpoint in the plain architecture as GGUF.

    :param source: folder with config.json, model.safetensors and vocab.txt.
    :param target: the file.
    :param precision: "Q8_0" or "F16", of the matrices; vectors stay float32, as llama.cpp wants them.
    """
    import gguf as library
    from safetensors.numpy import load_file

    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    writer = library.GGUFWriter(str(target), "jina-bert-v2")
    writer.add_name(source.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(library.PoolingType.MEAN)
    tokens = (source / "vocab.txt").read_text(encoding="utf-8").split("\n")[: config["vocab_size"]]
    _add_wordpiece(writer, tokens, config["type_vocab_size"])
    kind = library.GGMLQuantizationType[precision]
    for name, tensor in sorted(load_file(source / "model.safetensors").items()):
        exact = tensor.astype(np.float32)
        matrix = exact.ndim == 2 and "token_type" not in name
        data = library.quants.quantize(exact, kind) if matrix else exact
        writer.add_tensor(_gguf_name(name), data, raw_dtype=kind if matrix else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_wordpiece(writer: Any, tokens: list[str], type_count: int) -> None:
    """The vocabulary as llama.cpp has it: "▁" before what begins a word, no "##" before what goes on."""
    import gguf as library

    special = set(SPECIAL)
    kinds = [library.TokenType.CONTROL if token in special else library.TokenType.NORMAL for token in tokens]
    written = [
        token if token in special else token[2:] if token.startswith("##") else "\u2581" + token
        for token in tokens
    ]
    pad, unknown, first, last, mask = map(tokens.index, SPECIAL)
    writer.add_token_type_count(type_count)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_list(written)
    writer.add_token_types(kinds)
    writer.add_pad_token_id(pad)
    writer.add_unk_token_id(unknown)
    writer.add_bos_token_id(first)
    writer.add_sep_token_id(last)
    writer.add_eos_token_id(last)
    writer.add_mask_token_id(mask)


def _gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in NAMES:
        return f"{NAMES[stem]}.{kind}"
    _, _, number, part = stem.split(".", 3)
    return f"blk.{number}.{LAYER_NAMES[part]}.{kind}"


KINDS: dict[str, Callable[..., None]] = {
    "openvino-static": openvino_static,
    "openvino-dynamic": openvino_dynamic,
    "gguf-q8_0": lambda source, target: gguf(source, target, "Q8_0"),
    "gguf-f16": lambda source, target: gguf(source, target, "F16"),
}


if __name__ == "__main__":
    KINDS[sys.argv[1]](*map(Path, sys.argv[2:]))
