"""Folders and hub names; the hub itself is in test_hub.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from export import hub
from export.errors import ExportError
from export.source import provenance, resolve

NAME = "jinaai/jina-embeddings-v2-small-en"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str | None]]:
    """What the hub is asked for: nothing goes over a network."""
    names: list[tuple[str, str | None]] = []

    def fetch(name: str, revision: str | None, progress: object) -> Path:
        names.append((name, revision))
        return tmp_path / COMMIT

    monkeypatch.setattr(hub, "fetch", fetch)
    monkeypatch.chdir(tmp_path)
    return names


def refusal(source: str, revision: str | None = None) -> str:
    with pytest.raises(ExportError) as caught:
        resolve(source, revision)
    assert "\n" not in str(caught.value)
    assert source.partition("@")[0] in str(caught.value)
    return str(caught.value)


def test_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    assert resolve(str(folder)) == folder
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/small") == folder
    assert provenance(str(folder), folder) == {"name": "small", "revision": None}
    assert "small" in refusal(str(folder), "main")


def test_a_folder_named_like_the_hub(asked: list[tuple[str, str | None]], tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir(parents=True)
    assert resolve(NAME) == Path(NAME)
    assert asked == []
    assert provenance(NAME, Path(NAME)) == {"name": "jina-embeddings-v2-small-en", "revision": None}


@pytest.mark.parametrize(
    "source", ["nope", "./nope", "/no/such/folder", "a/b/c", "", "owner/na me", "a/b@", "@main"]
)
def test_neither_folder_nor_name(asked: list[tuple[str, str | None]], source: str) -> None:
    assert "neither a folder nor a hub name" in refusal(source)
    assert asked == []


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    assert "not a folder" in refusal(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("source", "revision", "wanted"),
    [(NAME, None, None), (f"{NAME}@v2", None, "v2"), (NAME, "refs/pr/3", "refs/pr/3")],
)
def test_a_hub_name(
    asked: list[tuple[str, str | None]], source: str, revision: str | None, wanted: str | None
) -> None:
    folder = resolve(source, revision)
    assert asked == [(NAME, wanted)]
    assert provenance(source, folder) == {"name": NAME, "revision": COMMIT}


def test_two_revisions(asked: list[tuple[str, str | None]]) -> None:
    assert "v2" in refusal(f"{NAME}@v2", "v3")
