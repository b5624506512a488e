"""Hooks for PyInstaller, which finds them by the entry point "pyinstaller40" of the wheel."""

from __future__ import annotations

import os


def hook_folders() -> list[str]:
    """Return the folders with hooks: this one."""
    return [os.path.dirname(__file__)]
