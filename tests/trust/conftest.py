"""The model that is shipped, for the tests of trust."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import Embedder
from tests.paths import MODELS


@pytest.fixture(scope="session")
def embedded() -> Path:
    """Folder of the bundled model."""
    found = [manifest.parent for manifest in MODELS.glob("*/manifest.json")]
    if not found:
        pytest.skip("no bundled model in models/")
    return found[0]


@pytest.fixture(scope="session")
def embedder(embedded: Path) -> Iterator[Embedder]:
    """The bundled model on two threads."""
    with Embedder(embedded, threads=2) as embedder:
        yield embedder
