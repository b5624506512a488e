"""Every block of runtime/serve/README.md, in its order, as a reader pastes it; its tables name every option."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.api import embeddings, routes
from runtime.serve.__main__ import parser
from tests.paths import ROOT
from tests.readme import paste_all

pytest.importorskip("starlette")
pytest.importorskip("openai")

README = (ROOT / "runtime" / "serve" / "README.md").read_text(encoding="utf-8")


def test_every_block_works_when_pasted(tmp_path: Path) -> None:
    said = paste_all(README, tmp_path)
    assert '{"status":"ok"}' in said[0]
    assert said[2].split() == ["2", "512", "7", "8"]


def test_every_option_is_described() -> None:
    options = {
        name for action in parser()._actions for name in action.option_strings if name.startswith("--")
    }
    assert not [name for name in options - {"--help", "--version"} if f"`{name}`" not in README]


def test_every_path_and_field_is_described() -> None:
    assert not [route.path for route in routes.ROUTES if f"{route.path}`" not in README]
    fields = [field.name for field in embeddings.EMBEDDING_REQUEST.fields if not field.ignored]
    main = [
        name
        for name in fields
        if not name.startswith(("return_", "output_", "embed_", "endian", "embedding_types"))
    ]
    assert not [name for name in main if f"`{name}" not in README]
