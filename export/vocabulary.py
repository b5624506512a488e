"""Reads the tokenizer of a checkpoint: BERT's WordPiece here, BPE and Unigram by ``export.tokenization``."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from export.config import DEFAULT_MAX_TOKENS, check_file, read_json
from export.errors import ExportError, listing
from export.models import EncoderConfig, load_config
from export.own_tokenizer import FAST, SLOW, config_counts, own_tokenizer
from export.tokenization import convert_tokenizer, model_kind
from runtime.manifest import VOCABULARY

__all__ = [
    "CHOICES",
    "SPECIAL_TOKENS",
    "LearnedTokenizer",
    "Vocabulary",
    "load_tokenizer_files",
    "load_vocabulary",
]


# Field of tokenizer_config.json -> the token that the runtime's tokenizer knows by name.
SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# One published tokenizer_config.json carries 2147483648, and transformers writes 1e30 for "unknown".
_UNSET_ABOVE = 1_000_000


# Those of SPECIAL_TOKENS as `tokenizers` adds them, and as the runtime knows them without being told.
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_FLAGS = tuple(_PLAIN)
CHOICES = (FAST, SLOW)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A WordPiece vocabulary and how text is prepared for it."""

    tokens: tuple[str, ...]  # the position is the id
    lower_case: bool  # lower-case and strip accents first
    max_tokens: int  # the longest text, [CLS] and [SEP] included
    added: tuple[
        dict[str, Any], ...
    ] = ()  # tokens found before the text is split: id, content and five flags each
    pieces: int = 0  # tokens[:pieces] are those of the WordPiece model

    def lines(self) -> str:
        """The content of a model folder's vocab.txt: tokens that are only added stand in the manifest alone."""
        return "".join(f"{token}\n" for token in self.tokens[: self.pieces or None])

    def files(self) -> dict[str, bytes]:
        """What a model folder holds of it: name -> content."""
        return {VOCABULARY: self.lines().encode()}

    def describe(self) -> dict[str, Any]:
        """The field "tokenizer" of manifest.json."""
        described = {"type": "wordpiece", "lower_case": self.lower_case}
        plain = [
            {"id": number, "content": token, **_PLAIN}
            for number, token in enumerate(self.tokens)
            if token in SPECIAL_TOKENS.values()
        ]
        if self.added and sorted(self.added, key=lambda token: int(token["id"])) != plain:
            described["added_tokens"] = [
                {name: value for name, value in token.items() if value is not False} for token in self.added
            ]
        return described


@dataclasses.dataclass(frozen=True)
class LearnedTokenizer:
    """A BPE or Unigram tokenizer."""

    description: dict[str, Any]
    contents: dict[str, bytes]
    max_tokens: int  # the longest text, special tokens included
    lower_case: bool

    def files(self) -> dict[str, bytes]:
        """What a model folder holds of it: name -> content."""
        return self.contents

    def describe(self) -> dict[str, Any]:
        """The field "tokenizer" of manifest.json."""
        return self.description


def load_tokenizer_files(
    folder: Path, config: EncoderConfig, *, choice: str | None = None, notes: list[str] | None = None
) -> Vocabulary | LearnedTokenizer:
    """Read the tokenizer of a checkpoint, whatever its kind.

    :param folder: the checkpoint folder.
    :param config: its configuration.
    :param choice: as in :func:`load_vocabulary`.
    :param notes: as in :func:`load_vocabulary`.
    :return: the tokenizer as a model folder stores it.
    :raises ExportError: as :func:`load_vocabulary`, or a step of its pipeline is not implemented, or it has more tokens
        than the embedding table has rows.
    """
    for path in (folder / FAST, folder / SLOW):
        check_file(path)
    if choice == SLOW or model_kind(folder) == "WordPiece":
        return load_vocabulary(folder, config, choice=choice, notes=notes)
    converted = convert_tokenizer(folder)
    if converted.size > config.vocab_size:
        raise ExportError(
            f"{folder}: its tokenizer has {converted.size:,} tokens and its config.json a vocab_size of "
            f"{config.vocab_size:,}: fetch the checkpoint again"
        )
    if converted.description["decoder"] is None and notes is not None:
        notes.append(
            "the tokenizer's decoder is not implemented: ids give no text (/decode); vectors are not affected"
        )
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    if settings.get("truncation_side", "right") != "right":
        raise ExportError(
            f"{path}: truncation_side is {settings['truncation_side']!r}; only 'right' is implemented"
        )
    return LearnedTokenizer(
        converted.description,
        converted.files,
        _max_tokens(folder, settings, config),
        converted.description.get("lower_case") is True,
    )


def load_vocabulary(
    folder: Path,
    config: EncoderConfig | None = None,
    *,
    choice: str | None = None,
    notes: list[str] | None = None,
) -> Vocabulary:
    """Read ``tokenizer.json`` or ``vocab.txt``, which must agree where both are there, and what stands beside them.

    :param folder: the checkpoint folder.
    :param config: its configuration, where it is read already.
    :param choice: of CHOICES: the one to read where the two disagree; None: then refuse.
    :param notes: gets a line for each thing that was decided.
    :return: the vocabulary.
    :raises ExportError: the tokenizer is not BERT's WordPiece, its size is not that of the embedding table, a special
        token is missing, files disagree, or one is missing or broken.
    """
    if config is None:
        config = load_config(folder)
    fast, slow = folder / FAST, folder / SLOW
    for path in (fast, slow):
        check_file(path)
    if choice is not None and not (folder / choice).is_file():
        raise ExportError(f"{folder} has no {choice} to choose: leave out --tokenizer")
    notes = [] if notes is None else notes
    if fast.is_file() and choice != SLOW:
        # Even beside a vocab.txt: it says which kind of tokenizer the vocabulary belongs to.
        read = _read_fast(fast)
        if slow.is_file() and choice is None:
            _compare(fast, read, slow)
        _check_added(folder, fast, read)
        file = fast
    elif slow.is_file():
        read, file = _read_slow(folder, slow), slow
    else:
        raise ExportError(f"{folder} has neither vocab.txt nor tokenizer.json: fetch the checkpoint again")
    if choice is not None:
        notes.append(f"the tokenizer is that of {choice}, as asked")
    tokens = _by_id(file, read)
    _check_tokens(file, tokens, config.vocab_size)
    stated = _read_settings(folder / "tokenizer_config.json")
    own_first = choice == FAST or not config_counts(stated)
    settings = {**stated, **read.settings} if own_first else {**read.settings, **stated}
    for name in sorted(read.settings.keys() & stated.keys()):
        if read.settings[name] != stated[name]:
            winner = FAST if own_first else "tokenizer_config.json"
            notes.append(
                f"{name} is {read.settings[name]} in {FAST} and {stated[name]} in tokenizer_config.json: "
                f"{winner} counts"
            )
    lower_case = settings.get("do_lower_case", True)
    if not isinstance(lower_case, bool):
        raise ExportError(f"{folder}: do_lower_case is {lower_case!r}, expected true or false")
    if settings.get("strip_accents") not in (None, lower_case):
        raise ExportError(
            f"{folder}: strip_accents is {settings['strip_accents']!r} where lower-casing is {lower_case}; only the "
            "two together are implemented"
        )
    for name, expected in (
        ("tokenize_chinese_chars", True),
        ("truncation_side", "right"),
        ("do_basic_tokenize", True),
    ):
        if settings.get(name, expected) != expected:
            raise ExportError(
                f"{folder}: {name} is {str(settings[name]).lower()}; only {str(expected).lower()} is implemented"
            )
    return Vocabulary(
        tuple(tokens),
        lower_case,
        _max_tokens(folder, {**read.settings, **stated}, config),
        read.added,
        len(read.ids),
    )


class _Read(NamedTuple):
    """A tokenizer as one file has it."""

    ids: dict[str, int]  # of the WordPiece model
    added: tuple[dict[str, Any], ...]
    settings: dict[str, Any]  # under the names of tokenizer_config.json


def _compare(fast: Path, read: _Read, slow: Path) -> None:
    """Refuse two files with different tokens."""
    listed = _read_lines(slow)
    ids = {**{token["content"]: token["id"] for token in read.added}, **read.ids}
    by_id = {number: token for token, number in ids.items()}
    only_added = {token["id"] for token in read.added} - set(read.ids.values())
    for number in range(max(len(listed), max(by_id, default=-1) + 1)):
        one = by_id.get(number)
        other = listed[number] if number < len(listed) else None
        if one != other and not (other is None and number in only_added):
            shown = ["no token" if token is None else repr(token) for token in (one, other)]
            raise ExportError(
                f"{fast} and {slow.name} are different tokenizers: id {number} is {shown[0]} in the first and "
                f"{shown[1]} in the second: pass --tokenizer {FAST} or --tokenizer {SLOW}, whichever the weights know"
            )


def _check_added(folder: Path, fast: Path, read: _Read) -> None:
    """Refuse added tokens of other files that tokenizer.json does not have."""
    ids = {**{token["content"]: token["id"] for token in read.added}, **read.ids}
    flags = {token["content"]: token for token in read.added}
    for name, entries in _stated_added(folder):
        for content, entry in entries.items():
            if ids.get(content) != entry["id"]:
                raise ExportError(
                    f"{folder / name} gives the added token {content!r} the id {entry['id']}, and {fast.name} "
                    f"{f'the id {ids[content]}' if content in ids else 'does not have it'}: save the tokenizer again"
                )
            for flag in _FLAGS:
                if content in flags and flag in entry and entry[flag] != flags[content][flag]:
                    raise ExportError(
                        f"{folder / name} says {flag} {str(entry[flag]).lower()} of the added token {content!r}, and "
                        f"{fast.name} {str(flags[content][flag]).lower()}: save the tokenizer again"
                    )


def _stated_added(folder: Path) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Added tokens by content, of added_tokens.json and of tokenizer_config.json."""
    legacy, config = folder / "added_tokens.json", folder / "tokenizer_config.json"
    try:
        if legacy.is_file():
            yield legacy.name, {token: {"id": int(number)} for token, number in read_json(legacy).items()}
        if config.is_file():
            entries = read_json(config).get("added_tokens_decoder") or {}
            yield (
                config.name,
                {token["content"]: {**token, "id": int(number)} for number, token in entries.items()},
            )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ExportError(f"{folder}: the added tokens are broken: save the tokenizer again") from None


def _read_slow(folder: Path, slow: Path) -> _Read:
    """Read vocab.txt; what is added, and with which flags, is for Transformers to say."""
    listed = _read_lines(slow)
    ids = dict(zip(listed, range(len(listed)), strict=True))
    if len(ids) != len(listed):
        repeated = [repr(token) for token, count in Counter(listed).items() if count > 1]
        raise ExportError(f"{slow} lists tokens twice: {listing(repeated)}")
    if not any(entries for _, entries in _stated_added(folder)):
        return _Read(ids, (), {})
    document = json.loads(own_tokenizer(folder, SLOW).to_str())
    return _Read(ids, _added(slow, document.get("added_tokens") or []), {})


def _added(file: Path, entries: Any) -> tuple[dict[str, Any], ...]:
    try:
        return tuple(
            {
                "id": int(entry["id"]),
                "content": str(entry["content"]),
                **{
                    flag: bool(entry.get(flag, _PLAIN[flag] and entry["content"] in SPECIAL_TOKENS.values()))
                    for flag in _FLAGS
                },
            }
            for entry in entries
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ExportError(f"{file}: the added tokens are broken: fetch it again") from None


def _read_lines(file: Path) -> list[str]:
    try:
        # Split at \n alone: a token may be U+0085 or U+2028, which str.splitlines() takes for an end of line.
        lines = file.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ExportError(f"{file} is not UTF-8 (byte {error.start}): fetch it again") from None
    except OSError as error:
        raise ExportError(f"{file} cannot be read: {error.strerror}") from None
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _read_fast(file: Path) -> _Read:
    """Read tokenizer.json."""
    fields = read_json(file)
    model = _part(file, fields, "model")
    kind = model.get("type")
    if kind != "WordPiece":
        raise ExportError(
            f"{file}: the tokenizer is {kind!r}; only 'WordPiece' (small-en, base-en) is implemented"
        )
    for name, expected in (
        ("continuing_subword_prefix", "##"),
        ("max_input_chars_per_word", 100),
        ("unk_token", "[UNK]"),
    ):
        if model.get(name, expected) != expected:
            raise ExportError(f"{file}: model.{name} is {model[name]!r}; only {expected!r} is implemented")
    normalizer = _part(file, fields, "normalizer")
    if normalizer.get("type") != "BertNormalizer" or normalizer.get("clean_text", True) is not True:
        raise ExportError(
            f"{file}: the normalizer is {normalizer}; only BertNormalizer with clean_text is implemented"
        )
    splitter = _part(file, fields, "pre_tokenizer").get("type")
    if splitter != "BertPreTokenizer":
        raise ExportError(
            f"{file}: the pre_tokenizer is {splitter!r}; only 'BertPreTokenizer' is implemented"
        )
    settings = {
        "do_lower_case": normalizer.get("lowercase", True),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
    }
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not all(type(number) is int for number in vocabulary.values()):
        raise ExportError(f"{file}: the vocabulary is broken: fetch it again")
    return _Read(vocabulary, _added(file, fields.get("added_tokens") or []), settings)


def _part(file: Path, fields: dict[str, Any], name: str) -> dict[str, Any]:
    part = fields.get(name)
    if not isinstance(part, dict):
        raise ExportError(
            f"{file}: {name} is {part!r}, expected an object: only BERT's WordPiece is implemented"
        )
    return part


def _by_id(file: Path, read: _Read) -> list[str]:
    """All tokens in the order of their ids: first those of the model, then those that are only added."""
    ids: dict[int, str] = {}
    for token, number in [*read.ids.items(), *((token["content"], token["id"]) for token in read.added)]:
        if ids.setdefault(number, token) != token:
            raise ExportError(f"{file}: id {number} is given to {ids[number]!r} and {token!r}")
    if gaps := [str(number) for number in range(len(ids)) if number not in ids]:
        raise ExportError(f"{file}: no token has id {listing(gaps)}")
    if mixed := [repr(token) for token, number in read.ids.items() if number >= len(read.ids)]:
        raise ExportError(
            f"{file}: {listing(mixed, 4)} has an id among those of added tokens, which is not implemented"
        )
    return [ids[number] for number in range(len(ids))]


def _read_settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    settings = read_json(file)
    for field, expected in SPECIAL_TOKENS.items():
        value = settings.get(field, expected)
        if isinstance(value, dict):  # a token with its flags
            value = value.get("content")
        if value not in (None, expected):
            raise ExportError(f"{file}: {field} is {value!r}; only {expected!r} is implemented")
    return {name: value for name, value in settings.items() if value is not None}


def _check_tokens(file: Path, tokens: list[str], size: int) -> None:
    if absent := [token for token in SPECIAL_TOKENS.values() if token not in tokens]:
        raise ExportError(f"{file} lacks {listing(absent)}: it is not a BERT vocabulary")
    if len(tokens) != size:
        raise ExportError(
            f"{file} has {len(tokens)} tokens, added ones included, and config.json a vocab_size of {size}: fetch both "
            "from one place, or fit the table to the tokens (Transformers' resize_token_embeddings()) and save it again"
        )
    if blank := [str(number) for number, token in enumerate(tokens) if not token or "\n" in token]:
        raise ExportError(f"{file}: the token with id {listing(blank)} is empty or holds a line break")
    if len(set(tokens)) != len(tokens):
        repeated = [repr(token) for token, count in Counter(tokens).items() if count > 1]
        raise ExportError(f"{file} lists tokens twice: {listing(repeated)}")


def _max_tokens(folder: Path, settings: dict[str, Any], config: EncoderConfig) -> int:
    limit = settings.get("model_max_length")
    if limit is None:
        return config.max_position_embeddings
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 3:
        raise ExportError(
            f"{folder}: model_max_length is {limit!r}, expected a number of tokens of at least 3"
        )
    return int(limit) if limit <= _UNSET_ABOVE else min(DEFAULT_MAX_TOKENS, config.max_position_embeddings)
