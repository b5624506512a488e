"""A checkpoint's tokenizer in the form that a model folder stores.

    converted = convert_tokenizer(checkpoint_folder)
    manifest["tokenizer"] = converted.description
    for name, content in converted.files.items():
        (model_folder / name).write_bytes(content)

`runtime.tokenization.loading.load_tokenizer(model_folder, converted.description)` then gives the tokenizer, and
`reference_tokenizer(checkpoint_folder)` the one of `tokenizers` that it must agree with.

    fields.py         the pipeline as tokenizer.json says it, made up where there are only older files
    sentencepiece.py  reads spiece.model
    steps.py          normaliser, pre-tokenizer, post-processor: which ones are implemented
    learned.py        merges and pieces as tables
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from export.errors import ExportError
from export.tokenization import learned, steps
from export.tokenization.fields import FAST, read_fields
from runtime.tokenization.added_tokens import AddedToken, write_added_tokens
from runtime.tokenization.tables import TABLES, write_tables

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["ConvertedTokenizer", "convert_tokenizer", "model_kind", "reference_tokenizer"]


class ConvertedTokenizer(NamedTuple):
    """What a model folder holds of a tokenizer."""

    description: dict[str, Any]  # field "tokenizer" of manifest.json
    files: dict[str, bytes]  # name -> content
    size: int  # ids; the embedding table has at least as many rows


def model_kind(folder: Path) -> str:
    """Tell which model a checkpoint's tokenizer has.

    :param folder: Checkpoint folder.
    :return: "WordPiece" (for export/vocabulary.py), "BPE" or "Unigram" (for `convert_tokenizer`).
    :raises ExportError: There is no tokenizer, or one of another kind.
    """
    if not (folder / "tokenizer.json").is_file() and (folder / "vocab.txt").is_file():
        return "WordPiece"
    return read_fields(folder).model_type


def convert_tokenizer(folder: Path) -> ConvertedTokenizer:
    """Convert a BPE or Unigram tokenizer: of tokenizer.json, vocab.json with merges.txt, or spiece.model.

    `truncation` and `padding` in tokenizer.json are left from training and not taken over.

    :param folder: Checkpoint folder.
    :return: What to store.
    :raises ExportError: A file is missing or broken, or a step of the pipeline is not implemented; it is named.
    """
    fields = read_fields(folder)
    if fields.model_type not in ("BPE", "Unigram"):
        raise ExportError(f"{fields.file}: the tokenizer is {fields.model_type}; expected BPE or Unigram")
    vocabulary = learned.vocabulary(fields)
    added = _added_tokens(fields.file, fields.document.get("added_tokens") or [], vocabulary)
    ids = {**vocabulary, **{token.content: token.id for token in added}}
    kind, options = steps.kind(fields)
    template = steps.template(fields, ids)
    unk_id, tables = learned.tables(fields, kind, vocabulary)
    size = 1 + max(ids.values())
    description: dict[str, Any] = {
        "type": kind,
        **options,
        "size": size,
        "pad_id": _pad_id(fields.pad_token, ids, template),
        "unk_id": unk_id,
        **template,
        "decoder": steps.decoder(fields),
        "added_tokens": write_added_tokens(added),
    }
    return ConvertedTokenizer(description, {TABLES: write_tables(tables)}, size)


def reference_tokenizer(folder: Path) -> Tokenizer:
    """Give the checkpoint's own tokenizer, run by the library `tokenizers`, for comparison.

    :param folder: Checkpoint folder with tokenizer.json, vocab.json and merges.txt, or spiece.model.
    :return: The tokenizer, without truncation or padding.
    :raises ExportError: A file is missing or broken.
    """
    from tokenizers import Tokenizer, models

    fields = read_fields(folder)
    if (
        fields.file.name == FAST
    ):  # read from the file itself: numbers that pass through Python may become others
        tokenizer = Tokenizer.from_str(fields.file.read_text(encoding="utf-8-sig"))
    else:
        tokenizer = Tokenizer.from_str(json.dumps(fields.document))
        if fields.model_type == "Unigram":  # with the scores of spiece.model, as transformers makes it
            model = fields.document["model"]
            scores = [(piece, score) for piece, score in model["vocab"]]
            tokenizer.model = models.Unigram(scores, model["unk_id"], model["byte_fallback"])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = False
    return tokenizer


def _added_tokens(file: Path, entries: Any, vocabulary: dict[str, int]) -> list[AddedToken]:
    tokens: list[AddedToken] = []
    contents: set[str] = set()
    following = len(vocabulary)  # the id that the library gives to a token outside the vocabulary
    for number, entry in enumerate(entries):
        where = f"{file}: added_tokens[{number}]"
        if not isinstance(entry, dict) or not set(entry) <= set(AddedToken._fields):
            raise ExportError(f"{where} is {entry!r}; only {', '.join(AddedToken._fields)} are implemented")
        content, flags = entry.get("content"), [entry.get(name, False) for name in AddedToken._fields[2:]]
        if not isinstance(content, str) or not content or not all(isinstance(flag, bool) for flag in flags):
            raise ExportError(f"{where} is {entry!r}: fetch the file again")
        if content in contents:
            raise ExportError(f"{where}: {content!r} is listed twice: fetch the file again")
        expected = vocabulary.get(content, following)
        if entry.get("id") != expected:
            raise ExportError(
                f"{where}: {content!r} has id {entry.get('id')!r}, and `tokenizers` gives it {expected}: save the "
                "tokenizer again"
            )
        following += expected == following
        contents.add(content)
        tokens.append(AddedToken(expected, content, *flags))
    return tokens


def _pad_id(declared: str | None, ids: dict[str, int], template: steps.Template) -> int:
    """Find the id to pad with. A mask hides it, so where a tokenizer has none any id will do."""
    for token in (declared, "<pad>", "[PAD]"):
        if token is not None and token in ids:
            return ids[token]
    return template["suffix"][0] if template["suffix"] else 0
