"""Hub names with the real huggingface_hub, against a hub on this machine (hub_server.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from export.hub import needed
from tests.export.conftest import WORDS, tiny_fields, write_checkpoint
from tests.export.hub_server import COMMIT, OTHER_COMMIT, Hub, serve

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = "jinaai/jina-embeddings-v2-small-en"
# What the real repository holds besides.
REST = (
    "README.md", ".gitattributes", "modeling_bert.py", "configuration_bert.py", "pytorch_model.bin", "model.onnx",
    "onnx/model.onnx", "onnx/model_quantized.onnx", "coreml/float32_model.mlpackage/Data/model.mlmodel",
    "openvino/openvino_model.xml", "tf_model.h5", "flax_model.msgpack", "model.fp16.safetensors", "model-q8.gguf",
)  # fmt: skip
RESOLVE = """
import sys
from export.errors import ExportError
from export.source import provenance, resolve
try:
    folder = resolve(sys.argv[1], progress=lambda line: sys.stderr.write(line + "\\n"))
except ExportError as error:
    sys.exit(f"refused: {error}")
print(folder)
print(provenance(sys.argv[1], folder)["revision"])
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = write_checkpoint(tmp_path / "repository", tiny_fields())
    for name in REST:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not to be fetched")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    made = Hub({NAME: folder})
    with serve(made):
        yield made


def ask(hub: Hub | None, cache: Path, source: str = NAME, **environment: str) -> tuple[int, list[str], str]:
    """Resolve a name in a process of its own; exit status, lines of stdout, last line of stderr."""
    variables = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.port if hub else 9}",
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_ETAG_TIMEOUT": "2",
        **environment,
    }
    command = [sys.executable, "-c", RESOLVE, source]
    result = subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=120
    )
    assert "Traceback" not in result.stderr, result.stderr
    printed = result.stderr.replace("\r", "\n").splitlines()
    lines = [
        line
        for line in printed
        if line.strip() and "it/s]" not in line and "B/s]" not in line and "?" not in line
    ]
    return result.returncode, result.stdout.splitlines(), lines[-1] if lines else ""


def refusal(hub: Hub | None, cache: Path, source: str = NAME, **environment: str) -> str:
    status, printed, last = ask(hub, cache, source, **environment)
    assert (status, printed) == (1, [])
    assert last.startswith("refused: ")
    assert source.partition("@")[0] in last
    return last


def test_only_what_is_needed_is_fetched_and_then_found_offline(hub: Hub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    status, (folder, revision), said = ask(hub, cache)
    assert status == 0
    assert revision == COMMIT
    wanted = {
        "config.json",
        "tokenizer_config.json",
        "vocab.txt",
        "model.safetensors",
        "1_Pooling/config.json",
    }
    assert hub.fetched == wanted
    assert said == f"fetching 5 of the 19 files of {NAME}, commit {COMMIT}"
    source = hub.folders[NAME]
    for name in wanted:
        assert (Path(folder) / name).is_symlink()  # into the blobs of the cache
        assert (Path(folder) / name).read_bytes() == (source / name).read_bytes()

    before = len(hub.asked)
    status, (again, _), said = ask(hub, cache, HF_HUB_OFFLINE="1")
    assert (status, again, len(hub.asked)) == (0, folder, before)
    assert said == f"HF_HUB_OFFLINE is set: taking {NAME} from the cache, commit {COMMIT}"
    status, (again, _), said = ask(None, cache)
    assert (status, again) == (0, folder)
    assert said == f"the hub cannot be reached: taking {NAME} from the cache, commit {COMMIT}"
    assert not [path for method, path in hub.asked[:before] if path.endswith((".onnx", ".py", ".h5"))]


def test_a_revision(hub: Hub, tmp_path: Path) -> None:
    status, (folder, revision), _ = ask(hub, tmp_path / "cache", f"{NAME}@v2")
    assert (status, revision, Path(folder).name) == (0, OTHER_COMMIT, OTHER_COMMIT)
    assert "no revision 'v9'" in refusal(hub, tmp_path / "cache", f"{NAME}@v9")


def test_pickled_weights_where_there_are_no_others(hub: Hub, tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.fp16.safetensors"):
        (hub.folders[NAME] / name).unlink()
    assert ask(hub, tmp_path / "cache")[0] == 0
    assert "pytorch_model.bin" in hub.fetched


def test_a_dropped_connection_is_taken_up_again(hub: Hub, tmp_path: Path) -> None:
    hub.drops["model.safetensors"] = 2
    status, (folder, _), _ = ask(hub, tmp_path / "cache")
    assert status == 0
    whole = (hub.folders[NAME] / "model.safetensors").read_bytes()
    assert (Path(folder) / "model.safetensors").read_bytes() == whole


def test_a_connection_that_keeps_breaking_is_one_line_and_goes_on_later(hub: Hub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    hub.drops["model.safetensors"] = 1000
    assert "run the same again" in refusal(hub, cache)
    assert "without its weights" in refusal(hub, cache, HF_HUB_OFFLINE="1")
    hub.drops.clear()
    assert ask(hub, cache)[0] == 0


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("gated", "is gated: accept its terms"),
        ("disabled", "was disabled"),
        ("token", "refuses your token (401)"),
        ("busy", "the hub answers 503"),
    ],
)
def test_trouble_is_one_line(hub: Hub, tmp_path: Path, trouble: str, said: str) -> None:
    hub.trouble[NAME] = trouble
    assert said in refusal(hub, tmp_path / "cache")


def test_what_is_not_there_is_one_line(hub: Hub, tmp_path: Path) -> None:
    assert "check the name" in refusal(hub, tmp_path / "cache", "jinaai/jina-embeddings-v2-smal-en")
    assert "the hub cannot be reached" in refusal(None, tmp_path / "empty")
    assert "nor in the cache" in refusal(hub, tmp_path / "empty", HF_HUB_OFFLINE="1")
    for path in sorted(hub.folders[NAME].glob("*model*")):
        if path.suffix in (".safetensors", ".bin"):
            path.unlink()
    assert "holds no weights that can be read" in refusal(hub, tmp_path / "cache")


def test_needed_files_of_every_layout() -> None:
    def without(*names: str) -> list[str]:
        return [name for name in names if name not in needed(list(names))]

    assert without("config.json", "vocab.txt", "model.safetensors", "pytorch_model.bin") == [
        "pytorch_model.bin"
    ]
    sharded = [
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert without(*sharded, "pytorch_model.bin") == ["pytorch_model.bin"]
    pickled = ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"]
    assert without(*pickled, "training_args.bin", "optimizer.pt") == ["training_args.bin", "optimizer.pt"]
    modules = [
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    ]
    dense = ["2_Dense/config.json", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"]
    assert without(*modules, *dense) == ["2_Dense/pytorch_model.bin"]
    old = ["0_Transformer/config.json", "0_Transformer/pytorch_model.bin", "0_Transformer/vocab.txt"]
    assert without(*old, "onnx/model.onnx", "runs/model.safetensors") == [
        "onnx/model.onnx",
        "runs/model.safetensors",
    ]
    assert needed(["../config.json", "a/b/config.json", "README.md"]) == []


def test_a_hub_name_is_exported(hub: Hub, tmp_path: Path) -> None:
    repository = write_checkpoint(tmp_path / "tiny", tiny_fields())
    (repository / "tokenizer_config.json").write_text('{"model_max_length": 200}')
    hub.folders["someone/tiny"] = repository
    chance = np.random.default_rng(0)
    words = [word for word in WORDS if not word.startswith("##")]
    texts = tmp_path / "texts.txt"
    texts.write_text(
        "\n".join(" ".join(chance.choice(words, length)) for length in chance.integers(1, 20, 1000))
    )
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.port}",
        "HF_HOME": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-m", "export", "someone/tiny@v2", "--output", str(tmp_path / "model")]
    result = subprocess.run(
        [*command, "--texts", str(texts)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "fetching 4 of the 4 files of someone/tiny" in result.stderr
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert manifest["name"] == "tiny"
    assert {**manifest["source"], "sha256": None} == {
        "name": "someone/tiny", "revision": OTHER_COMMIT, "sha256": None,
    }  # fmt: skip
