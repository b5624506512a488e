"""Fixtures for all tests."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # the checkout, whatever pytest was started from

from runtime import Embedder
from tests.tiny import make_model

# A shell that starts a job in the background has it ignore Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid model folder; tests that damage one make their own with make_model."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Iterator[Embedder]:
    """An Embedder of tiny_folder with one thread."""
    with Embedder(tiny_folder, threads=1) as embedder:
        yield embedder
