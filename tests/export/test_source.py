"""Folders and hub names. The hub is played by a stand-in; nothing here needs a network."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import requests
from huggingface_hub import errors as hub

from export.errors import ExportError
from export.source import provenance, resolve

NAME = "jinaai/jina-embeddings-v2-small-en"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Records what is asked for; raises what a test puts in ``failure``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failure: Exception | None = None
        self.safe = True
        self.asked: list[dict[str, Any]] = []

    def model_info(self, name: str, revision: str | None, timeout: float) -> Any:
        if self.failure is not None:
            raise self.failure
        self.asked.append({"name": name, "revision": revision, "timeout": timeout})
        return SimpleNamespace(sha=COMMIT)

    def download(self, name: str, **options: Any) -> str:
        self.asked.append({"name": name} | options)
        if options.get("local_files_only") and not self.folder.is_dir():
            raise hub.LocalEntryNotFoundError("not cached")
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.safe and "model.safetensors" in options["allow_patterns"]:
            (self.folder / "model.safetensors").touch()
        return str(self.folder)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "cache" / "snapshots" / COMMIT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.download)
    return made


def refusal(source: str, revision: str | None = None) -> str:
    with pytest.raises(ExportError) as caught:
        resolve(source, revision)
    assert "\n" not in str(caught.value)
    assert source.partition("@")[0] in str(caught.value)
    return str(caught.value)


def response(status: int) -> requests.Response:
    made = requests.Response()
    made.status_code = status
    return made


def test_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    assert resolve(str(folder)) == folder
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/small") == folder
    assert provenance(str(folder), folder) == {"name": "small", "revision": None}
    assert "small" in refusal(str(folder), "main")


def test_a_folder_named_like_the_hub(stand_in: Hub, tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir(parents=True)
    assert resolve(NAME) == Path(NAME)
    assert stand_in.asked == []
    assert provenance(NAME, Path(NAME)) == {"name": "jina-embeddings-v2-small-en", "revision": None}


@pytest.mark.parametrize(
    "source", ["nope", "./nope", "/no/such/folder", "a/b/c", "", "owner/na me", "a/b@", "@main"]
)
def test_neither_folder_nor_name(stand_in: Hub, source: str) -> None:
    assert "neither a folder nor a hub name" in refusal(source)
    assert stand_in.asked == []


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    assert "not a folder" in refusal(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("source", "revision", "asked"),
    [(NAME, None, None), (f"{NAME}@v2", None, "v2"), (NAME, "refs/pr/3", "refs/pr/3")],
)
def test_a_hub_name(stand_in: Hub, source: str, revision: str | None, asked: str | None) -> None:
    folder = resolve(source, revision)
    assert folder == stand_in.folder
    assert provenance(source, folder) == {"name": NAME, "revision": COMMIT}
    question, download = stand_in.asked
    assert question["revision"] == asked
    assert question["timeout"] <= 10
    assert download["revision"] == COMMIT
    patterns = download["allow_patterns"]
    assert {"config.json", "vocab.txt", "model.safetensors"} <= set(patterns)
    assert not any(pattern.endswith((".bin", ".py", ".onnx")) for pattern in patterns)


def test_pickled_weights_only_where_there_are_no_others(stand_in: Hub) -> None:
    stand_in.safe = False
    resolve(NAME)
    assert "pytorch_model.bin" in stand_in.asked[-1]["allow_patterns"]


def test_two_revisions(stand_in: Hub) -> None:
    assert "v2" in refusal(f"{NAME}@v2", "v3")


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (requests.ConnectionError("no route"), "the hub cannot be reached"),
        (requests.exceptions.ProxyError("proxy"), "the hub cannot be reached"),
        (requests.exceptions.SSLError("certificate"), "the hub cannot be reached"),
        (requests.ReadTimeout("slow"), "the hub cannot be reached"),
        (hub.OfflineModeIsEnabled("offline"), "the hub cannot be reached"),
        (hub.RepositoryNotFoundError("404", response(404)), "check the name"),
        (hub.GatedRepoError("403", response(403)), "gated"),
        (hub.RevisionNotFoundError("404", response(404)), "no revision"),
        (hub.HfHubHTTPError("503 busy", response(503)), "503 busy"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_failures_are_one_line(stand_in: Hub, failure: Exception, said: str) -> None:
    stand_in.failure = failure
    message = refusal(NAME)
    assert said in message
    if "reached" in said:
        assert "pass that folder" in message  # the remedy


def test_offline_with_a_cache(stand_in: Hub) -> None:
    stand_in.folder.mkdir(parents=True)
    stand_in.failure = requests.ConnectionError("no route")
    assert resolve(NAME) == stand_in.folder


def test_no_network_fails_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # The library itself, and an address at which nobody listens.
    monkeypatch.setattr(huggingface_hub.hf_api, "ENDPOINT", "http://127.0.0.1:9", raising=False)
    make: Callable[..., Any] = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: make(endpoint="http://127.0.0.1:9"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    started = time.monotonic()
    assert "the hub cannot be reached" in refusal(NAME)
    assert time.monotonic() - started < 60  # not minutes of retries; a bound for any machine
    assert capfd.readouterr() == ("", "")
