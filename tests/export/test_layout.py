"""A model folder of ours in other programs: the real ones, on int8 and fp32, each vector beside ours."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from export.layout import main, write_layout
from runtime import Embedder
from runtime.bundled import bundled_model
from runtime.errors import JinaBertError
from tests.bench.environments import node_modules, python_of
from tests.export.conftest import tiny_fields, write_checkpoint
from tests.serve.browser import browser, executable
from tests.tiny import make_model
from tests.unverified import make_folder

PROGRAMS = Path(__file__).parent / "programs"
TEXTS = [
    "How is the weather today?",
    "rain",
    "",
    "The sun, the rain: a cold day. " * 20,
    "the weather is cold today and " * 500,  # 3,000 tokens: blockwise attention, where it is alone
]
SHORT = TEXTS[:4]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundled int8 model and a tiny one in fp32, with the files of other programs."""
    place = tmp_path_factory.mktemp("layouts")
    shutil.copytree(bundled_model(), place / "int8")
    make_folder(write_checkpoint(place / "checkpoint", tiny_fields()), place / "fp32", "fp32")
    for name in ("int8", "fp32"):
        write_layout(place / name)
    return {name: place / name for name in ("int8", "fp32")}


def ours(folder: Path, texts: list[str]) -> NDArray[np.float32]:
    with Embedder(folder, threads=1) as embedder:
        return embedder.encode(texts)


def cosines(found: object, folder: Path, texts: list[str]) -> NDArray[np.float64]:
    vectors = np.asarray(found, np.float64)
    assert vectors.shape == (len(texts), Embedder(folder).dimension)
    result: NDArray[np.float64] = (vectors * ours(folder, texts)).sum(axis=1) / np.linalg.norm(
        vectors, axis=1
    )
    return result


def run(command: list[str], folder: Path, texts: list[str], place: Path) -> object:
    """Vectors that a program prints."""
    (place / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    result = subprocess.run(
        [*command, str(folder), str(place / "texts.json")],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@contextmanager
def registry(name: str) -> Iterator[None]:
    """Skip by name where packages cannot be fetched."""
    try:
        yield
    except OSError as error:
        pytest.skip(f"{name}: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize("program", ["sentence_transformers_onnx", "optimum_onnx"])
def test_python_programs_of_this_environment(
    folders: dict[str, Path], tmp_path: Path, program: str, precision: str
) -> None:
    found = run([sys.executable, str(PROGRAMS / f"{program}.py")], folders[precision], TEXTS, tmp_path)
    assert cosines(found, folders[precision], TEXTS).min() > 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_fastembed(folders: dict[str, Path], tmp_path: Path, precision: str) -> None:
    with registry("fastembed"):
        python = python_of("fastembed")
    found = run([python, str(PROGRAMS / "fastembed_local.py")], folders[precision], TEXTS, tmp_path)
    assert cosines(found, folders[precision], TEXTS).min() > 0.9999


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node and npm")
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_transformers_js(folders: dict[str, Path], tmp_path: Path, precision: str) -> None:
    with registry("transformers.js"):
        modules = node_modules()
    script = modules / "transformers_js.mjs"  # where Node finds its packages
    shutil.copyfile(PROGRAMS / "transformers_js.mjs", script)
    found = run(["node", str(script)], folders[precision], TEXTS, tmp_path)
    assert cosines(found, folders[precision], TEXTS).min() > 0.9999


@contextmanager
def served(place: Path) -> Iterator[str]:
    """The files of a folder over HTTP."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(place))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None or executable() is None, reason="needs npm and Chromium")
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_onnxruntime_web(folders: dict[str, Path], tmp_path: Path, precision: str) -> None:
    with registry("onnxruntime-web"):
        modules = node_modules()
    site = tmp_path / "site"
    site.mkdir()
    (site / "ort").symlink_to(modules / "node_modules" / "onnxruntime-web" / "dist")
    (site / "model").symlink_to(folders[precision])
    shutil.copyfile(PROGRAMS / "onnxruntime_web.html", site / "index.html")
    with Embedder(folders[precision], threads=1) as embedder:
        ids = [list(embedder.model.tokenizer.encode(text)) for text in SHORT]
    with served(site) as address, browser(tmp_path / "profile") as page:
        page.open(f"{address}/index.html")
        page.wait("window.ready === true")
        found = json.loads(page.value(f"window.vectors({json.dumps(ids)})"))
    assert cosines(found, folders[precision], SHORT).min() > 0.999


def test_the_folder_stays_a_model_folder_and_holds_its_weights_once(folders: dict[str, Path]) -> None:
    with Embedder(folders["int8"], verify=True) as embedder:
        assert embedder.encode("rain").shape == (512,)
    data, link = (folders["int8"] / name for name in ("model.onnx.data", "onnx/model.onnx_data"))
    assert data.samefile(link)


def test_a_dense_module_and_prompts_are_written(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    from runtime.manifest import load_manifest
    from runtime.modules import MODULES_DATA, Module, describe, pack
    from tests.tiny import write_manifest

    folder = make_model(tmp_path / "model")
    weight = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    dense = Module(
        "dense", 16, 4, {"weight": weight, "bias": np.ones(4, np.float32)}, bias=True, activation="tanh"
    )
    (folder / MODULES_DATA).write_bytes(pack([dense]))
    write_manifest(
        folder,
        dimension=4,
        modules=[describe(dense)],
        prompts={"query": "query: "},
        default_prompt_name="query",
        pooling={"modes": ["cls"], "include_prompt": True},
    )
    load_manifest(folder)
    assert main([str(folder)]) == 0
    kinds = [entry["type"].rpartition(".")[2] for entry in json.loads((folder / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", "Dense", "Normalize"]
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_cls_token"]
    assert not pooling["pooling_mode_mean_tokens"]
    assert json.loads((folder / "2_Dense" / "config.json").read_text()) == {
        "in_features": 16,
        "out_features": 4,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    np.testing.assert_array_equal(
        load_file(folder / "2_Dense" / "model.safetensors")["linear.weight"], weight
    )
    settings = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert (settings["prompts"], settings["default_prompt_name"]) == ({"query": "query: "}, "query")


def test_added_tokens_are_in_tokenizer_json(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    from tests.tiny import VOCABULARY, write_manifest

    folder = make_model(tmp_path / "model")
    added = [
        {"id": number, "content": content, "special": True}
        for number, content in enumerate(VOCABULARY)
        if content.startswith("[")
    ] + [{"id": VOCABULARY.index("world"), "content": "wor ld", "lstrip": True, "normalized": True}]
    vocabulary = ["wor ld" if token == "world" else token for token in VOCABULARY]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    write_manifest(folder, tokenizer={"type": "wordpiece", "lower_case": True, "added_tokens": added})
    write_layout(folder)
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with Embedder(folder) as embedder:
        for text in ("hello wor ld", "hello WOR LD, hello", "hello [MASK] wor"):
            assert made.encode(text).ids == list(embedder.model.tokenizer.encode(text))


def test_refusals_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "absent")]) == 2
    assert "does not exist" in capsys.readouterr().err
    folder = make_model(tmp_path / "model")
    (folder / "config.json").write_text("mine")
    assert main([str(folder)]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "has config.json already: pass --force" in printed
    assert (folder / "config.json").read_text() == "mine"
    assert main([str(folder), "--force"]) == 0
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 16
    with pytest.raises(JinaBertError, match="already"):
        write_layout(folder)
