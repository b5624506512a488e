"""The pipeline of a checkpoint's tokenizer as tokenizer.json says it, made up where there are only older files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from export.config import read_json
from export.errors import ExportError
from export.tokenization.sentencepiece import read_model

FAST, SETTINGS, SPECIAL_MAP, ADDED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
VOCABULARY, MERGES, SENTENCEPIECE = "vocab.json", "merges.txt", "spiece.model"

# Tokenizer classes of transformers whose vocab.json and merges.txt are read as RoBERTa's, and as GPT-2's.
_ROBERTA = ("RobertaTokenizer", "RobertaTokenizerFast")
_GPT2 = ("GPT2Tokenizer", "GPT2TokenizerFast")
_T5 = ("T5Tokenizer", "T5TokenizerFast")
_MOST_DIGITS, _MOST_POWER = 2**64 - 1, 308  # of a number in JSON
_EXTRA_IDS = 100  # of T5, where tokenizer_config.json does not say
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Fields(NamedTuple):
    """A tokenizer in the form of tokenizer.json."""

    file: Path  # what it was read from, for messages
    document: dict[str, Any]
    model_type: str  # "WordPiece", "BPE", "Unigram" or another that is not implemented
    pad_token: str | None  # as tokenizer_config.json or special_tokens_map.json says


def read_fields(folder: Path) -> Fields:
    """Read a checkpoint's tokenizer.

    :param folder: Checkpoint folder.
    :return: Its pipeline; from tokenizer.json if there is one, else from vocab.json and merges.txt, else spiece.model.
    :raises ExportError: None of these is there, or one is broken.
    """
    settings = _optional(folder / SETTINGS)
    special = {**_optional(folder / SPECIAL_MAP), **settings}
    pad_token = _content(special.get("pad_token"))
    if (folder / FAST).is_file():
        file = folder / FAST
        document = read_json(file, parse_float=library_float)
        _check_prefix_space(folder, settings)
        return Fields(file, document, _model_type(file, document), pad_token)
    if all((folder / name).is_file() for name in (VOCABULARY, MERGES)):
        return Fields(folder / VOCABULARY, _byte_level(folder, settings, special), "BPE", pad_token)
    if (folder / SENTENCEPIECE).is_file():
        file = folder / SENTENCEPIECE
        return Fields(file, _t5(file, settings), "Unigram", pad_token)
    raise ExportError(
        f"{folder} has no tokenizer ({FAST}, {VOCABULARY} with {MERGES}, {SENTENCEPIECE} or vocab.txt): fetch the "
        "checkpoint again"
    )


def library_float(text: str) -> float:
    """Read a number as `tokenizers` does, not always to the nearest float: digits as an integer, times a power of 10.

    Of equal sums of scores, which T5 has in runs of one character, the last bit decides. Source: `parse_decimal` and
    `f64_from_parts` of serde_json without its feature float_roundtrip.

    :param text: A number of JSON with a point or an exponent.
    :return: The float.
    """
    digits, _, power = text.lower().removeprefix("-").partition("e")
    whole, _, fraction = digits.partition(".")
    number, exponent = 0, int(power or 0)
    for part, step in ((whole, 0), (fraction, -1)):
        for at, digit in enumerate(part):
            if number * 10 + int(digit) > _MOST_DIGITS:  # what follows is dropped
                exponent += len(part) - at if step == 0 else 0
                break
            number = number * 10 + int(digit)
            exponent += step
    value = float(number)
    while exponent < -_MOST_POWER and value:
        value /= _power_of_ten(_MOST_POWER)
        exponent += _MOST_POWER
    value = value / _power_of_ten(-exponent) if exponent < 0 else value * _power_of_ten(exponent)
    return -value if text.startswith("-") else value


def _power_of_ten(exponent: int) -> float:
    return float(f"1e{exponent}")  # 10.0**23 is another


def _optional(file: Path) -> dict[str, Any]:
    return (
        {name: value for name, value in read_json(file).items() if value is not None}
        if file.is_file()
        else {}
    )


def _content(token: Any) -> str | None:
    """Give the text of a special token, which may be an object with flags."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _model_type(file: Path, document: dict[str, Any]) -> str:
    model = document.get("model")
    if not isinstance(model, dict):
        raise ExportError(f"{file}: model is {model!r}, expected an object: fetch the file again")
    if isinstance(kind := model.get("type"), str):
        return kind
    # Files of before 2021 do not say.
    return "BPE" if "merges" in model else "Unigram" if isinstance(model.get("vocab"), list) else "WordPiece"


def _check_prefix_space(folder: Path, settings: dict[str, Any]) -> None:
    if settings.get("add_prefix_space", False) is not False:
        raise ExportError(
            f"{folder / SETTINGS}: add_prefix_space is {settings['add_prefix_space']!r}; only false is implemented"
        )


def _byte_level(folder: Path, settings: dict[str, Any], special: dict[str, Any]) -> dict[str, Any]:
    """Make the pipeline that transformers makes of vocab.json and merges.txt for RoBERTa or GPT-2."""
    _check_prefix_space(folder, settings)
    name = settings.get("tokenizer_class", _ROBERTA[0])
    if name not in (*_ROBERTA, *_GPT2):
        raise ExportError(
            f"{folder / SETTINGS}: tokenizer_class is {name!r}; of those with {VOCABULARY} and {MERGES} only "
            f"{_ROBERTA[0]} and {_GPT2[0]} are implemented"
        )
    vocabulary = read_json(folder / VOCABULARY)
    lines = _text(folder / MERGES).split("\n")
    merges = [line for line in lines if line and not line.startswith("#version")]
    roberta = name in _ROBERTA
    defaults = (
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>",
         "cls_token": "<s>", "mask_token": "<mask>"}
        if roberta
        else {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    )  # fmt: skip
    tokens = {field: _content(special.get(field)) or defaults.get(field) for field in _SPECIAL_NAMES}
    added: dict[str, dict[str, Any]] = {}
    for field, content in tokens.items():
        if content is not None:
            declared = special.get(field)
            flags = declared if isinstance(declared, dict) else {}
            added.setdefault(
                content,
                {
                    "content": content,
                    "single_word": bool(flags.get("single_word", False)),
                    "lstrip": bool(flags.get("lstrip", roberta and field == "mask_token")),
                    "rstrip": bool(flags.get("rstrip", False)),
                    "normalized": bool(flags.get("normalized", False)),
                    "special": True,
                },
            )
    extra = _optional(folder / ADDED)
    for content in sorted(extra, key=lambda content: (not isinstance(extra[content], int), extra[content])):
        added.setdefault(content, {"content": content, "normalized": True, "special": False})
    following = len(vocabulary)
    entries = []
    unset = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    for content, token in sorted(
        added.items(), key=lambda one: vocabulary.get(one[0], extra.get(one[0], 1 << 40))
    ):
        number = vocabulary.get(content, extra.get(content, following))
        following += number == following
        entries.append({"id": number, **unset, **token})
    ids = {**vocabulary, **{token["content"]: token["id"] for token in entries}}
    processor: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    if roberta:
        processor = {
            "type": "RobertaProcessing",
            "sep": [tokens["sep_token"], ids[tokens["sep_token"]]],
            "cls": [tokens["cls_token"], ids[tokens["cls_token"]]],
            "trim_offsets": True,
            "add_prefix_space": False,
        }
    return {
        "version": "1.0",
        "added_tokens": entries,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    }


def _t5(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Make the pipeline of the published T5 checkpoints ("legacy") from their sentencepiece model."""
    name = settings.get("tokenizer_class", _T5[0])
    if name not in _T5:
        raise ExportError(
            f"{file.parent / SETTINGS}: tokenizer_class is {name!r}; of those with {SENTENCEPIECE} only {_T5[0]} is "
            "implemented"
        )
    model = read_model(file)
    count = settings.get("extra_ids", _EXTRA_IDS)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 10_000:
        raise ExportError(
            f"{file.parent / SETTINGS}: extra_ids is {count!r}, expected an integer from 0 to 10,000"
        )
    vocabulary = [[piece, score] for piece, score in zip(model.pieces, model.scores, strict=True)]
    special = {number: model.pieces[number] for number in sorted({*model.controls, model.unk_id})}
    for number in reversed(range(count)):
        special[len(vocabulary)] = f"<extra_id_{number}>"
        vocabulary.append([f"<extra_id_{number}>", 0.0])
    if "</s>" not in special.values():
        raise ExportError(f"{file} has no control piece </s>: it is not T5's")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    end = model.pieces.index("</s>")
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    stop = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    return {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": content, **flags} for number, content in special.items()],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": model.charsmap}
        if model.charsmap
        else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, stop],
            "pair": [first, stop, second, stop],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [end], "tokens": ["</s>"]}},
        },
        "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "model": {"type": "Unigram", "unk_id": model.unk_id, "vocab": vocabulary, "byte_fallback": False},
    }


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ExportError(f"{file} is not UTF-8 (byte {error.start}): fetch it again") from None
    except OSError as error:
        raise ExportError(f"{file} cannot be read: {error.strerror}") from None
