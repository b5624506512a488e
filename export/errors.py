"""The one error of the export: a single line that names the value, the reason and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.errors import JinaBertError

__all__ = ["ExportError", "listing"]


class ExportError(JinaBertError):
    """The export cannot go on; ``python -m export`` prints the message as one line and exits 2."""

    def __init__(self, message: str) -> None:
        # File names and messages of libraries may hold line breaks.
        super().__init__(" ".join(message.split()))


def listing(names: Sequence[str], limit: int = 12) -> str:
    """Join names for a one-line message.

    :param names: what to list.
    :param limit: this many are spelled out, the rest are counted.
    :return: for example ``a, b, c and 4 more``.
    """
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
