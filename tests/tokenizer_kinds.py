"""Tokenizers of every kind for tests: tiny ones made here, and those of ../shared where it is.

Each is a checkpoint folder with the tokenizer's files, so that the export's converter is tested with them.
"""

from __future__ import annotations

import json
import lzma
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from export.tokenization import convert_tokenizer, reference_tokenizer
from runtime.tokenization.decoding import byte_signs
from runtime.tokenization.loading import load_tokenizer
from runtime.tokenization.tokenizer import Tokenizer
from tests.charsmap import charsmap
from tests.hostile_texts import SPECIAL
from tests.paths import SHARED

if TYPE_CHECKING:
    from tests.wordpiece import Judge

ASSETS = SHARED / "data" / "tokenizers"
TINY = ("byte-level-bpe", "character-bpe", "unigram")
# Name here -> files in ASSETS and what they are called in a checkpoint.
SHARED_KINDS = {
    "self-trained byte-level": {"selftrained/bytelevel_tokenizer.json.xz": "tokenizer.json"},
    "self-trained characters": {"selftrained/characters_tokenizer.json.xz": "tokenizer.json"},
    "GPT-2": {"gpt2/vocab.json": "vocab.json", "gpt2/merges.txt": "merges.txt"},
    "T5": {"t5/tokenizer.json.xz": "tokenizer.json"},
    "T5 from spiece.model": {"t5/spiece.model": "spiece.model"},
}

_WORDS = [
    "the", "then", "there", "hello", "world", "is", "in", "ing", "it's", "1234", "12", "déjà", "über", "naïve",
    "日本語", "日本", "привет", "한국", "i\u0307", "ab", "abc",
]  # fmt: skip

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


class Pair(NamedTuple):
    """A tokenizer of the runtime and the same of `tokenizers`."""

    ours: Tokenizer
    judge: Judge


def write_checkpoint(folder: Path, name: str) -> Path:
    """Write the tokenizer files of a checkpoint.

    :param folder: Created if it is not there.
    :param name: One of TINY or of SHARED_KINDS.
    :return: The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if name in TINY:
        (folder / "tokenizer.json").write_text(json.dumps(tiny_tokenizer(name)), encoding="utf-8")
    else:
        for source, target in SHARED_KINDS[name].items():
            path = ASSETS / source
            data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
            (folder / target).write_bytes(data)
        if name == "GPT-2":
            (folder / "tokenizer_config.json").write_text(
                '{"tokenizer_class": "GPT2Tokenizer"}', encoding="utf-8"
            )
    return folder


def write_model_files(folder: Path, name: str) -> dict[str, Any]:
    """Write the tokenizer of a model folder.

    :param folder: The model folder.
    :param name: As for `write_checkpoint`.
    :return: The fields of its manifest that the tokenizer decides.
    """
    with tempfile.TemporaryDirectory() as checkpoint:
        converted = convert_tokenizer(write_checkpoint(Path(checkpoint), name))
    for file, content in converted.files.items():
        (folder / file).write_bytes(content)
    return {"tokenizer": converted.description, "vocabulary": converted.size}


def load(folder: Path, name: str) -> Tokenizer:
    """Convert a tokenizer as the export does, and load it as the runtime does.

    :param folder: Gets a checkpoint and a model folder.
    :param name: As for `write_checkpoint`.
    :return: The tokenizer.
    """
    checkpoint, model = write_checkpoint(folder / "checkpoint", name), folder / "model"
    model.mkdir(exist_ok=True)
    converted = convert_tokenizer(checkpoint)
    for file, content in converted.files.items():
        (model / file).write_bytes(content)
    return load_tokenizer(str(model), json.loads(json.dumps(converted.description)))


def load_pair(folder: Path, name: str) -> Pair:
    """:return: The tokenizer of `load` and that of `tokenizers`."""
    return Pair(load(folder, name), reference_tokenizer(folder / "checkpoint"))


def tiny_tokenizer(name: str) -> dict[str, Any]:
    """Make a tokenizer.json of some hundred tokens with the pipeline of base-code, base-zh or T5.

    :param name: One of TINY.
    :return: Its content; `truncation` and `padding` are there to be ignored.
    """
    document: dict[str, Any] = {
        "version": "1.0",
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": None,
    }
    if name == "unigram":
        return document | _tiny_unigram()
    byte_level = name == "byte-level-bpe"
    signs = byte_signs()
    words = [
        "".join(signs[byte] for byte in f" {word}".encode()) if byte_level else word.lower()
        for word in _WORDS
    ]
    alphabet = (
        sorted(signs) if byte_level else sorted({*"".join(words), *map(chr, range(0x20)), *"abcxyz.,!<>²"})
    )
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    merges: list[list[str]] = []
    for word in [
        *words,
        *(word[1:] for word in words if byte_level),
        "aaa",
        signs[0x20] * 8 if byte_level else "zz",
    ]:
        left = word[0]
        for right in word[1:]:
            if left + right not in vocabulary:
                vocabulary[left + right] = len(vocabulary)
                merges.append([left, right])
            left += right
    added = [
        {"id": number, "content": token, "single_word": False, "lstrip": token == "<mask>", "rstrip": False,
         "normalized": False, "special": True}
        for number, token in enumerate(SPECIAL)
    ]  # fmt: skip
    extra = {"id": len(vocabulary), "content": "<new word>", "rstrip": True, "single_word": True}
    other = {"id": len(vocabulary) + 1, "content": "NEW"}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    return document | {
        "added_tokens": [*added, flags | extra, flags | other],
        "decoder": {**_BYTE_LEVEL} if byte_level else None,  # base-zh's is not known
        "normalizer": None if byte_level else {"type": "Lowercase"},
        "pre_tokenizer": ({**_BYTE_LEVEL} if byte_level else {"type": "Whitespace"}),
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": ["</s>", 2],
            "cls": ["<s>", 0],
            "trim_offsets": True,
            "add_prefix_space": False,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None if byte_level else "<unk>",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges if byte_level else [" ".join(pair) for pair in merges],
        },
    }


def _tiny_unigram() -> dict[str, Any]:
    import base64

    draw = random.Random(18).random
    pieces = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["\u2581", -2.0]]
    known = {piece for piece, _ in pieces}
    for word in _WORDS:
        for start in range(len(word)):
            for stop in range(start + 1, len(word) + 1):
                piece = ("\u2581" if start == 0 else "") + word[start:stop]
                if piece not in known:
                    known.add(piece)
                    pieces.append([piece, -1 - 10 * draw()])
    pieces.append(["<extra_id_0>", 0.0])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    ids = [0, 1, 2, len(pieces) - 1]
    return {
        "added_tokens": [{"id": number, "content": pieces[number][0], **flags} for number in ids],
        "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "normalizer": {
            "type": "Precompiled",
            "precompiled_charsmap": base64.b64encode(charsmap("\u2122", "TM")).decode(),
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
            ],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": False},
    }
