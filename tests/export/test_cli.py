"""``python -m export`` as a user meets it: what it writes, what it refuses, and how it says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export import __version__
from export.__main__ import main
from export.package.__main__ import main as package_main
from runtime import Embedder
from runtime.manifest import check_files, load_manifest
from tests.export.conftest import WORDS, tiny_fields, tiny_state, write_checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand short texts of the tiny vocabulary, and a long one."""
    chance = np.random.default_rng(0)
    words = [word for word in WORDS if not word.startswith("##")]
    lines = [" ".join(chance.choice(words, length)) for length in chance.integers(1, 30, 1000)]
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join([*lines, " ".join(chance.choice(words, 1500))]))
    return path


@pytest.fixture(scope="module")
def short_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes texts of up to 600 tokens, so that verifying it is quick."""
    folder = write_checkpoint(tmp_path_factory.mktemp("short"), tiny_fields())
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 600}')
    return folder


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny checkpoint exported in each of the three ways."""
    place = tmp_path_factory.mktemp("exported")
    ways = {"int8": [], "fp32": ["--precision", "fp32"], "optimum": ["--scheme", "optimum"]}
    for name, options in ways.items():
        arguments = [
            str(tiny_checkpoint),
            "--output",
            str(place / name),
            "--texts",
            str(texts),
            "--name",
            f"tiny-{name}",
        ]
        assert main([*arguments, *options]) == 0
    return {name: place / name for name in ways}


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run what must exit 2 with nothing on stdout; its last line on stderr."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as ended:  # argparse
        code = ended.code
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert "Traceback" not in printed.err
    lines = [line for line in printed.err.splitlines() if not line.startswith("[")]  # without progress
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("name", "precision", "scheme"),
    [("int8", "int8", "per-token"), ("fp32", "fp32", None), ("optimum", "int8", "optimum")],
)
def test_the_folder_is_whole_and_says_what_it_is(
    exported: dict[str, Path], name: str, precision: str, scheme: str | None
) -> None:
    manifest = load_manifest(exported[name])
    check_files(exported[name], manifest, verify=True)
    assert (manifest.name, manifest.precision, manifest.scheme) == (f"tiny-{name}", precision, scheme)
    assert (manifest.dimension, manifest.layers, manifest.heads, manifest.intermediate) == (64, 2, 4, 128)
    assert (manifest.vocabulary, manifest.max_tokens, manifest.lower_case) == (64, 8192, True)
    assert (manifest.max_dense_tokens is None) == (scheme == "optimum")
    document = manifest.document
    assert set(document["source"]["sha256"]) == {"config.json", "model.safetensors"}
    assert {"export", "python", "torch", "transformers", "optimum", "onnx", "onnxruntime", "opset"} <= set(
        document["made_with"]
    )
    assert str(ROOT) not in json.dumps(document)


def test_the_verification_figures_are_stored(exported: dict[str, Path]) -> None:
    figures = load_manifest(exported["int8"]).document["verification"]
    assert list(figures["fp32"]["alone"]) == ["1", "2", "3", "8", "100", "513", "2048", "8192"]
    assert max(figures["fp32"]["alone"].values()) <= 1e-5
    assert figures["int8"]["texts"] == 1001
    assert figures["int8"]["worst"] >= 0.99
    assert "encoder.layer.1.mlp.wo" in figures["layers"]
    assert set(load_manifest(exported["fp32"]).document["verification"]) == {"tokenizer", "fp32", "vectors"}
    assert set(load_manifest(exported["optimum"]).document["verification"]) == {
        "tokenizer",
        "fp32",
        "int8",
        "vectors",
    }


def test_the_runtime_embeds_with_what_was_exported(exported: dict[str, Path]) -> None:
    texts = ["the weather is cold today", "rain", "sun, sun and the cold"]
    vectors = {}
    for name, folder in exported.items():
        with Embedder(folder, threads=1) as embedder:
            vectors[name] = embedder.encode(texts)
    for name in ("int8", "optimum"):
        assert (vectors[name] * vectors["fp32"]).sum(axis=1).min() > 0.98


def test_report_is_on_stdout_and_progress_on_stderr(
    short_checkpoint: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "model"
    arguments = [str(short_checkpoint), "--output", str(output), "--texts", str(texts), "--precision", "fp32"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "fp32 against torch" in printed.out
    assert f"{short_checkpoint.name}: jinabert, 2 layers, 64 dimensions" in printed.out
    assert "513 tokens: difference" in printed.err
    assert "2048 tokens: difference" in printed.err  # the blockwise branch, though texts are cut at 600
    assert "8192 tokens" not in printed.err
    assert "s] writing" in printed.err

    before = {path.name: path.read_bytes() for path in output.iterdir()}
    assert main(arguments) == 2
    assert "pass --force to replace it" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in output.iterdir()}
    assert main([*arguments, "--force", "--name", "second"]) == 0
    assert load_manifest(output).name == "second"


def test_version_needs_no_extra_and_no_other_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert package_main(["--version"]) == 0
    assert capsys.readouterr().out == f"jinabert-runtime {__version__}\n" * 2


def test_refusals_are_one_line_before_any_work(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model"
    (tmp_path / "file").write_text("")
    (tmp_path / "few.txt").write_text("only this\n")
    assert "--output" in fails(capsys, tiny_checkpoint)
    assert "SOURCE" in fails(capsys, "--output", output)
    assert "int4" in fails(capsys, tiny_checkpoint, "--output", output, "--precision", "int4")
    assert "--precision fp32" in fails(
        capsys, tiny_checkpoint, "--output", output, "--precision", "fp32", "--scheme", "optimum"
    )
    assert "is a file" in fails(capsys, tiny_checkpoint, "--output", tmp_path / "file")
    assert "few.txt holds 1 texts" in fails(
        capsys, tiny_checkpoint, "--output", output, "--texts", tmp_path / "few.txt"
    )
    assert "config.json" in fails(capsys, tmp_path, "--output", output)
    assert "neither a folder nor a hub name" in fails(capsys, tmp_path / "absent", "--output", output)
    assert "root of the file system" in fails(capsys, tiny_checkpoint, "--output", "/")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.txt", "file"]


def test_a_checkpoint_that_gives_nan_is_refused_and_leaves_nothing(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = tiny_fields()
    state = tiny_state(fields)
    # Each weight is finite; their product is not.
    state["encoder.layer.1.mlp.wo.weight"] = state["encoder.layer.1.mlp.wo.weight"] * 1e38
    state["encoder.layer.1.mlp.gated_layers.weight"] = state["encoder.layer.1.mlp.gated_layers.weight"] * 1e15
    checkpoint = write_checkpoint(tmp_path / "checkpoint", fields, state)
    line = fails(capsys, checkpoint, "--output", tmp_path / "model", "--texts", texts)
    assert "not finite" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_official_weights_are_checked_by_their_name(
    tiny_checkpoint: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fails(
        capsys,
        tiny_checkpoint,
        "--output",
        tmp_path / "model",
        "--texts",
        texts,
        "--name",
        "jina-embeddings-v2-small-en",
    )
    assert "jinaai/jina-embeddings-v2-small-en" in line
    assert "not the official weights" in line
    assert list(tmp_path.iterdir()) == []


def run_without(modules: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """``python -m export`` where some modules are not installed."""
    code = (
        "import importlib.util, runpy, sys\n"
        f"hidden = {modules!r}\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name in hidden else find(name, *rest)\n"
        "runpy.run_module('export', run_name='__main__', alter_sys=True)"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_without_the_extra_it_says_how_to_install_it(tmp_path: Path) -> None:
    result = run_without(["torch", "optimum"], tmp_path, "--output", tmp_path / "model")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "python -m export: the export needs torch, optimum: "
        'pip install "jinabert-runtime[export]" (in a checkout: pip install -e ".[export]")\n'
    )


def test_help_needs_no_extra_and_shows_examples() -> None:
    result = run_without(["torch"], "--help")
    assert result.returncode == 0
    assert "python -m export jinaai/jina-embeddings-v2-small-en --output" in result.stdout


def test_interrupted_before_a_stage_is_finished_it_leaves_nothing(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "export", str(tiny_checkpoint), "--output", str(tmp_path / "model")]
        process = subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(scratch)}
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "comparing the tokenizer" in line:
                process.send_signal(number)
                break
        rest = process.stderr.read()
        process.stderr.close()
        assert process.wait(timeout=60) == 130, rest
        assert rest.splitlines()[-1] == "python -m export: interrupted; no model folder was written"
        assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
        assert [path.name for path in scratch.iterdir() if "jinabert" in path.name] == []
