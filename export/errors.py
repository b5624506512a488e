"""The one error of the export: a single line that names the value, the reason and the remedy."""


class ExportError(Exception):
    """The export cannot go on; ``python -m export`` prints the message as one line and exits 2."""
