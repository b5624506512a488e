"""Reads the files of a checkpoint's folder and remembers which ones, and what is to be said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.backbone_settings import unknown_fields
from export.config import check_file, read_json
from export.errors import ExportError

__all__ = ["Reader", "read_any_json"]


class Reader:
    """Collects files and notes while it reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes: list[str] = []
        self.files: list[Path] = []

    def json(self, path: Path) -> dict[str, Any]:
        """Read a JSON object."""
        fields = read_json(path)
        self.files.append(path)
        return fields

    def name(self, path: Path) -> str:
        """The name of a file within the folder."""
        return path.relative_to(self.root).as_posix()

    def note_unknown(self, path: Path, fields: dict[str, Any], known: set[str], where: str = "") -> None:
        """Note the fields that are not known."""
        if unknown := unknown_fields(fields, known):
            self.notes.append(f"{self.name(path)}: {where}not used: {unknown}")


def read_any_json(path: Path) -> Any:
    """JSON of any kind; read_json is for objects."""
    check_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is not valid JSON ({error}): fetch it again") from None
