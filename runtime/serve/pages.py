"""The HTML pages, and what a browser may do for them."""

from __future__ import annotations

import base64
import hashlib


def read_page(path: str) -> str:
    """Read a page's HTML."""
    with open(path, encoding="utf-8") as file:
        return file.read()


def page_headers(page: str) -> dict[str, str]:
    """What a browser may do for a page: run its own script and style, and call this service.

    :param page: HTML with one script and one style element.
    """

    def source(tag: str) -> str:
        inside = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"

    policy = {
        "default-src": "'none'",
        "script-src": source("script"),
        "style-src": source("style"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
