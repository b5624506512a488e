"""Where the tests find things."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = (
    ROOT.parent / "shared"
)  # data that is not part of the repository; what needs it skips by name elsewhere
MODELS = ROOT / "models"
