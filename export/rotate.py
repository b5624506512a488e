"""A matrix after all else, so that vectors can be cut: their first numbers then hold most of what tells texts apart.

It is a rotation, or a head that was trained (export/distill/head.py). A rotation changes no length, dot product or
Euclidean distance, but for the rounding of its numbers. This one turns to the principal components of the verification
texts' vectors (Pearson, 1901; as in arXiv 1708.03629 for word vectors): of all rotations it is the one whose first n
numbers keep most of the variance, for every n. Either becomes a Dense module of the model folder, without bias or
activation, and ``truncatable`` in manifest.json allows ``dimensions=``. Nothing else of the folder changes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export import folder
from export.errors import ExportError
from export.verify import Figures, Progress
from runtime import Embedder
from runtime.manifest import MANIFEST, MODEL
from runtime.modules import INT16_SCALE, MODULES_DATA, Module, describe, load_arrays, pack, rounded

__all__ = ["is_model_folder", "load_head", "principal_components", "rotate"]

MAX_TOKENS = 512  # of a text that the rotation is computed from
SHOWN = (512, 256, 128, 64)  # dimensions whose share of the variance is stated


def is_model_folder(path: Path) -> bool:
    """Return whether it is what ``python -m export`` makes, rather than what it reads."""
    return (path / MANIFEST).is_file() and (path / MODEL).is_file()


def rotate(
    source: Path,
    output: Path,
    texts: Sequence[str],
    *,
    force: bool,
    progress: Progress,
    head: Path | None = None,
) -> dict[str, object]:
    """Rotate the vectors of a model folder so that they can be cut.

    :param source: a model folder.
    :param output: the folder to make: the same model, rotated.
    :param texts: whose vectors decide the rotation; some more than the model has dimensions.
    :param force: replace an existing model folder.
    :param progress: gets a line for each step.
    :param head: file of a trained head, which is taken instead of a rotation.
    :return: the manifest as written.
    :raises ExportError: the folder is rotated already, the head does not fit, or the output is refused.
    :raises ModelError: the folder cannot be loaded.
    """
    folder.check_target(output, force=force)
    with Embedder(source) as embedder:
        manifest = embedder.manifest
        if manifest.truncatable:
            option = "--head" if head else "--rotate"
            raise ExportError(f"{source} is rotated already: leave out {option}")
        size = manifest.dimension
        trained = None if head is None else load_head(head, size)
        progress(f"computing the vectors of {len(texts):,} texts")
        vectors = embedder.encode(
            texts, max_length=min(MAX_TOKENS, manifest.max_tokens), normalize=True
        ).astype(np.float64)
    # int16 changes a cosine by less than 1e-4, far less than int8 weights do, in half the room and half the time.
    dtype = "float32" if trained is None and manifest.precision == "fp32" else "int16"
    weight = rounded(principal_components(vectors) if trained is None else trained, dtype)
    rotation = Module("dense", size, size, arrays={"weight": weight}, dtype=dtype)
    modules = [*load_arrays(str(source), manifest.modules), rotation]
    turned = vectors @ weight.T
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    variances = turned.var(axis=0)
    changed = vectors @ vectors.T - turned @ turned.T
    figures: Figures = {
        "texts": len(texts),
        "variance": {
            str(n): round(float(variances[:n].sum() / variances.sum()), 4) for n in SHOWN if n < size
        },
        "largest_change_of_a_cosine": float(f"{np.abs(changed).max():.2e}"),
    }
    document = {key: value for key, value in manifest.document.items() if key not in ("files", "checksum")}
    document |= {
        "modules": [describe(module) for module in modules],
        "truncatable": True,
        "verification": {**document["verification"], "rotation" if trained is None else "head": figures},
    }
    files = [source / name for name in manifest.files if name != MODULES_DATA]
    with tempfile.TemporaryDirectory(prefix="jinabert-rotate-") as work:
        packed = Path(work) / MODULES_DATA
        packed.write_bytes(pack(modules))
        return folder.write(output, [*files, packed], document, force=force)


def load_head(path: Path, size: int) -> NDArray[np.float64]:
    """Read a trained head.

    :param path: an int16 array as ``python -m export.distill --head`` writes it, INT16_SCALE times the matrix.
    :param size: numbers of the vectors that it is for.
    :return: the matrix [size, size].
    :raises ExportError: the file holds something else.
    """
    try:
        stored: NDArray[np.int16] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ExportError(f"{path} cannot be read as a head: {error}") from None
    if getattr(stored, "shape", None) != (size, size) or stored.dtype != np.int16:
        raise ExportError(
            f"{path} holds no head for vectors of {size} numbers: train one for this model with "
            "`python -m export.distill ... --head MODEL`"
        )
    return stored / INT16_SCALE


def principal_components(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find the directions in which vectors vary most.

    :param vectors: [n, D].
    :return: a rotation [D, D], whose rows are the directions of most variance about the mean, the first first, each
        with its largest number positive.
    """
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred / len(vectors))
    components = directions.T[::-1]
    largest = components[np.arange(len(components)), np.abs(components).argmax(axis=1)]
    rotation: NDArray[np.float64] = components * np.sign(largest)[:, None]
    return rotation
