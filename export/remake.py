"""A model folder made again from its own int8 weights, in the graph that is built today.

The checkpoint is not needed, and no weight is rounded again: int8 values and scales are those of the folder. Vectors
differ as far as the graphs do, which is measured on all verification texts.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export import folder, graph, verify
from export.config import read_json
from export.description import made_with
from export.errors import ExportError
from export.graph.encoder import Encoder
from export.graph.weights import INPUTS
from export.job import ExportSettings
from export.verify import Figures, Progress
from runtime.manifest import MANIFEST, MAX_DIMENSION, MODEL, MODEL_DATA, SCHEMA_VERSION
from runtime.modules import load_arrays, parse
from runtime.resources import default_threads
from runtime.tokenization.loading import load_tokenizer

__all__ = ["remake", "with_int8"]

BLOCKWISE_TOKENS = 2048  # a length that runs blockwise


def remake(settings: ExportSettings, corpus: Sequence[str], progress: Progress) -> dict[str, object]:
    """Build the graph of a model folder again.

    :param settings: source and output; the output may be the source with ``force``.
    :param corpus: the verification texts.
    :param progress: gets a line for each step.
    :return: the manifest as written.
    :raises ExportError: the folder is of another kind, or its vectors would change by more than ``min_cosine`` allows.
    """
    from export.distill.dequantize import load_model_folder

    source, threads = Path(settings.source), default_threads()
    document = read_json(source / MANIFEST)
    kind = (document.get("architecture"), document.get("task", "embed"), document.get("scheme"))
    if kind != ("jinabert", "embed", "per-token"):
        raise ExportError(
            f"{source} is a model folder already, and not the int8 of a plain JinaBert that can be made again: give "
            "its checkpoint, or pass --rotate to make its vectors such that they can be cut"
        )
    if settings.precision != "int8" or settings.scheme != "per-token" or settings.compare:
        raise ExportError(
            f"{source} is a model folder already: for anything but our int8, give its checkpoint"
        )
    progress(f"reading the weights of {source}")
    model = load_model_folder(source).eval()
    encoder = with_int8(model.export_weights(), source)
    tokenizer = load_tokenizer(str(source), document["tokenizer"], document["vocabulary"])
    tokens = [tokenizer.truncate(tokenizer.encode(text), document["max_tokens"]) for text in corpus]
    dense = graph.MAX_DENSE_TOKENS
    with tempfile.TemporaryDirectory(prefix="jinabert-remake-") as name:
        work = Path(name)
        progress("building the graph")
        made = folder.save_model(graph.build(encoder), work)
        (plain := work / "fp32").mkdir()
        (fp32, *_) = folder.save_model(graph.build(encoder, precision="fp32"), plain)
        progress("comparing fp32 with torch")
        stream = [token for text in tokens[::-1] for token in text]
        # Longer texts are compared with the folder's own vectors below.
        figures = verify.verify_fp32(
            model, fp32, stream, longest=BLOCKWISE_TOKENS, threads=threads, progress=progress
        )
        pooled = len(document["pooling"]["modes"]) * document["hidden_size"]
        modules = load_arrays(str(source), parse(document["modules"], pooled, MAX_DIMENSION))
        with verify.pooled_as(document["pooling"]["modes"], modules):
            before, after = (
                verify.encode(verify.open_session(path, threads), tokens, limit, what, progress)
                for path, limit, what in (
                    (source / MODEL, document["max_dense_tokens"], "before"),
                    (work / MODEL, dense, "now"),
                )
            )
        cosines = (before * after).sum(axis=1)
        remade: Figures = {
            "texts": len(tokens),
            "worst": round(float(cosines.min()), 7),
            "mean": round(float(cosines.mean()), 7),
        }
        progress(f"cosine to the vectors of {source}: worst {cosines.min():.6f}, mean {cosines.mean():.7f}")
        if cosines.min() < settings.min_cosine:
            raise ExportError(
                f"a text's vector would have the cosine {cosines.min():.5f} to that of {source}, at least "
                f"{settings.min_cosine} is needed: export the checkpoint"
            )
        manifest: dict[str, object] = {
            **{key: value for key, value in document.items() if key not in ("files", "checksum")},
            "schema_version": SCHEMA_VERSION,
            "name": settings.name or document["name"],
            "max_tokens": settings.max_tokens or document["max_tokens"],
            "max_dense_tokens": dense,
            "made_with": made_with(),
            "verification": {**document["verification"], "fp32": figures, "remade": remade},
        }
        kept = [source / file for file in document["files"] if file not in (MODEL, MODEL_DATA)]
        # What the folder does not list, such as a README.md, goes with it.
        others = [
            path
            for path in sorted(source.iterdir())
            if path.is_file() and path.name not in {MANIFEST, *document["files"]}
        ]
        (beside := work / "others").mkdir()
        for path in others:
            shutil.copyfile(path, beside / path.name)
        progress(f"writing {settings.output}")
        written = folder.write(settings.output, [*made, *kept], manifest, force=settings.force)
        for path in sorted(beside.iterdir()):
            shutil.copyfile(path, settings.output / path.name)
    return written


def with_int8(encoder: Encoder, source: Path) -> Encoder:
    """Take the int8 matrices, scales and vectors of a model folder, to the bit, instead of rounding to nearest.

    :param encoder: of export.distill.dequantize.load_model_folder.
    :param source: the model folder.
    :return: the encoder with them.
    """
    from export.distill.dequantize import stored_arrays

    arrays = stored_arrays(source)
    layers: list[dict[str, Any]] = []
    for number, parts in enumerate(encoder.layers):
        prefix = f"encoder.layer.{number}."
        wanted = [f"{name}.{part}" for name in encoder.matrices for part in ("int8", "scale")]
        optional = [f"{name}.{part}" for name in INPUTS for part in ("factor", "step")]
        wanted += [name for name in optional if prefix + name in arrays]
        # Through the root of the width and back, the query's bias would be another number in its last bit.
        wanted += [name for name in parts if prefix + name in arrays]
        layers.append({**parts, **{name: arrays[prefix + name] for name in wanted}})
    return dataclasses.replace(encoder, layers=layers)
