"""The onnxruntime session: graphs that are not ours, forks, telemetry."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Embedder, JinaBertError, ModelError, OutOfMemoryError, OutputError
from runtime.bundled import bundled_model
from tests.paths import ROOT
from tests.tiny import make_model, write_manifest


def fresh(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter that must end by itself."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x08" * 500])
def test_a_graph_that_onnxruntime_cannot_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes
) -> None:
    folder = make_model(tmp_path / "model")
    (folder / "model.onnx").write_bytes(content)
    write_manifest(folder)
    with pytest.raises(ModelError, match=r"model\.onnx: ") as caught:
        Embedder(folder)
    assert "\n" not in str(caught.value)
    assert "export the model folder again" in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_graph_with_other_inputs(tmp_path: Path) -> None:
    import onnx

    folder = make_model(tmp_path / "model")
    model = onnx.load(folder / "model.onnx")
    model.graph.input[0].name = "ids"
    model.graph.node[0].input[1] = "ids"
    onnx.save(model, folder / "model.onnx")
    write_manifest(folder)
    with pytest.raises(ModelError, match="inputs and outputs"):
        Embedder(folder)


def test_a_dimension_that_is_not_the_graphs(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", dimension=32, hidden_size=32)
    with pytest.raises(ModelError, match=r"gave \[1, 3, 16\].*32"):
        Embedder(folder).encode("hello")


def test_ids_that_the_table_lacks_are_an_error_and_quiet(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_model(tmp_path / "model")
    with (folder / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("zebra\n")
    write_manifest(folder, vocabulary=1000)
    with pytest.raises(ModelError, match=r"model\.onnx: failed on a batch of 1 x 3 tokens"):
        Embedder(folder).encode("zebra")
    assert capfd.readouterr().err == ""


def test_nan_is_never_returned(tmp_path: Path) -> None:
    with Embedder(make_model(tmp_path / "model", poison=True), threads=1) as embedder:
        assert np.isfinite(embedder.encode(["a", "b"])).all()
        with pytest.raises(OutputError, match=r"NaN or infinity for texts\[2\]"):
            embedder.encode(["a", "b", "c z", "d"])
        with pytest.raises(OutputError, match="token"):
            embedder.encode_tokens("z")
        with pytest.raises(OutputError, match=r"chunks\[0\]"):
            embedder.encode_chunks("a b z b", 2)


def test_lack_of_memory_is_an_error_of_its_own(tiny: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Exhausted:
        def run(self, *_: object) -> None:
            raise RuntimeError("bad allocation: Failed to allocate memory for requested buffer of size 99")

    monkeypatch.setattr(tiny.model.session, "_handle", Exhausted())
    with pytest.raises(OutOfMemoryError, match="lower max_length or batch_tokens"):
        tiny.encode("hello")


def test_a_closed_embedder_says_so(tiny_folder: Path) -> None:
    with Embedder(tiny_folder) as embedder:
        embedder.encode("hello")
    with pytest.raises(JinaBertError, match="closed"):
        embedder.encode("hello")
    embedder.close()


FORK = """
import os, sys
from runtime import Embedder
embedder = Embedder(sys.argv[1], threads=2)
texts = ["hello", "world", "a b c d " * 500]  # the last one is work enough for onnxruntime's threads to share
options = {{"max_length": 3000}}
before = embedder.encode(texts, **options)
child = os.fork()
if child == 0:
    {child}
    sys.exit(0)  # by way of all destructors
status = os.waitpid(child, 0)[1]
assert os.waitstatus_to_exitcode(status) == 0, status
assert (embedder.encode(texts, **options) == before).all()
print("both")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(
    "child",
    [
        "assert (embedder.encode(texts, **options) == before).all()",
        "embedder.close()",
        "pass",
        "import threading; work = lambda: embedder.encode(texts, **options); "
        "threads = [threading.Thread(target=work) for _ in range(4)]; "
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]",
    ],
    ids=["encode", "close", "nothing", "threads"],
)
def test_a_forked_child_works_and_ends(tiny_folder: Path, child: str) -> None:
    result = fresh(FORK.format(child=child), str(tiny_folder), PYTHONWARNINGS="ignore::DeprecationWarning")
    assert (result.stdout, result.returncode) == ("both\n", 0), result.stderr


BUSY = """
import os, sys, threading
from runtime import Embedder
embedder = Embedder(sys.argv[1], threads=2)
texts, options = ["hello", "a b c d " * 300], {"max_length": 3000}
before = embedder.encode(texts, **options)
stop = threading.Event()
def work():
    while not stop.is_set():
        embedder.encode(texts, **options)
worker = threading.Thread(target=work)
worker.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        sys.exit(0 if (embedder.encode(texts, **options) == before).all() else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
worker.join()
print("all")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forks_while_another_thread_encodes(tiny_folder: Path) -> None:
    result = fresh(BUSY, str(tiny_folder), PYTHONWARNINGS="ignore::DeprecationWarning")
    assert (result.stdout, result.returncode) == ("all\n", 0), result.stderr


def first_number(folder: str) -> float:
    with Embedder(folder, threads=1) as embedder:
        return float(embedder.encode("hello")[0])


def test_spawned_processes_agree(tiny: Embedder, tiny_folder: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        numbers = pool.map(first_number, [str(tiny_folder)] * 4)
    assert numbers == [float(tiny.encode("hello")[0])] * 4


def test_telemetry_is_off_before_onnxruntime_is_imported_unless_the_user_set_it(tiny_folder: Path) -> None:
    code = (
        "import os, sys\n"
        "class Spy:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'onnxruntime': print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Spy())\n"
        "from runtime import Embedder\n"
        "Embedder(sys.argv[1]).encode('hello')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    for extra, expected in (({}, "1\n"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0\n")):
        result = subprocess.run(
            [sys.executable, "-c", code, str(tiny_folder)],
            cwd=ROOT,
            env=environment | extra,
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout == expected


class Opened(list[dict[str, str]]):
    """The settings of each session that onnxruntime opens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        import onnxruntime

        plain = onnxruntime.InferenceSession

        def record(path: str, options: Any, **rest: Any) -> Any:
            names = ("session.disable_prepacking", "session.use_env_allocators")
            found = {}
            for name in names:
                try:
                    found[name] = options.get_session_config_entry(name)
                except RuntimeError:
                    found[name] = "0"
            self.append(found)
            return plain(path, options, **rest)

        monkeypatch.setattr(onnxruntime, "InferenceSession", record)

    @property
    def packed(self) -> list[bool]:
        """Whether each packs its weights."""
        return [entry["session.disable_prepacking"] == "0" for entry in self]


def test_weights_are_packed_from_the_second_run_on_and_no_bit_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = Opened(monkeypatch)
    texts = ["How is the weather today?", "bread", "a b c " * 90]
    with Embedder(threads=2) as embedder:
        embedder.warmup()
        assert opened.packed == [False, True]
        wanted = [embedder.encode(text) for text in texts]
    for text, vector in zip(texts, wanted, strict=True):
        del opened[:]
        with Embedder(threads=2) as embedder:
            first = embedder.encode(text)
            assert opened.packed == [False]
            second = embedder.encode(text)
            embedder.encode(text)
            assert opened.packed == [False, True]
        np.testing.assert_array_equal(first, vector)
        np.testing.assert_array_equal(second, vector)


def test_a_text_in_blocks_has_packed_weights_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch)
    with Embedder() as embedder:
        embedder.encode("a b c d " * 260)
    assert opened.packed == [False, True]


def test_products_of_floats_have_packed_weights_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model(tmp_path / "model")  # a manifest that says nothing of exact products
    opened = Opened(monkeypatch)
    with Embedder(folder) as embedder:
        embedder.encode("hello")
        embedder.encode("hello")
    assert opened.packed == [True]


def test_a_folder_that_is_gone_before_the_second_run(tmp_path: Path) -> None:
    folder = shutil.copytree(bundled_model(), tmp_path / "model")
    with Embedder(folder, threads=1) as embedder:
        first = embedder.encode("hello")
        (folder / "model.onnx").unlink()
        np.testing.assert_array_equal(embedder.encode("hello"), first)


def test_a_folder_that_is_another_model_before_the_second_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(bundled_model(), tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    opened = Opened(monkeypatch)
    with Embedder("model", threads=1) as embedder:
        first = embedder.encode("hello")
        monkeypatch.chdir("/")
        shutil.copy(folder / "model.onnx", tmp_path / "new")
        (tmp_path / "new").replace(folder / "model.onnx")
        np.testing.assert_array_equal(embedder.encode("hello"), first)
        assert opened.packed == [False]  # what was read at first serves


def test_first_runs_of_several_threads_at_once() -> None:
    with Embedder(threads=1) as plain:
        wanted = plain.encode("hello")
    for _ in range(3):
        with Embedder(threads=1) as embedder, ThreadPoolExecutor(8) as pool:
            for found in pool.map(embedder.encode, ["hello"] * 32):
                np.testing.assert_array_equal(found, wanted)


def test_subnormal_numbers_of_the_users_threads() -> None:
    """onnxruntime can make processors flush them to zero, in the thread that opens a session for good."""
    code = """
import threading
import numpy as np
from runtime import Embedder

found = []

def subnormal():
    found.append(np.float32(1e-30) * np.float32(1e-10) > 0 and (np.full(64, 1e-40, np.float32) * 2 > 0).all())

def waits():
    subnormal()
    done.wait()
    subnormal()

done = threading.Event()
before = threading.Thread(target=waits)
before.start()
subnormal()
with Embedder() as embedder:
    texts = ["word " * length for length in (3, 300, 1500)]
    embedder.encode(texts)
    subnormal()
    other = threading.Thread(target=lambda: (embedder.encode(texts[:2]), subnormal()))
    other.start()
    other.join()
done.set()
before.join()
after = threading.Thread(target=subnormal)
after.start()
after.join()
print(len(found), all(found))
"""
    done = fresh(code)
    assert (done.stdout.split(), done.stderr) == (["6", "True"], "")
