"""``python -m tests.serve.screenshot``: page.png, the service's page as README.md shows it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.serve.browser import browser
from tests.serve.server import running

TARGET = Path(__file__).with_name("page.png")
WIDTH, HEIGHT = 760, 720
SCALE = 0.72  # fewer bytes in the repository


def main() -> int:
    """Run the command line; return its exit status."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        with running(folder / "log") as server, browser(folder / "profile") as page:
            page.theme("light")
            page.open(server.url + "/")
            page.value("document.querySelector('form').requestSubmit()")
            page.wait("document.querySelector('table') !== null")
            TARGET.write_bytes(page.picture(WIDTH, HEIGHT, SCALE))
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
