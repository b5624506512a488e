"""A model folder on disk: written whole under a hidden name beside its target, then renamed.

The target is absent or complete at every moment. A run that is killed leaves at most a hidden
``.NAME.PID.partial`` beside it, which the next export to the same place removes.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

from export.errors import ExportError
from runtime import files
from runtime.manifest import MANIFEST, MODEL, MODEL_DATA, content_checksum, file_facts

EXTERNAL_MINIMUM_BYTES = 1024
# Large tensors start on a page, so that onnxruntime can map them; small ones only on a cache line, since a page
# each would be mostly padding.
PAGE_BYTES = 4096
PAGE_ALIGNED_MINIMUM_BYTES = 65536
LINE_BYTES = 64
PRODUCTS = ("MatMul", "Gemm", "MatMulNBits", "Attention", "Conv")  # how names of operators with weights end
INTEGER_PRODUCTS = ("MatMulInteger", "MatMulIntegerToFloat")


def save_model(model: onnx.ModelProto, folder: Path) -> list[Path]:
    """Write ``model.onnx``, and beside it ``model.onnx.data`` with every initializer of 1 KiB or more.

    onnxruntime maps that file, which loads faster and takes less memory than weights inside the protobuf. A tensor
    whose bytes stand in the file already is not written again but placed there. So a stack of the matrices of all
    layers costs nothing, if they come one after the other before it (export.graph.weights).

    :param model: its tensors hold their data; it is left as it is.
    :param folder: an existing folder.
    :return: the files written: two, or one where no initializer is that large.
    """
    stored = onnx.ModelProto()
    stored.CopyFrom(model)
    data_path = folder / MODEL_DATA
    written: dict[int, bytes] = {}  # offset -> bytes
    with data_path.open("wb") as data:
        for tensor in stored.graph.initializer:
            if not tensor.HasField("raw_data"):
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
            size = len(tensor.raw_data)
            if size < EXTERNAL_MINIMUM_BYTES:
                continue
            offset = _find(written, tensor.raw_data)
            if offset is None:
                alignment = PAGE_BYTES if size >= PAGE_ALIGNED_MINIMUM_BYTES else LINE_BYTES
                data.write(bytes(-data.tell() % alignment))
                offset = data.tell()
                data.write(tensor.raw_data)
                written[offset] = tensor.raw_data
            place = {"location": MODEL_DATA, "offset": str(offset), "length": str(size)}
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in place.items():
                tensor.external_data.add(key=key, value=value)
        used = data.tell()
    model_path = folder / MODEL
    model_path.write_bytes(stored.SerializeToString(deterministic=True))
    if used:
        return [model_path, data_path]
    data_path.unlink()
    return [model_path]


def _find(written: Mapping[int, bytes], content: bytes) -> int | None:
    """Return the offset at which tensors written one after the other hold these bytes."""
    for first, piece in written.items():
        offset, rest = first, memoryview(content)
        while piece and rest[: len(piece)] == piece:
            offset, rest = offset + len(piece), rest[len(piece) :]
            if not rest:
                return first
            piece = written.get(offset, b"")
    return None


def check_target(output: Path, *, force: bool) -> None:
    """Say at once, before minutes of work, whether ``write`` would be refused.

    :raises ExportError: the target exists and ``force`` is off, or it is what is never replaced.
    """
    target = _resolve(output)
    if not target.exists():
        return
    if not target.is_dir():
        raise ExportError(f"{output} is a file: --output names the folder to make, choose another name")
    if not force:
        raise ExportError(f"{output} exists: pass --force to replace it, or choose another --output")
    # --force replaces a model folder (or an empty one), never someone's home.
    if any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise ExportError(
            f"{output} holds files but no {MANIFEST}, so it is no model folder: --force does not replace it"
        )


def seal(folder: Path, manifest: Mapping[str, object]) -> dict[str, object]:
    """Write a manifest that describes the other files of a folder.

    :param folder: holds the files of a model folder; a manifest that is there is replaced.
    :param manifest: everything but ``files`` and ``checksum``.
    :return: the manifest as written.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    whole: dict[str, object] = {
        **manifest,
        "exact_products": _exact_products(folder / MODEL),
        "files": {file.name: file_facts(file)._asdict() for file in sorted(folder.iterdir())},
    }
    whole["checksum"] = content_checksum(whole)
    (folder / MANIFEST).write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return whole


def _exact_products(graph: Path) -> bool:
    """Whether every product with a weight matrix is of integers, so that the order of its sums changes no bit."""
    model = onnx.load(graph, load_external_data=False)
    matrices = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 1}

    def exact(nodes: Iterable[onnx.NodeProto]) -> bool:
        return all(
            node.op_type in INTEGER_PRODUCTS
            or not (node.op_type.endswith(PRODUCTS) and matrices.intersection(node.input))
            for node in nodes
        ) and all(exact(part.g.node) for node in nodes for part in node.attribute if part.HasField("g"))

    return exact(model.graph.node)


def write(
    output: Path, sources: Iterable[Path], manifest: Mapping[str, object], *, force: bool = False
) -> dict[str, object]:
    """Make the model folder ``output`` of copies of ``sources`` and a manifest that describes them.

    :param output: the folder to make; missing parents are made too.
    :param sources: ``model.onnx``, perhaps ``model.onnx.data``, and ``vocab.txt``.
    :param manifest: everything but ``files``, which is added here.
    :param force: replace an existing model folder.
    :return: the manifest as written.
    :raises ExportError: the target exists, or the disk refuses; then the target is as it was.
    """
    check_target(output, force=force)
    target = _resolve(output)
    try:
        with _staging(target) as stage:
            for file in sources:
                copy = stage / file.name
                shutil.copyfile(file, copy)
                files.sync(copy)
            # Last: a folder without a manifest is no model folder.
            whole = seal(stage, manifest)
            files.sync(stage / MANIFEST)
            files.replace(stage, target)
    except OSError as error:
        raise ExportError(f"cannot write {output}: {files.explain(error)}") from None
    return whole


def _resolve(output: Path) -> Path:
    """The folder itself where ``output`` is a link to it: a rename would replace the link."""
    target = Path(os.path.realpath(output))
    if not target.name:
        raise ExportError(f"{output} is the root of the file system: choose a folder to make")
    return target


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A new hidden folder beside ``target``: gone afterwards whatever happens, as are parents made for it."""
    made = [parent for parent in (target.parent, *target.parent.parents) if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(target)
    stage = Path(files.beside(target))
    try:
        stage.mkdir()
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        for parent in made:
            try:
                parent.rmdir()  # refuses where the finished folder is inside
            except OSError:
                break


def _clear_leftovers(target: Path) -> None:
    """Remove what killed runs left; put back the folder that one of them had moved aside and not yet replaced."""
    for kind in (files.PARTIAL, files.OLD):
        for left in target.parent.glob(f".{_literal(target.name)}.*.{kind}"):
            pid = left.name.removesuffix(f".{kind}").rpartition(".")[2]
            if not pid.isdigit() or (int(pid) != os.getpid() and _alive(int(pid))):
                continue
            if kind == files.OLD and not target.exists():
                left.rename(target)
            else:
                files.remove(str(left))


def _literal(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
