"""A training as one file, for a machine that has neither the corpus nor the teachers nor this repository.

``python -m export.distill ... --prepare FILE`` chooses the text and asks the second teacher, as a training does, and
writes what training needs instead of training: the recipe, the chosen text, the second teacher's vectors in as many
dimensions as keep what it finds similar, the first teacher in int8, the dev set, the model folder that the student goes
on from, and the code. It is a .tar.xz: ``tar xf FILE && python train.py --output RUN`` needs torch, transformers,
safetensors, scipy and numpy, and goes on after a kill as any run does.

The result of such a run is large beside a slow or narrow way home. ``train.py --parts`` writes the averaged weights in
files of a size that is asked for, and ``python -m export.distill ... --result DIR`` takes them up where the text is:
what is left, balancing for int8, is done there.
"""

from __future__ import annotations

import io
import json
import lzma
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from export.errors import ExportError
from runtime.files import replacing

__all__ = ["LIMIT", "compress", "expand", "project", "read_parts", "unpack", "write", "write_parts"]

LIMIT = 64 << 20  # bytes of a bundle
SECOND_DIMENSIONS = 256
PRESET: Final = 3  # of lzma: int8 weights hardly compress, however hard one tries
PART = "weights.{:03}.part"
PACKAGES = ("export", "runtime")  # code that travels: their .py files
TEACHER_FILES = ("config.json", "vocab.txt")
TRAIN = '''\
"""Train from this bundle: python train.py --output RUN [--steps N] [--threads N] [--device cuda] [--parts DIR]"""

import sys
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here))

from export.distill.__main__ import main  # noqa: E402

raise SystemExit(main(["--bundle", str(here), *sys.argv[1:]]))
'''


def write(
    output: Path,
    *,
    run: Path,
    recipe: Path,
    teacher: Path,
    second: NDArray[np.float16] | None,
    vocabulary: list[str],
    dev: Path | None,
    start: Path | None,
) -> dict[str, int]:
    """Write a bundle.

    :param output: file to write.
    :param run: folder of a run whose text was chosen.
    :param recipe: TOML file.
    :param teacher: folder of the first teacher.
    :param second: the second teacher's vectors, [texts, dimensions], or None.
    :param vocabulary: of the student.
    :param dev: file of scored pairs, or None.
    :param start: model folder, or None.
    :return: what is in it -> bytes before compression; ``"bundle"``: of the file.
    :raises ExportError: the file would be larger than LIMIT.
    """
    root = Path(__file__).resolve().parents[2]
    members: dict[str, Path | bytes] = {"train.py": TRAIN.encode(), "recipe.toml": recipe}
    for package in PACKAGES:
        members |= {
            str(file.relative_to(root)): file
            for file in sorted((root / package).rglob("*.py"))
            if "models" not in file.relative_to(root).parts[1:2] or package == "export"
        }
    members["texts.xz"] = run / "texts.xz"
    members["vocab.txt"] = ("\n".join(vocabulary) + "\n").encode()
    members |= {f"teacher/{name}": teacher / name for name in TEACHER_FILES}
    weights = teacher / "model.safetensors"
    try:
        members["teacher/weights.npz"] = _npz(compress(load_file(weights)))
    except OSError as error:
        raise ExportError(f"{weights} cannot be read ({error}): a bundle takes weights from there") from None
    if second is not None:
        members["second.npy"] = _npy(project(second, SECOND_DIMENSIONS))
    if dev is not None:
        members["dev.tsv"] = dev
    if start is not None:
        members |= {f"start/{file.name}": file for file in sorted(start.iterdir()) if file.suffix != ".md"}
    sizes: dict[str, int] = {}
    with replacing(output) as partial:
        with tarfile.open(partial, mode="w:xz", preset=PRESET) as tar:
            for name, member in members.items():
                data = member if isinstance(member, bytes) else member.read_bytes()
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
                kind = "code" if name.endswith(".py") else name.partition("/")[0]
                sizes[kind] = sizes.get(kind, 0) + len(data)
        sizes["bundle"] = Path(partial).stat().st_size
        if sizes["bundle"] > LIMIT:
            listed = ", ".join(f"{name} {size / 2**20:.1f}" for name, size in sizes.items())
            raise ExportError(
                f"{output} would pass {LIMIT >> 20} MiB ({listed}): lower texts or second_texts in the recipe, "
                "or leave --start out"
            )
    return sizes


def unpack(bundle: Path, run: Path) -> dict[str, Any]:
    """Make a run's folder of an extracted bundle. What is there already stays.

    :param bundle: folder that the bundle was extracted to.
    :param run: folder of the run; made if need be.
    :return: ``recipe``, ``vocabulary``, ``dev`` and ``start``, as a job takes them; the teacher is in the run's folder.
    :raises ExportError: the folder holds no bundle.
    """
    if not (bundle / "teacher" / "weights.npz").is_file():
        raise ExportError(f"{bundle} is no bundle: extract what --prepare wrote, and name that folder")
    teacher = run / "teacher"
    teacher.mkdir(parents=True, exist_ok=True)
    if not (teacher / "model.safetensors").exists():
        for name in TEACHER_FILES:
            (teacher / name).write_bytes((bundle / "teacher" / name).read_bytes())
        with np.load(bundle / "teacher" / "weights.npz") as arrays:
            state = expand(arrays)
        with replacing(teacher / "model.safetensors") as partial:
            save_file(state, partial, metadata={"format": "pt"})
    if not (run / "texts.xz").exists():
        (run / "texts.xz").write_bytes((bundle / "texts.xz").read_bytes())
    return {
        "recipe": bundle / "recipe.toml",
        "vocabulary": bundle / "vocab.txt",
        "dev": bundle / "dev.tsv" if (bundle / "dev.tsv").exists() else None,
        "start": bundle / "start" if (bundle / "start").exists() else None,
    }


def project(vectors: NDArray[np.float16], dimensions: int) -> NDArray[np.float16]:
    """Reduce vectors to fewer dimensions.

    :param vectors: [texts, width].
    :param dimensions: at most so many.
    :return: the vectors in the directions in which they are longest (singular value decomposition), scaled to length 1
        again: dot products, which is all that similarity takes from them, change as little as so few dimensions can.
    """
    if vectors.shape[1] <= dimensions:
        return vectors
    wide = vectors.astype(np.float32)
    _, directions = np.linalg.eigh(wide.T @ wide)
    kept = wide @ directions[:, ::-1][:, :dimensions]
    return (kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)).astype(np.float16)


def compress(state: Mapping[str, Tensor]) -> dict[str, NDArray[np.generic]]:
    """Compress parameters.

    :param state: parameter name -> value.
    :return: matrices as int8 with a scale for each row (``NAME|scale``), all else in float16.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, value in state.items():
        if value.dim() != 2 or not value.is_floating_point():
            arrays[name] = value.half().numpy() if value.is_floating_point() else value.numpy()
            continue
        rows = value.float().numpy()
        scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny)
        arrays[name] = np.rint(rows / scale).astype(np.int8)
        arrays[f"{name}|scale"] = scale.astype(np.float32)
    return arrays


def expand(arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    """Undo `compress`.

    :param arrays: of ``compress``.
    :return: parameter name -> value, float32 where it was floating point.
    """
    state: dict[str, Tensor] = {}
    for name in arrays:
        if name.endswith("|scale"):
            continue
        value = arrays[name]
        scaled = f"{name}|scale" in arrays
        state[name] = torch.from_numpy(
            np.asarray(value * arrays[f"{name}|scale"] if scaled else value)  # type: ignore[operator]
        )
        if state[name].is_floating_point():
            state[name] = state[name].float()
    return state


def write_parts(
    weights: Mapping[str, Tensor], record: dict[str, Any], output: Path, part_bytes: int
) -> list[Path]:
    """Write averaged weights for the way home.

    The embedding table is in int8, as the export will have it (a LayerNorm follows, so that rows' scales do not
    matter), all else in float16.

    :param weights: parameter name -> value.
    :param record: what else a state holds: step, tokens, seconds, scores, recipe.
    :param output: folder; made if need be.
    :param part_bytes: of a file, at most.
    :return: the files.
    """
    table = "embeddings.word_embeddings.weight"
    state = {name: value.detach().cpu() for name, value in weights.items()}
    arrays = compress({table: state.pop(table)})
    arrays |= {name: value.half().numpy() for name, value in state.items()}
    arrays["record"] = np.frombuffer(json.dumps(record).encode(), np.uint8)
    data = lzma.compress(_npz(arrays), preset=PRESET)
    output.mkdir(parents=True, exist_ok=True)
    files = []
    for number, start in enumerate(range(0, len(data), part_bytes)):
        files.append(output / PART.format(number))
        files[-1].write_bytes(data[start : start + part_bytes])
    return files


def read_parts(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read trained weights that came in parts.

    :param folder: that ``write_parts`` filled.
    :return: weights and record, as they were given.
    :raises ExportError: a part is missing or damaged.
    """
    files = sorted(folder.glob(PART.replace("{:03}", "*")))
    try:
        with np.load(io.BytesIO(lzma.decompress(b"".join(file.read_bytes() for file in files)))) as stored:
            arrays = dict(stored)
        record = json.loads(arrays.pop("record").tobytes())
    except (lzma.LZMAError, EOFError, ValueError, KeyError) as error:
        raise ExportError(
            f"{folder}: {len(files)} parts do not make a whole ({error}): fetch all of them"
        ) from None
    return expand(arrays), record


def _npz(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def _npy(array: NDArray[np.generic]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
