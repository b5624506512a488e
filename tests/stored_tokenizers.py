"""The tiny tokenizers of tests/tokenizer_kinds.py as tests/data holds them: tests of the runtime need no export."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.tokenization.loading import load_tokenizer
from runtime.tokenization.tables import TABLES, read_tables, write_tables
from runtime.tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    from export.tokenization import ConvertedTokenizer

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "tokenizer_kinds_golden.json").read_text(encoding="ascii")
)
KINDS = tuple(GOLDEN)


def store(converted: ConvertedTokenizer, folder: Path) -> dict[str, Any]:
    """Give a tokenizer the form that tests/data has.

    :param converted: The tokenizer.
    :param folder: For its file.
    :return: What `write_stored` takes.
    """
    (folder / TABLES).write_bytes(converted.files[TABLES])
    tables = {
        name: table if isinstance(table, str) else [table.typecode, table.tolist()]
        for name, table in read_tables(str(folder)).items()
    }
    return {"description": converted.description, "tables": tables}


def write_stored(folder: Path, kind: str) -> dict[str, Any]:
    """Write the file of a stored tokenizer.

    :param folder: Created if it is not there.
    :param kind: One of KINDS.
    :return: Its description in a manifest.
    """
    stored = GOLDEN[kind]["tokenizer"]
    tables = {
        name: table if isinstance(table, str) else array(*table) for name, table in stored["tables"].items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TABLES).write_bytes(write_tables(tables))
    description: dict[str, Any] = stored["description"]
    return description


def load_stored(folder: Path, kind: str) -> Tokenizer:
    """Load a stored tokenizer.

    :param folder: For its file.
    :param kind: One of KINDS.
    :return: The tokenizer.
    """
    return load_tokenizer(str(folder), write_stored(folder, kind))
