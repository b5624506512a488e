"""One checkpoint exported each way, made once and kept outside the repository.

plain/      fp32 graph as optimum exports it, with the files that fastembed and others read beside it
optimum/    the same, quantised to int8 as optimum documents it
static/     plain/ for OpenVINO, quantised to int8 by NNCF, calibrated on texts of STS-B's training set
dynamic/    plain/ for OpenVINO with int8 weights
q8_0/, f16/ the checkpoint as llama.cpp's GGUF
unblocked/  our int8 graph without the branch for long texts
fp32/       our graph in fp32, as `python -m export --precision fp32` makes it
products/   the model's int8 weight products and nothing else
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.bundled import bundled_model
from runtime.manifest import VOCABULARY, load_manifest
from tests.bench.environments import CACHE, python_of
from tests.paths import ROOT, SHARED

__all__ = ["Artifacts", "CheckpointError", "made_of_code", "preset"]

WEIGHTS = "model.safetensors"
CALIBRATION_TEXTS = 128


class CheckpointError(OSError):
    """The checkpoint is not there, or the model was not exported from it."""


class Artifacts:
    """Folders of exported models, each made when it is first asked for."""

    def __init__(self, checkpoint: Path, model: Path | None) -> None:
        """Nothing but the model is made yet.

        :param checkpoint: folder in Hugging Face layout.
        :param model: the model folder that our runtime loads; what needs the checkpoint wants it to come from there.
            None: the int8 export of the checkpoint, or the bundled model where there is no such checkpoint.
        :raises ModelError: model cannot be read.
        """
        self._checkpoint = checkpoint
        if model is None:
            model = (
                self._make_model(checkpoint) if (checkpoint / WEIGHTS).is_file() else Path(bundled_model())
            )
        self.model = model
        self.manifest = load_manifest(model)
        digest = self._digest()
        graph = self.manifest.files["model.onnx"].checksum
        self._folder = CACHE / "models" / digest[:12]
        self._ours = self._folder / f"graph-{graph}"

    def _make_model(self, checkpoint: Path) -> Path:
        """Made anew when the weights or the code that makes the graph are others."""
        from tests.unverified import make_folder

        folder = CACHE / "models" / f"ours-{made_of_code(checkpoint)}" / checkpoint.name
        return folder if folder.is_dir() else make_folder(checkpoint, folder, "int8")

    @property
    def checkpoint(self) -> Path:
        """Find the checkpoint.

        :return: the folder that the model was exported from.
        :raises CheckpointError: it is another one, or cannot be read.
        """
        try:
            weights = (self._checkpoint / WEIGHTS).read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"{self._checkpoint / WEIGHTS}: {error.strerror}: name what {self.model} was exported from "
                "with --checkpoint"
            ) from None
        if hashlib.sha256(weights).hexdigest() != self._digest():
            raise CheckpointError(
                f"{self.model} was not exported from {self._checkpoint}: the benchmark wants the same weights"
            )
        return self._checkpoint

    def _digest(self) -> str:
        """SHA-256 of the weights that the model was exported from, as its manifest says."""
        known: str = self.manifest.document["source"]["sha256"].get(
            WEIGHTS, self.manifest.document["checksum"]
        )
        return known

    def plain(self) -> Path:
        """Return a folder of model.onnx in fp32, config.json, tokenizer.json and its company."""
        return self._once(self._folder / "plain", self._make_plain)

    def optimum(self) -> Path:
        """Return a folder of model.onnx in int8, by optimum, and vocab.txt."""
        return self._once(self._folder / "optimum", self._make_optimum)

    def openvino(self, kind: str) -> Path:
        """Return the path of an OpenVINO model in int8.

        :param kind: "static" or "dynamic".
        """
        return self._once(self._folder / kind, lambda folder: self._make_openvino(folder, kind)) / "model.xml"

    def gguf(self, precision: str) -> Path:
        """Return the path of a GGUF file.

        :param precision: "q8_0" or "f16".
        """

        def make(folder: Path) -> None:
            _convert("llama.cpp", f"gguf-{precision}", self.checkpoint, folder / "model.gguf")

        return self._once(self._folder / precision, make) / "model.gguf"

    def unblocked(self) -> Path:
        """Return a model folder of ours whose graph has no branch for long texts."""
        return self._once(self._ours / "unblocked", self._make_unblocked)

    def fp32(self) -> Path:
        """Return a model folder of ours in fp32."""
        from tests.unverified import make_folder

        folder = self._ours / "fp32"
        return folder if folder.is_dir() else make_folder(self.checkpoint, folder, "fp32")

    def products(self) -> Path:
        """Return the path of products.onnx."""
        return self._once(self._ours / "products", self._make_products)

    def _once(self, folder: Path, make: Callable[[Path], None]) -> Path:
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            os.environ["ORT_DISABLE_TELEMETRY"] = "1"
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as staging:
                made = Path(staging) / "made"
                made.mkdir()
                make(made)
                made.rename(folder)
        return folder

    def _make_plain(self, folder: Path) -> None:
        from tokenizers import BertWordPieceTokenizer

        from export import checkpoint, trace

        trace.trace(checkpoint.load_model(self.checkpoint), folder / "model.onnx")
        shutil.copy(self.checkpoint / "config.json", folder)
        shutil.copy(self.model / VOCABULARY, folder)
        tokenizer = BertWordPieceTokenizer(str(self.model / VOCABULARY), lowercase=self.manifest.lower_case)
        tokenizer.save(str(folder / "tokenizer.json"))
        special = {
            name: f"[{name[:3].upper()}]" for name in ("unk_token", "sep_token", "pad_token", "cls_token")
        } | {"mask_token": "[MASK]"}
        settings = {
            "model_max_length": self.manifest.max_tokens,
            "tokenizer_class": "BertTokenizer",
            **special,
        }
        (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")

    def _make_optimum(self, folder: Path) -> None:
        from export import baseline

        baseline.quantize_optimum(self.plain() / "model.onnx", folder / "model.onnx", preset())
        shutil.copy(self.model / VOCABULARY, folder)

    def _make_openvino(self, folder: Path, kind: str) -> None:
        from runtime.tokenization.wordpiece import WordPiece

        source, target = self.plain() / "model.onnx", folder / "model.xml"
        assert kind in ("static", "dynamic")
        if kind == "dynamic":
            _convert("openvino", "openvino-dynamic", source, target)
            return
        tokenizer = WordPiece.from_file(self.model / VOCABULARY, lower_case=self.manifest.lower_case)
        rows = (SHARED / "data" / "sts" / "stsb_train.tsv").read_text(encoding="utf-8").splitlines()
        texts = [tokenizer.encode(row.split("\t")[1]) for row in rows[:: len(rows) // CALIBRATION_TEXTS]]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as calibration:
            json.dump(texts[:CALIBRATION_TEXTS], calibration)
            calibration.flush()
            _convert("openvino", "openvino-static", source, target, Path(calibration.name))

    def _make_unblocked(self, folder: Path) -> None:
        self._write(self._unblocked_graph(), folder, {"max_dense_tokens": None})

    def _unblocked_graph(self) -> Any:
        from export import checkpoint, graph

        return graph.build(checkpoint.load_model(self.checkpoint).export_weights(), blockwise=False)

    def _write(self, model: Any, folder: Path, changes: dict[str, Any]) -> None:
        """Write a model folder whose manifest differs from ours in `changes`."""
        from export.folder import save_model
        from runtime.manifest import content_checksum, file_facts

        save_model(model, folder)
        shutil.copy(self.model / VOCABULARY, folder)
        facts = {path.name: file_facts(path)._asdict() for path in folder.iterdir()}
        document = dict(self.manifest.document) | changes | {"files": facts}
        document["checksum"] = content_checksum(document)
        (folder / "manifest.json").write_text(json.dumps(document), encoding="utf-8")

    def _make_products(self, folder: Path) -> None:
        """Each weight matrix once, as the model multiplies by it, on inputs that are quantised already.

        No result is used: what it takes to make one is all that is wanted, and the graph is not optimised.
        """
        import numpy as np
        import onnx
        from onnx import TensorProto, numpy_helper

        from export.graph.builder import FLOAT, Builder, value
        from export.graph.weights import MATRICES

        rewritten = self._unblocked_graph()
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in rewritten.graph.initializer}
        hidden, intermediate = self.manifest.dimension, self.manifest.intermediate
        g = Builder()
        for layer in range(self.manifest.layers):
            for name in MATRICES:
                matrix, scale = (
                    stored[f"encoder.layer.{layer}.{name}{kind}"] for kind in (".int8", ".scale")
                )
                rows = "wide" if len(matrix) == intermediate else "rows"
                g("MatMulIntegerToFloat", rows, matrix, np.float32(1), scale, np.uint8(128))
        g("Identity", g.constant(np.float32(0)))
        done = g.nodes[-1].output[0] = "done"
        inputs = [
            value(name, TensorProto.UINT8, ["batch", "sequence", width])
            for name, width in (("rows", hidden), ("wide", intermediate))
        ]
        onnx.save(g.model("products", inputs, [value(done, FLOAT, [])]), folder / "products.onnx")


def made_of_code(checkpoint: Path) -> str:
    """Return what our export of a checkpoint follows from: the weights, and the code that makes the graph."""
    state = hashlib.sha256((checkpoint / WEIGHTS).read_bytes())
    code = (ROOT / "export").glob("**/*.py")
    for source in [*sorted(code), ROOT / "runtime" / "manifest.py", ROOT / "tests" / "unverified.py"]:
        state.update(source.read_bytes())
    return state.hexdigest()[:12]


def _convert(environment: str, kind: str, *paths: Path) -> None:
    """Run convert.py in a peer's environment.

    :raises OSError: it failed.
    """
    command = [python_of(environment), "-m", "tests.bench.convert", kind, *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"{kind} cannot be made: {last}")


def preset() -> str:
    """optimum's preset for this processor."""
    import platform

    if platform.machine() in ("aarch64", "arm64"):
        return "arm64"
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return "avx512_vnni" if "avx512_vnni" in flags else "avx2"
