"""The checkpoint's own tokenizer, run by the library `tokenizers`: what the runtime's ids are compared with."""

from __future__ import annotations

import codecs
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.config import read_json
from export.errors import ExportError
from export.tokenization import reference_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["FAST", "SLOW", "config_counts", "own_tokenizer"]

FAST, SLOW = "tokenizer.json", "vocab.txt"
# What Transformers needs to build a tokenizer from vocab.txt.
_BESIDE_SLOW = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# Names in tokenizer_config.json -> names in the normalizer of tokenizer.json.
_NORMALIZER = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
_AS_IT_IS = ("PreTrainedTokenizerFast", "TokenizersBackend")


def own_tokenizer(folder: Path, choice: str | None = None) -> Tokenizer:
    """Load the tokenizer of a checkpoint as Transformers gives it to sentence-transformers.

    :param folder: the checkpoint folder.
    :param choice: ``tokenizer.json`` or ``vocab.txt``; None for the first of them that is there.
    :return: the tokenizer, without truncation and padding. tokenizer.json is read as it is, but for BERT's settings in
        tokenizer_config.json, which Transformers puts over it; else it is built from vocab.txt and what stands beside.
    :raises ExportError: the library cannot read the files.
    """
    import tokenizers

    try:
        if choice != SLOW and (folder / FAST).is_file():
            document = read_json(folder / FAST)
            changed = choice is None and _put_over(document, folder / "tokenizer_config.json")
            # Numbers that pass through Python may become others: only what is changed does.
            text = json.dumps(document) if changed else (folder / FAST).read_text(encoding="utf-8-sig")
            made = tokenizers.Tokenizer.from_str(text)
        elif not (folder / SLOW).is_file():
            made = reference_tokenizer(folder)
        else:
            made = _from_slow(folder)
    except (ExportError, OSError):
        raise
    except Exception as error:  # the library raises its own bare Exception
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"{folder}: `tokenizers` cannot read its tokenizer ({reason}): save it again"
        ) from None
    made.no_truncation()
    made.no_padding()
    made.encode_special_tokens = False
    return made


def config_counts(settings: dict[str, Any]) -> bool:
    """Whether Transformers puts settings of tokenizer_config.json over those of tokenizer.json: BERT's class does.

    :param settings: content of tokenizer_config.json.
    """
    return settings.get("tokenizer_class") not in _AS_IT_IS


def _put_over(document: dict[str, Any], path: Path) -> bool:
    """Put BERT's settings into tokenizer.json's content; False where there are none."""
    normalizer = document.get("normalizer")
    if not path.is_file() or not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return False
    settings = read_json(path)
    found = {field: settings[name] for name, field in _NORMALIZER.items() if settings.get(name) is not None}
    if not config_counts(settings) or not found:
        return False
    normalizer.update(found)
    return True


def _from_slow(folder: Path) -> Tokenizer:
    from transformers import BertTokenizerFast

    with tempfile.TemporaryDirectory(prefix="jinabert-tokenizer-") as name:
        # A folder without tokenizer.json, which Transformers would prefer.
        copy = Path(name)
        for file in (SLOW, *_BESIDE_SLOW):
            if (folder / file).is_file():
                shutil.copyfile(folder / file, copy / file)
        # Editors of Windows put a byte order mark before the text; the library takes it for a part of the first token.
        content = (copy / SLOW).read_bytes()
        (copy / SLOW).write_bytes(content.removeprefix(codecs.BOM_UTF8))
        settings = copy / "tokenizer_config.json"
        fields = read_json(settings) if settings.is_file() else {}
        # auto_map would name code of the repository, and a byte order mark is no JSON to the library.
        fields = {key: value for key, value in fields.items() if key not in ("auto_map", "tokenizer_class")}
        settings.write_text(json.dumps(fields), encoding="utf-8")
        for other in ("special_tokens_map.json", "added_tokens.json", "config.json"):
            if (copy / other).is_file():
                (copy / other).write_text(json.dumps(read_json(copy / other)), encoding="utf-8")
        return BertTokenizerFast.from_pretrained(str(copy), local_files_only=True).backend_tokenizer
