"""A model folder is absent or complete, whatever goes wrong while it is written."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import folder
from export.errors import ExportError
from runtime import ModelError
from runtime.manifest import check_files, load_manifest
from tests.tiny import make_model

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def parts(tmp_path: Path) -> tuple[list[Path], dict[str, object]]:
    """Files of a model folder, and its manifest without ``files``."""
    made = make_model(tmp_path / "made", external=True)
    manifest = json.loads((made / "manifest.json").read_text())
    del manifest["files"]
    return [made / name for name in ("model.onnx", "model.onnx.data", "vocab.txt")], manifest


def big_model() -> onnx.ModelProto:
    """x @ weights + bias, the weights above the page-aligned size, the bias below the external one."""
    chance = np.random.default_rng(0)
    weights = chance.standard_normal((256, 100)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "weights"], ["y0"]),
            helper.make_node("Add", ["y0", "wide"], ["y1"]),
            helper.make_node("Mul", ["y1", "scale"], ["y"]),
        ],
        "big",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 100])],
        [
            numpy_helper.from_array(chance.standard_normal((3, 100)).astype(np.float32), "wide"),
            numpy_helper.from_array(weights, "weights"),
            helper.make_tensor("scale", TensorProto.FLOAT, [], [2.0]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: Path | bytes) -> np.ndarray:
    session = onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model))
    (result,) = session.run(None, {"x": np.linspace(-1, 1, 3 * 256, dtype=np.float32).reshape(3, 256)})
    return np.asarray(result)


def test_saved_model_computes_the_same_with_its_weights_beside_it(tmp_path: Path) -> None:
    model = big_model()
    before = model.SerializeToString()
    files = folder.save_model(model, tmp_path)
    assert [file.name for file in files] == ["model.onnx", "model.onnx.data"]
    np.testing.assert_array_equal(run(files[0]), run(before))
    assert model.SerializeToString() == before
    assert files[0].stat().st_size < 1024


def test_large_weights_start_on_a_page(tmp_path: Path) -> None:
    folder.save_model(big_model(), tmp_path)
    stored = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    places = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in stored.graph.initializer
    }
    assert places["scale"] == {}
    assert int(places["wide"]["offset"]) % 64 == 0
    assert int(places["weights"]["offset"]) % 4096 == 0
    assert int(places["weights"]["length"]) == 256 * 100 * 4


def test_a_model_of_small_weights_is_one_file(tmp_path: Path) -> None:
    model = big_model()
    del model.graph.node[:2]
    del model.graph.initializer[:2]
    model.graph.node[0].input[0] = "x"
    assert [file.name for file in folder.save_model(model, tmp_path)] == ["model.onnx"]
    assert not (tmp_path / "model.onnx.data").exists()


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for one, two in zip(
        folder.save_model(big_model(), tmp_path / "a"),
        folder.save_model(big_model(), tmp_path / "b"),
        strict=True,
    ):
        assert one.read_bytes() == two.read_bytes()


def test_written_folder_passes_the_runtime_s_own_checks(parts, tmp_path: Path) -> None:
    files, manifest = parts
    written = folder.write(tmp_path / "new" / "deeper" / "model", files, manifest)
    output = tmp_path / "new" / "deeper" / "model"
    check_files(output, load_manifest(output), verify=True)
    assert json.loads((output / "manifest.json").read_text()) == written
    assert sorted(path.name for path in output.parent.iterdir()) == ["model"]
    mask = os.umask(0)
    os.umask(mask)
    assert output.stat().st_mode & 0o777 == 0o777 & ~mask  # for others to read, as any new folder


def test_existing_folder_needs_force(parts, tmp_path: Path) -> None:
    files, manifest = parts
    output = tmp_path / "model"
    folder.write(output, files, {**manifest, "name": "first"})
    with pytest.raises(ExportError, match="--force"):
        folder.write(output, files, {**manifest, "name": "second"})
    assert load_manifest(output).name == "first"
    (output / "left.txt").write_text("of the first")
    folder.write(output, files, {**manifest, "name": "second"}, force=True)
    assert load_manifest(output).name == "second"
    assert sorted(path.name for path in output.iterdir()) == [
        "manifest.json", "model.onnx", "model.onnx.data", "vocab.txt",
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "model"]


def test_force_does_not_replace_what_is_no_model_folder(parts, tmp_path: Path) -> None:
    files, manifest = parts
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="no model folder"):
        folder.write(home, files, manifest, force=True)
    assert (home / "thesis.txt").read_text() == "years of work"
    with pytest.raises(ExportError, match="is a file"):
        folder.write(home / "thesis.txt", files, manifest, force=True)


def test_an_empty_folder_is_replaced_with_force(parts, tmp_path: Path) -> None:
    files, manifest = parts
    (tmp_path / "empty").mkdir()
    folder.write(tmp_path / "empty", files, manifest, force=True)
    assert load_manifest(tmp_path / "empty").name == "tiny"


def test_the_target_of_a_link_is_replaced_and_the_link_stays(parts, tmp_path: Path) -> None:
    files, manifest = parts
    folder.write(tmp_path / "v1", files, manifest)
    (tmp_path / "current").symlink_to("v1")
    folder.write(tmp_path / "current", files, {**manifest, "name": "newer"}, force=True)
    assert (tmp_path / "current").is_symlink()
    assert load_manifest(tmp_path / "v1").name == "newer"


def test_failing_in_the_middle_leaves_the_old_folder_and_nothing_else(parts, tmp_path: Path) -> None:
    files, manifest = parts
    output = tmp_path / "model"
    folder.write(output, files, {**manifest, "name": "first"})
    with pytest.raises(ExportError, match="No such file"):
        folder.write(output, [*files, tmp_path / "missing.bin"], manifest, force=True)
    with pytest.raises(TypeError):
        folder.write(output, files, {**manifest, "verification": object()}, force=True)
    assert load_manifest(output).name == "first"
    with pytest.raises(ExportError):
        folder.write(tmp_path / "a" / "b", [tmp_path / "missing.bin"], manifest)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "model"]


def test_a_parent_that_is_a_file_is_one_line(parts, tmp_path: Path) -> None:
    files, manifest = parts
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write"):
        folder.write(tmp_path / "file" / "model", files, manifest)


# Run in a process of its own: writes the folder of argv, under the limits that the test set.
WRITE = """
import json, sys
from pathlib import Path
from export import folder
from export.errors import ExportError
made, output = map(Path, sys.argv[1:])
manifest = json.loads((made / "manifest.json").read_text())
files = [made / name for name in manifest.pop("files")]
{extra}
try:
    folder.write(output, files, manifest, force=True)
except ExportError as error:
    sys.exit(str(error))
"""


def write_elsewhere(made: Path, output: Path, extra: str = "", **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WRITE.format(extra=extra), str(made), str(output)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120, **options
    )


def test_no_room_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    made = make_model(tmp_path / "made")
    with (made / "model.onnx").open("ab") as file:
        file.truncate(1 << 20)

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

    result = write_elsewhere(made, tmp_path / "model", preexec_fn=little_room)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "File too large" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]


def test_disk_full_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    made = make_model(tmp_path / "made")
    extra = (
        "import errno, shutil\n"
        "def full(source, target): raise OSError(errno.ENOSPC, 'No space left on device', target)\n"
        "shutil.copyfile = full"
    )
    result = write_elsewhere(made, tmp_path / "model", extra)
    assert result.stderr == (
        f"cannot write {tmp_path / 'model'}: No space left on device (free some space, or choose another place)\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]


@pytest.mark.parametrize("name", ["sync", "replace"])
def test_killed_while_writing_leaves_the_old_folder_and_the_next_run_cleans_up(
    tmp_path: Path, name: str
) -> None:
    made = make_model(tmp_path / "made")
    output = tmp_path / "model"
    assert write_elsewhere(made, output).returncode == 0
    extra = (
        f"import os, signal\nfolder.files.{name} = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert write_elsewhere(made, output, extra).returncode == -signal.SIGKILL
    check_files(output, load_manifest(output), verify=True)
    assert len(list(tmp_path.glob(".model.*.partial"))) == 1
    assert write_elsewhere(made, output).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "model"]


def test_killed_between_the_two_renames_the_next_run_puts_the_old_folder_back(tmp_path: Path) -> None:
    made = make_model(tmp_path / "made")
    output = tmp_path / "model"
    assert write_elsewhere(made, output).returncode == 0
    extra = (
        "import os, signal\n"
        "rename = os.rename\n"
        "def once(source, target):\n"
        "    if str(source).endswith('.partial'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return rename(source, target)\n"
        "os.rename = once"
    )
    assert write_elsewhere(made, output, extra).returncode == -signal.SIGKILL
    with pytest.raises(ModelError, match="does not exist"):
        load_manifest(output)
    # Even a run that then fails has put it back.
    extra = "files.append(Path('missing.bin'))"
    assert write_elsewhere(made, output, extra).returncode == 1
    check_files(output, load_manifest(output), verify=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "model"]


@pytest.mark.parametrize(
    ("kind", "exact"), [("MatMul", False), ("Gemm", False), ("MatMulIntegerToFloat", True), ("Gather", True)]
)
@pytest.mark.parametrize("inside", [False, True])
def test_the_manifest_says_whether_products_are_exact(
    tmp_path: Path, kind: str, exact: bool, inside: bool
) -> None:
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "weight")
    node = helper.make_node(kind, ["x", "weight"], ["y"])
    if inside:
        node = helper.make_node("If", ["c"], ["y"], then_branch=helper.make_graph([node], "branch", [], []))
    graph = helper.make_graph([node], "graph", [], [], [weight])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    assert folder.seal(tmp_path, {})["exact_products"] is exact
