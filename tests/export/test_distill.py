"""Training a student: it learns, goes on after a kill as if nothing had been, and is clean."""

import json
import lzma
import signal
import subprocess
from pathlib import Path

import pytest

from export.checkpoint import load_model, load_vocabulary
from export.distill.recipe import Recipe, Source, load_recipe
from export.errors import ExportError
from tests.export.distilling import SECRET, VOCABULARY, command, run
from tests.paths import ROOT

pytest.importorskip("scipy", reason="needs the `distill` extra")


@pytest.fixture(scope="module")
def undisturbed(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    result = run(command(place, output, "--evaluation", str(place / "evaluation")))
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(output / "checkpoint")
    return output


def test_the_export_reads_the_checkpoint(undisturbed: Path) -> None:
    model = load_model(undisturbed / "checkpoint")
    assert model.config.hidden_size == 32
    assert len(load_vocabulary(undisturbed / "checkpoint").tokens) == len(VOCABULARY)


def test_evaluation_text_is_left_out_and_counted(undisturbed: Path) -> None:
    with lzma.open(undisturbed / "texts.xz", "rt", encoding="utf-8") as lines:
        assert SECRET not in lines.read()
    record = json.loads((undisturbed / "checkpoint" / "training.json").read_text())
    assert record["corpus"]["lines"]["prose.txt"]["evaluation text: ngram"] == 1
    assert record["step"] == 44


def test_a_killed_run_goes_on_to_the_same_weights(place: Path, undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "killed"
    arguments = command(place, output, "--evaluation", str(place / "evaluation"))
    with subprocess.Popen(
        [*arguments, "--save-seconds", "0"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "step 20 of" in line:
                process.kill()
    assert process.returncode == -signal.SIGKILL
    again = run(arguments)
    assert again.returncode == 0, again.stderr
    assert "resumed at step" in again.stderr
    ours = (output / "checkpoint" / "model.safetensors").read_bytes()
    assert ours == (undisturbed / "checkpoint" / "model.safetensors").read_bytes()


def test_another_recipe_does_not_go_on(place: Path, undisturbed: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.toml"
    changed.write_text((place / "one.toml").read_text().replace("average = 0.5", "average = 0.6"))
    arguments = command(place, undisturbed)
    arguments[arguments.index("--recipe") + 1] = str(changed)
    result = run(arguments)
    assert result.returncode == 2
    assert "another recipe" in result.stderr
    assert "Traceback" not in result.stderr


def test_two_teachers_and_a_dev_score(place: Path, tmp_path: Path) -> None:
    dev = place / "evaluation" / "sts" / "a.tsv"
    arguments = command(place, tmp_path, "--dev", str(dev), "--score-steps", "22", recipe="two.toml")
    result = run([*arguments, "--teacher", str(place / "second")])
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("dev score") == 4  # at the start, twice on the way, and balanced
    record = json.loads((tmp_path / "checkpoint" / "training.json").read_text())
    assert [step for step, _ in record["dev_scores"]] == [0, 22, 44]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({'file = "prose.txt"': 'file = "absent.txt"'}, "absent.txt cannot be read"),
        ({"hidden = 32": "hidden = 33"}, "not divisible by heads"),
        ({"hidden = 32": "hidden = 16"}, "does not fit"),
        ({"layers = [0, 1]": "layers = [0, 2]"}, "the teacher has 2"),
        ({"steps = 16": "stepps = 8"}, "stepps is not a setting"),
        ({"steps = 16": "steps = true"}, "steps is True"),
        ({"steps = 16": "steps ="}, "not valid TOML"),
        ({"steps = 20": "steps = 0"}, "steps=0, noise=0.1"),
        ({"noise = 0.1": "noise = 1.5"}, "noise=1.5"),
        ({"words = 5": "words = -5"}, "words=-5"),
        ({"noise = 0.1": ""}, "noise is missing"),
        (
            {
                "[[noise_finetuning]]": "[noise_finetuning]",
                "noise = 0.1\n\n[noise_finetuning]\nsteps = 8\n": "",
            },
            "expected tables",
        ),
        ({"heads = 4": "second_texts = 9"}, "a second teacher goes with second_texts"),
    ],
)
def test_a_wrong_recipe_is_one_line(place: Path, tmp_path: Path, change: dict[str, str], reason: str) -> None:
    recipe = (place / "one.toml").read_text()
    for old, new in change.items():
        assert old in recipe
        recipe = recipe.replace(old, new)
    (tmp_path / "recipe.toml").write_text(recipe)
    from export.distill import pipeline

    job = pipeline.DistillJob(
        place / "texts", (place / "first",), tmp_path / "run", tmp_path / "recipe.toml", threads=1
    )
    with pytest.raises(ExportError, match=reason):
        pipeline.distill(job, lambda line: None)


def test_settings_need_sources(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("seed = 3\n")
    with pytest.raises(ExportError, match="names no text"):
        load_recipe(tmp_path / "empty.toml")
    assert Recipe(sources=(Source("a.txt"),)).hidden == 512
