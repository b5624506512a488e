"""What the export is given may be damaged or hostile: one line and no folder, and no code of the checkpoint runs."""

from __future__ import annotations

import functools
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the `export` extra")

import numpy as np
import torch

from export.checkpoint import load_model, load_vocabulary
from export.errors import ExportError
from runtime.manifest import check_files, load_manifest
from tests.export.conftest import tiny_fields, tiny_state, write_checkpoint
from tests.paths import ROOT
from tests.trust.processes import TIMEOUT, environment


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("good") / "checkpoint", tiny_fields(hidden=32, layers=1))


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(good, tmp_path / "checkpoint"))


def load(folder: Path) -> bool:
    """Return whether the checkpoint was taken; what is not is refused in one line."""
    message = ""
    try:
        model = load_model(folder)
        load_vocabulary(folder, model.config)
    except ExportError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 2000
    return not message


class Runs:
    """Unpickled, it calls."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Builds:
    """Unpickled, it sets the state of an object."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return eval, (self.code,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", ["mkdir", "eval", "exec", "subprocess", "partial", "nested"])
def test_pickles_that_run_code(folder: Path, tmp_path: Path, kind: str, legacy: bool) -> None:
    trace = tmp_path / "was here"
    script = f"import os; os.mkdir({str(trace)!r})"
    payload: Any = {
        "mkdir": lambda: Runs(os.mkdir, str(trace)),
        "eval": lambda: Builds(f"__import__('os').mkdir({str(trace)!r})"),
        "exec": lambda: Runs(exec, script),
        "subprocess": lambda: Runs(subprocess.check_call, [sys.executable, "-c", script]),
        "partial": lambda: Runs(functools.partial(os.mkdir, str(trace))),
        "nested": lambda: [[(Runs(os.mkdir, str(trace)),)]],
    }[kind]()
    (folder / "model.safetensors").unlink()
    state = tiny_state(tiny_fields(hidden=32, layers=1)) | {"pooler.dense.bias": payload}
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    assert not load(folder)
    assert not trace.exists()


def test_a_pickle_hidden_in_an_archive(folder: Path, tmp_path: Path) -> None:
    """A zip whose data.pkl is replaced, and names that lead out of the folder."""
    trace = tmp_path / "was here"
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    torch.save(tiny_state(tiny_fields(hidden=32, layers=1)), path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(
                name, pickle.dumps(Runs(os.mkdir, str(trace))) if name.endswith("data.pkl") else data
            )
        archive.writestr("../../escaped", b"x")
    assert not load(folder)
    assert not trace.exists()
    assert not list(tmp_path.glob("**/escaped"))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_weights(folder: Path, name: str) -> None:
    """Bits flipped and ends cut: refused, or still tensors of the right shape that are finite."""
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
        torch.save(tiny_state(tiny_fields(hidden=32, layers=1)), folder / name)
    path = folder / name
    data = path.read_bytes()
    chance = random.Random(name)
    header = 2000 if name == "model.safetensors" else len(data)
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(chance.choice([1, 1, 8])):
            damaged[chance.randrange(header)] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        load(folder)
    for size in (0, 1, 8, 9, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        assert not load(folder)
    for start in (b"\xff" * 8, (1 << 62).to_bytes(8, "little"), (8).to_bytes(8, "little")):
        path.write_bytes(start + data[8:])
        assert not load(folder)


VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 2**31, 10**30, 1.5, 1e400, "", "x", [], {}, [[]], "\ud800", {"a": []},
)  # fmt: skip


def test_any_field_of_the_config_may_hold_anything(folder: Path) -> None:
    fields = tiny_fields(hidden=32, layers=1)
    taken = []
    for field in [*fields, "_name_or_path", "auto_map", "torch_dtype", "quantization_config"]:
        for value in VALUES:
            (folder / "config.json").write_text(json.dumps(fields | {field: value}), encoding="utf-8")
            if load(folder):
                taken.append((field, value))
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "position_embedding_type")
    assert not [pair for pair in taken if pair[0] in sizes and pair[1] != fields[pair[0]]]


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("encoder.layer.0.mlp.wo.bias"),
        lambda state: state.update({"encoder.layer.1.mlp.wo.bias": torch.ones(32)}),
        lambda state: state.update({"embeddings.LayerNorm.weight": torch.full((32,), float("nan"))}),
        lambda state: state["encoder.layer.0.mlp.wo.weight"].fill_(float("inf")),
        lambda state: state.update({"encoder.layer.0.mlp.wo.weight": torch.ones(64, 32)}),
        lambda state: state.update({"encoder.layer.0.mlp.wo.bias": torch.ones(1, 32)}),
        lambda state: state.update({"encoder.layer.0.mlp.wo.bias": torch.ones(32, dtype=torch.int8)}),
        lambda state: state.update({"encoder.layer.0.mlp.wo.bias": torch.ones(32, dtype=torch.complex64)}),
        lambda state: state.update({"encoder.layer.0.mlp.wo.bias": torch.ones(0)}),
        lambda state: state.clear(),
    ],
    ids=["missing", "extra", "nan", "inf", "transposed", "rank", "int8", "complex", "empty", "nothing"],
)
def test_weights_that_do_not_fit(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fields = tiny_fields(hidden=32, layers=1)
    state = tiny_state(fields)
    change(state)
    assert not load(write_checkpoint(tmp_path / "checkpoint", fields, state))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a\n" * 64, b"[PAD]\n", b"\0" * 5000, b"x" * 10**6])
def test_vocabularies(folder: Path, content: bytes) -> None:
    (folder / "vocab.txt").write_bytes(content)
    assert not load(folder)


def test_a_pipe_instead_of_a_file(folder: Path) -> None:
    """Opening one waits for ever."""
    (folder / "vocab.txt").unlink()
    os.mkfifo(folder / "vocab.txt")
    assert not load(folder)


KILLED = """
import sys
from pathlib import Path
from export import folder
files = [Path(sys.argv[1]) / name for name in ("model.onnx", "vocab.txt")]
manifest = __import__("json").loads((Path(sys.argv[1]) / "manifest.json").read_text())
print("ready", flush=True)
while True:
    folder.write(Path(sys.argv[2]), files, manifest, force=True)
"""


def test_killed_at_any_moment_the_folder_is_whole_or_absent(tiny_folder: Path, tmp_path: Path) -> None:
    """Writing the same folder again and again until killed; the next run cleans up."""
    target = tmp_path / "model"
    chance = random.Random(1)
    for _ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tiny_folder), str(target)],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
        )
        with child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0, 0.15))
            child.send_signal(signal.SIGKILL)
            child.wait(TIMEOUT)
        if target.exists():
            check_files(target, load_manifest(target), verify=True)
        for path in tmp_path.iterdir():
            assert path == target or path.name.startswith(".model.")
    from export import folder as folders

    manifest = json.loads((tiny_folder / "manifest.json").read_text(encoding="utf-8"))
    folders.write(target, [tiny_folder / name for name in ("model.onnx", "vocab.txt")], manifest, force=True)
    assert list(tmp_path.iterdir()) == [target]
    assert np.isfinite(len(load_manifest(target).files))


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [64, 200])
def test_a_full_disk_under_the_whole_command(good: Path, tmp_path: Path, kilobytes: int) -> None:
    """A small file system in a namespace of its own, for the temporary files too."""
    unshare = shutil.which("unshare")
    allowed = (
        unshare and not subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode
    )
    if not allowed:
        pytest.skip("unshare is not allowed here")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = f'mount -t tmpfs -o size={kilobytes}k none "$0" && "$@"; s=$?; ls -A "$0" >&2; exit $s'
    result = subprocess.run(
        [
            *(str(unshare), "-rm", "sh", "-c", command, str(disk)),
            *(
                sys.executable,
                "-m",
                "export",
                str(good),
                "--output",
                str(disk / "model"),
                "--precision",
                "fp32",
            ),
        ],
        cwd=ROOT,
        env=environment(TMPDIR=str(disk)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    errors = [line for line in result.stderr.splitlines() if not line.startswith("[")]
    assert result.returncode == 2, result.stderr
    assert len(errors) == 1, errors  # and nothing is left on the disk
    assert "free some space" in errors[0]
