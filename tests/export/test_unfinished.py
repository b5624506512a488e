"""An export that is cut off goes on where it was, gives the same bytes, and never uses work of something else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from export.__main__ import main
from export.errors import ExportError
from export.unfinished import Unfinished, open_unfinished
from tests.export.conftest import WORDS, tiny_fields, tiny_state, write_checkpoint
from tests.paths import ROOT


def outliers() -> dict[str, object]:
    """Weights that int8 needs repairs for."""
    state = tiny_state(tiny_fields())
    for name in list(state):
        if name.endswith(("LayerNorm.weight", "layernorm.weight")):
            state[name][3], state[name][17] = 30.0, -25.0
    return state


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of short texts that needs repairs, and verification texts."""
    folder = tmp_path_factory.mktemp("place")
    checkpoint = write_checkpoint(folder / "hard", tiny_fields(), outliers())
    (checkpoint / "tokenizer_config.json").write_text('{"model_max_length": 600}')
    chance = np.random.default_rng(0)
    words = [word for word in WORDS if not word.startswith("##")]
    texts = [" ".join(chance.choice(words, length)) for length in chance.integers(1, 30, 1000)]
    (folder / "texts.txt").write_text("\n".join(texts))
    return folder


def arguments(place: Path, output: Path) -> list[str]:
    options = ["--texts", str(place / "texts.txt"), "--min-cosine", "0.999", "--compare"]
    return [str(place / "hard"), "--output", str(output), *options]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(place: Path) -> dict[str, bytes]:
    """The model folder of an export that nothing interrupts."""
    assert main(arguments(place, place / "whole")) == 0
    assert not (place / "whole.unfinished").exists()
    made = content(place / "whole")
    assert json.loads(made["manifest.json"])["verification"]["quantization"]["repaired"]
    return made


def run(place: Path, output: Path, until: str | None = None, number: int = signal.SIGKILL) -> tuple[int, str]:
    """Run the command, and send it a signal as soon as a line of its progress holds a text."""
    process = subprocess.Popen(
        [sys.executable, "-m", "export", *arguments(place, output)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = []
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line)
        if until is not None and until in line:
            process.send_signal(number)
            until = None
    process.stderr.close()
    return process.wait(timeout=60), "".join(said)


def test_killed_again_and_again_it_goes_on_and_gives_the_same_bytes(
    place: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "model"
    before = 0
    for until in ("in int8 alone: 10 of", "8 tokens: difference", "making optimum's int8", "weighing tokens"):
        status, said = run(place, output, until)
        assert status == -signal.SIGKILL, said
        assert [path.name for path in tmp_path.iterdir()] == ["model.unfinished"]
        stages = said.count("taken from")
        assert stages > before or before == 0, said
        before = stages
    status, said = run(place, output)
    assert status == 0, said
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert content(output) == whole
    for stage in ("repairs", "fp32", "fp32-vectors", "int8-1", "optimum"):
        assert f"{stage}: taken from" in said
    assert "observing the inputs" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_what_is_kept(place: Path, tmp_path: Path, number: int) -> None:
    status, said = run(place, tmp_path / "model", "comparing int8 with fp32 on", number)
    assert status == 130, said
    assert f"is kept in {tmp_path / 'model.unfinished'}: the same command goes on from there" in said
    assert said.splitlines()[-1] == "python -m export: interrupted; no model folder was written"
    assert [path.name for path in tmp_path.iterdir()] == ["model.unfinished"]
    assert not (tmp_path / "model.unfinished" / "work").exists()


def change_weights(place: Path, options: list[str]) -> None:
    from safetensors.torch import save_file

    state = outliers()
    state["embeddings.word_embeddings.weight"][7] *= 1.25
    save_file(state, place / "hard" / "model.safetensors")


def change_texts(place: Path, options: list[str]) -> None:
    path = place / "texts.txt"
    path.write_text(path.read_text() + "\nrain")


def change_bound(place: Path, options: list[str]) -> None:
    options[options.index("0.999")] = "0.99"


def change_fingerprint(place: Path, options: list[str]) -> None:
    """As another version of the code would."""
    path = Path(options[2] + ".unfinished") / "fingerprint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"code": "another"}))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_weights, "files"),
        (change_texts, "texts"),
        (change_bound, "settings"),
        (change_fingerprint, "code"),
    ],
)
def test_work_of_something_else_is_not_used(
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, list[str]], None],
    named: str,
) -> None:
    copy = Path(shutil.copytree(place, tmp_path / "place"))
    options = arguments(copy, tmp_path / "model")
    with monkeypatch.context() as patched:
        patched.setattr("export.pipeline.int8.prove_int8", interrupted)
        assert main(options) == 130
    capsys.readouterr()
    change(copy, options)
    assert main(options) == 0
    said = capsys.readouterr().err
    assert f"is not used, since it was made from other {named}: starting anew" in said
    assert "taken from" not in said
    if change is change_weights:
        return
    alone = [*options[:2], str(tmp_path / "alone"), *options[3:]]
    assert main(alone) == 0
    assert content(tmp_path / "model") == content(tmp_path / "alone")


def interrupted(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt


def test_a_refusal_leaves_nothing_even_after_an_interruption(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise ExportError("no")

    options = arguments(place, tmp_path / "new" / "model")
    for stage, status in ((interrupted, 130), (refused, 2)):
        monkeypatch.setattr("export.pipeline.int8.prove_int8", stage)
        assert main(options) == status
        assert (tmp_path / "new" / "model.unfinished").exists() == (status == 130)
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]  # was there before the second run
    assert list((tmp_path / "new").iterdir()) == []


def test_a_damaged_stage_is_made_again(tmp_path: Path) -> None:
    unfinished = Unfinished(tmp_path, print)
    for _ in range(2):
        assert unfinished.figures("a", lambda: {"x": 0.1}) == {"x": 0.1}
        np.testing.assert_array_equal(unfinished.arrays("b", lambda: {"x/y": np.eye(9)})["x/y"], np.eye(9))
        for name in ("a.json", "b.npz"):
            path = tmp_path / name
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "b.npz").write_bytes(b"")
    assert "x" in unfinished.arrays("b", lambda: {"x": np.eye(2)})


def test_two_exports_to_the_same_place_do_not_meet(tmp_path: Path) -> None:
    with open_unfinished(tmp_path / "model", {}, print) as unfinished:
        unfinished.figures("a", dict)
        with (
            pytest.raises(ExportError, match="another export to .*model is at work: wait for it"),
            open_unfinished(tmp_path / "model", {}, print),
        ):
            pass
        assert (unfinished.folder / "a.json").is_file()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_that_name_that_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "model.unfinished").mkdir()
    (tmp_path / "model.unfinished" / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match="is in the way"), open_unfinished(tmp_path / "model", {}, print):
        pass
    assert (tmp_path / "model.unfinished" / "thesis.txt").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written_is_known_at_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ExportError, match="cannot write"), open_unfinished(tmp_path / "model", {}, print):
        pass
