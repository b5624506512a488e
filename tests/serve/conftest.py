"""A service for the tests of a module, and how to ask one that runs in this process."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import Embedder
from tests.serve.server import Server, running

NEEDED = ("msgspec", "prometheus_client", "starlette", "uvicorn", "httpx", "openai")
MAX_LENGTH = 2048  # long enough for blocks and windows
missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]


@pytest.fixture(autouse=True)
def _extra() -> None:
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: the serve extra")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The bundled model on a loopback port, for texts of up to MAX_LENGTH tokens."""
    if missing:
        pytest.skip("the serve extra is not installed")
    with running(
        tmp_path_factory.mktemp("served") / "log",
        ["--log-requests", "--max-length", str(MAX_LENGTH), "--accept-token-ids"],
    ) as server:
        yield server


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    """The same model, straight."""
    with Embedder() as found:
        yield found


class Local:
    """An application in this process, asked without a network."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        from runtime.serve.application import create
        from runtime.serve.engine import Engine
        from runtime.serve.metrics import Metrics
        from runtime.serve.settings import ServerSettings

        self.metrics = Metrics()
        self.engine = Engine(ServerSettings(model=str(folder), **({"threads": 1} | settings)), self.metrics)
        self.app = create(self.engine, self.metrics)

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """Ask the service, and return the httpx.Response."""
        return self.ask_all([(method, path, options)])[0]

    def ask_all(self, requests: list[tuple[str, str, dict[str, Any]]]) -> list[Any]:
        """Ask all at once.

        :return: responses, in the order of the requests.
        """
        import httpx

        async def run() -> list[Any]:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                asked = (client.request(method, path, **options) for method, path, options in requests)
                return await asyncio.gather(*asked)

        return asyncio.run(run())


@pytest.fixture
def local() -> Iterator[Callable[..., Local]]:
    """Makes applications, and closes them."""
    made: list[Local] = []

    def make(folder: Path, **settings: Any) -> Local:
        made.append(Local(folder, **settings))
        return made[-1]

    yield make
    for one in made:
        one.engine.close()
