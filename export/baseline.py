"""The int8 that people use today: optimum's ORTQuantizer on the plain graph, unrewritten, to compare with.

One scale over each whole activation tensor, so that a vector depends on what shares its batch; on CPUs without
VNNI its avx512_vnni preset can saturate. That is what the per-token scheme is measured against, and nothing is mended
here.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from export.errors import ExportError
from export.quiet import quiet

__all__ = ["PRESETS", "quantize_optimum"]

PRESETS = ("avx512_vnni", "avx2", "arm64")


def quantize_optimum(plain_onnx: Path, output: Path, preset: str = "avx512_vnni") -> None:
    """Quantise a plain graph dynamically, weights per channel, as optimum's documentation shows it.

    :param plain_onnx: the fp32 graph of :func:`export.trace.trace`.
    :param output: the file to write; weights are inside it. An existing file is replaced.
    :param preset: a name of :data:`PRESETS`: optimum's AutoQuantizationConfig for the target CPU.
    :raises ExportError: there is no such preset or no such graph.
    """
    if preset not in PRESETS:
        raise ExportError(f"there is no preset {preset!r}: choose {', '.join(PRESETS)}")
    if not plain_onnx.is_file():
        raise ExportError(f"{plain_onnx} is missing: trace the model first")
    # Its logger advises to keep a config.json beside the graph, which our folders do without.
    with quiet(["optimum"]), tempfile.TemporaryDirectory(dir=output.parent, prefix=".quantize-") as folder:
        from optimum.onnxruntime import ORTQuantizer
        from optimum.onnxruntime.configuration import AutoQuantizationConfig

        quantizer = ORTQuantizer.from_pretrained(plain_onnx.parent, file_name=plain_onnx.name)
        config = getattr(AutoQuantizationConfig, preset)(is_static=False, per_channel=True)
        quantizer.quantize(config, save_dir=folder, file_suffix=None)
        shutil.move(Path(folder) / plain_onnx.name, output)
