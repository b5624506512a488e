"""Fixtures for all tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # the checkout, whatever pytest was started from

from runtime import Embedder
from tests.tiny import make_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid model folder; tests that damage one make their own with make_model."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Iterator[Embedder]:
    """An Embedder of tiny_folder with one thread."""
    with Embedder(tiny_folder, threads=1) as embedder:
        yield embedder
