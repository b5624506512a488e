"""Training a student: it starts as its teacher, learns, goes on after a kill as if nothing had been, and is clean."""

import dataclasses
import json
import lzma
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import BertConfig, BertModel

from export.checkpoint import load_model, load_vocabulary
from export.distill import bundle, dev, losses, teachers
from export.distill.balance import balance
from export.distill.corpus import FULL_STOP, batches, load_corpus, sentence_end, split_sentence
from export.distill.dequantize import gather_copies, load_model_folder
from export.distill.initialize import attention_distances, freeze_spare_dimensions, init_from_teacher
from export.distill.noise import noise
from export.distill.recipe import NoiseFinetuning, Recipe, Source, load_recipe
from export.distill.training import rate
from export.errors import ExportError
from export.folder import save_model
from export.graph import build
from runtime.tokenization.wordpiece import WordPiece
from tests.paths import ROOT

pytest.importorskip("scipy", reason="needs the `distill` extra")

SPECIAL = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(120)]
VOCABULARY = [*SPECIAL, *WORDS, "w"]
SECRET = "waa wab wac wad wae waf wag wah wai waj"

RECIPE = """
hidden = 32
heads = 4
layers = [0, 1]
intermediate = 24
batch_tokens = 128
document_tokens = [48, 300]
long_every = 3
steps = 16
warmup_steps = 2
average = 0.5
{more}

[[noise_finetuning]]
steps = 20
noise = 0.1

[[noise_finetuning]]
steps = 8
noise = 0.2
words = 5

[[sources]]
file = "prose.txt"
prose = true

[[sources]]
file = "lines.txt.xz"
texts = 150
"""


def make_teacher(folder: Path, seed: int, width: int = 16) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    tokenizer = Tokenizer(
        models.WordPiece({token: i for i, token in enumerate(VOCABULARY)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 102), ("[CLS]", 101))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def make_evaluation(folder: Path) -> Path:
    (folder / "sts").mkdir(parents=True)
    (folder / "sts" / "a.tsv").write_text(f"3.0\t{SECRET}\twba wbb\n1.0\twca wcb wcc\twda wdb\n")
    retrieval = folder / "retrieval" / "r"
    retrieval.mkdir(parents=True)
    for name in ("corpus", "queries"):
        (retrieval / f"{name}.jsonl").write_text(
            json.dumps({"_id": "1", "text": "wea web wec wed wee"}) + "\n"
        )
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers, a corpus with a text that must not be in it, evaluation text, recipes."""
    folder = tmp_path_factory.mktemp("distill")
    make_teacher(folder / "first", 1)
    make_teacher(folder / "second", 2, width=20)
    make_evaluation(folder / "evaluation")
    rng = np.random.default_rng(3)

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(low, high)))

    (folder / "texts").mkdir()
    prose = [text(8, 40) for _ in range(40)]
    prose[7] = f"wzz {SECRET} wzz"
    (folder / "texts" / "prose.txt").write_text("\n".join(prose) + "\n")
    lines = [text(4, 12) for _ in range(300)]
    (folder / "texts" / "lines.txt.xz").write_bytes(lzma.compress("\n".join(lines).encode()))
    (folder / "one.toml").write_text(RECIPE.format(more=""))
    (folder / "two.toml").write_text(RECIPE.format(more="second_texts = 60"))
    return folder


def command(place: Path, output: Path, *more: str, recipe: str = "one.toml") -> list[str]:
    return [
        *(sys.executable, "-W", "error", "-m", "export.distill", str(place / "texts")),
        *("--teacher", str(place / "first"), "--recipe", str(place / recipe), "--output", str(output)),
        *("--threads", "1", *more),
    ]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


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


def test_the_mlp_of_the_student_is_the_teachers(place: Path) -> None:
    """GELU(gate) * up with a constant dimension is the teacher's GELU MLP."""
    teacher = teachers.first_teacher(place / "first")
    recipe = load_recipe(place / "one.toml")
    student = init_from_teacher(teacher, recipe, len(VOCABULARY), torch.ones(2, 2))
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    lifted = functional.pad(x, (0, 16))
    lifted[:, 16] = recipe.constant
    for old, new in zip(teacher.encoder.layer, student.encoder.layer, strict=True):
        both = new.mlp.gated_layers(lifted)
        units = functional.gelu(both[:, :24]) * both[:, 24:]
        assert torch.allclose(units, functional.gelu(old.intermediate.dense(x)), atol=1e-5)
        out = new.mlp.wo(units)
        assert torch.allclose(out[:, :16], old.output.dense(units), atol=1e-5)
        assert out[:, 16].tolist() == pytest.approx([-recipe.constant] * 5)


def test_heads_that_look_nearby_get_the_steeper_slopes(place: Path) -> None:
    looking = teachers.first_teacher(place / "first", attentions=True)
    ids = [torch.tensor([101, *range(110, 140), 102])]
    distances = attention_distances(looking, ids)
    assert distances.shape == (2, 2)
    student = init_from_teacher(
        looking, load_recipe(place / "one.toml"), len(VOCABULARY), torch.tensor([[9.0, 1.0]] * 2)
    )
    values = student.encoder.layer[0].attention.self.value.weight
    old = looking.encoder.layer[0].attention.self.value.weight
    # Of 4 slopes the gentlest two are in use, slots 2 and 3; head 1 looks nearer.
    assert torch.equal(values[16:24, :16], old[8:16])
    assert torch.equal(values[24:32, :16], old[:8])


def test_long_documents_are_seen_in_windows(place: Path) -> None:
    teacher = teachers.first_teacher(place / "first")
    ids = torch.randint(104, len(VOCABULARY), (2, 600), generator=torch.Generator().manual_seed(1))
    states = teachers.token_targets(teacher, ids, torch.ones_like(ids))
    assert states.shape == (2, 600, 16)
    short = teachers.token_targets(teacher, ids[:, :50], torch.ones(2, 50, dtype=torch.long))
    assert short.shape == (2, 50, 16)


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    states = torch.randn(6, 9, 16, generator=torch.Generator().manual_seed(1))
    target = losses.Target(states, torch.ones(6, 9, dtype=torch.long))
    parts = losses.text_losses(functional.pad(states, (0, 16)), target, 0.05)
    assert {name: float(part) for name, part in parts.items()} == pytest.approx(
        {"token": 0, "vector": 0, "similarity": 0}, abs=1e-5
    )


def test_a_second_teacher_has_a_say_in_how_similar_texts_are() -> None:
    rng = torch.Generator().manual_seed(1)
    first, second = (functional.normalize(torch.randn(7, n, generator=rng), dim=1) for n in (16, 5))
    wanted = losses.mixed(first, second, 0.4)
    assert torch.allclose(wanted, 0.6 * first @ first.T + 0.4 * second @ second.T)
    target = losses.Target(first[:, None], torch.ones(7, 1, dtype=torch.long))
    parts = losses.text_losses(first[:, None], target, 0.05, wanted)
    assert parts["similarity"] > 0.01
    assert parts["vector"] == pytest.approx(0, abs=1e-5)


def test_training_leaves_the_spare_dimensions_empty(place: Path) -> None:
    teacher = teachers.first_teacher(place / "first")
    student = init_from_teacher(teacher, load_recipe(place / "one.toml"), len(VOCABULARY), torch.ones(2, 2))
    freeze_spare_dimensions(student, 16)
    ids = torch.randint(104, len(VOCABULARY), (3, 20), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.01, weight_decay=0.0)
    for _ in range(3):
        states = student(ids, torch.ones_like(ids)).last_hidden_state
        states[..., :8].square().sum().backward()
        optimizer.step()
    with torch.no_grad():
        student.eval()
        before = init_from_teacher(
            teacher, load_recipe(place / "one.toml"), len(VOCABULARY), torch.ones(2, 2)
        )
        trained = student(ids, torch.ones_like(ids)).last_hidden_state
        assert not torch.allclose(
            trained[..., :16], before(ids, torch.ones_like(ids)).last_hidden_state[..., :16], atol=0.01
        )
    assert trained[..., 16:].abs().max() == 0


def test_the_learning_rate_falls_again_with_each_noise_stage() -> None:
    recipe = Recipe((Source("a.txt"),), steps=100, warmup_steps=10, decay=0.5)
    recipe = dataclasses.replace(
        recipe, noise_finetuning=(NoiseFinetuning(20, 0.1), NoiseFinetuning(10, 0.2, 1e-5))
    )
    rates = [rate(step, recipe) for step in range(130)]
    assert max(rates[:100]) == recipe.learning_rate
    assert rates[99] == pytest.approx(recipe.learning_rate / 50)
    assert rates[100] == 8e-5
    assert rates[119] == pytest.approx(8e-5 / 20)
    assert rates[120] == 1e-5
    assert rates[129] == pytest.approx(1e-6)


def test_noise_is_as_large_as_said_for_each_token_and_ends(place: Path) -> None:
    student = init_from_teacher(
        teachers.first_teacher(place / "first"),
        load_recipe(place / "one.toml"),
        len(VOCABULARY),
        torch.ones(2, 2),
    )
    product = student.encoder.layer[0].attention.self.query
    product.weight.data.copy_(torch.eye(32))
    product.bias.data.zero_()
    x = (
        torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(1))
        * torch.tensor([1.0, 50, 3])[:, None]
    )
    with torch.no_grad():
        with noise(student, 0.05, seed=7):
            disturbed = product(x)
        with noise(student, 0.05, seed=7):
            assert torch.equal(product(x), disturbed)
        with noise(student, 0.05, seed=8):
            assert not torch.equal(product(x), disturbed)
        assert torch.equal(product(x), x)
    relative = (disturbed - x).abs().amax(-1) / x.abs().amax(-1)
    assert relative.max() <= 0.0501
    assert relative.min() > 0.03


def test_the_best_window_of_a_document_is_what_counts() -> None:
    states = torch.randn(3, 400, 16, generator=torch.Generator().manual_seed(1))
    query = torch.nn.functional.one_hot(torch.tensor([3]), 16).float()
    states[1, 200:300] = query  # in the middle of one document
    scores = losses.best_windows(query, states)
    assert scores.argmax().item() == 1
    assert scores[0, 1].item() == pytest.approx(1.0)


def test_batches_are_the_same_from_any_step(place: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(load_recipe(place / "one.toml"), second_texts=50)
    corpus = load_corpus(
        place / "texts", recipe, WordPiece(VOCABULARY), None, tmp_path / "texts.xz", lambda line: None
    )
    every = [next(stream) for stream in [batches(corpus, recipe)] for _ in range(30)]
    later = [next(stream) for stream in [batches(corpus, recipe, first=11)] for _ in range(19)]
    for one, other in zip(every[11:], later, strict=True):
        assert one.texts == other.texts
        assert [d.tolist() for d in one.documents] == [d.tolist() for d in other.documents]
    assert {batch.second for batch in every if not batch.documents} == {True, False}
    for batch in every:
        for document, needle in zip(batch.documents, batch.texts, strict=False):
            assert len(document) in recipe.document_tokens
            assert document[0] == 101
            assert document[-1] == 102
            own = corpus.tokens(needle, len(document) // 2)[1:-1].tolist()
            assert any(document[i : i + len(own)].tolist() == own for i in range(len(document)))


def test_a_first_sentence_and_the_rest_make_a_pair(place: Path, tmp_path: Path) -> None:
    ids = np.array([101, *range(200, 210), FULL_STOP, *range(300, 330), 102])
    first, rest = split_sentence(ids, 20)
    assert first.tolist() == [101, *range(200, 210), FULL_STOP, 102]
    assert rest.tolist() == [101, *range(300, 318), 102]
    assert sentence_end(ids[:30]) is None  # too little follows
    assert (
        sentence_end(np.array([101, 200, FULL_STOP, *range(300, 330), 102])) is None
    )  # too short a sentence
    recipe = dataclasses.replace(load_recipe(place / "one.toml"), pairs_every=2, held_out_every=10)
    corpus = load_corpus(
        place / "texts", recipe, WordPiece(VOCABULARY), None, tmp_path / "texts.xz", lambda line: None
    )
    assert len(corpus.held_out) == 4
    assert not set(corpus.held_out) & set(corpus.texts)
    corpus.ids[corpus.offsets[3] + 9] = FULL_STOP
    corpus.ids[corpus.offsets[5] + 9] = FULL_STOP
    made = [next(stream) for stream in [batches(corpus, recipe)] for _ in range(12)]
    paired = [batch for batch in made if batch.pairs]
    assert len(paired) >= 3
    assert all(sentence_end(corpus.tokens(text, 999)) == 10 for batch in paired for text in batch.texts)


def test_a_pair_that_belongs_together_is_wanted() -> None:
    states = torch.eye(6, 16)[:, None]
    target = losses.Target(states, torch.ones(6, 1, dtype=torch.long))
    right = losses.pair_losses(states, target, states, target, 0.05)
    wrong = losses.pair_losses(states, target, states.flip(0), target, 0.05)
    assert right["pair"] < 1e-5
    assert right["contrast"] < 1e-5
    assert wrong["contrast"] > 5
    assert wrong["pair"] > 5


def test_the_rank_of_the_own_passage_is_what_counts() -> None:
    similarity = torch.tensor([[0.9, 0.1], [0.8, 0.7]])
    assert dev.ndcg(similarity) == pytest.approx((1 + 1 / np.log2(3)) / 2)


def test_balancing_keeps_similarities_and_shrinks_activations(place: Path) -> None:
    teacher = teachers.first_teacher(place / "first")
    for layer in teacher.encoder.layer:  # channels that are large for every token, as BERT has them
        layer.attention.output.LayerNorm.bias.data[3] = 9.0
        layer.attention.output.LayerNorm.weight.data[3] = 4.0
        layer.output.LayerNorm.bias.data[5] = -7.0
    recipe = dataclasses.replace(load_recipe(place / "one.toml"), hidden=48)
    student = init_from_teacher(teacher, recipe, len(VOCABULARY), torch.ones(2, 2)).eval()
    ids = torch.randint(104, len(VOCABULARY), (40, 30), generator=torch.Generator().manual_seed(1))
    inputs: list[torch.Tensor] = []
    student.encoder.layer[1].mlp.gated_layers.register_forward_pre_hook(
        lambda _, given: inputs.append(given[0])
    )

    def run(model: torch.nn.Module) -> torch.Tensor:
        states: torch.Tensor = model(ids, torch.ones_like(ids)).last_hidden_state
        return states

    with torch.no_grad():
        before = teachers.mean(run(student), torch.ones_like(ids))
        balance(student, run, 16)
        after = teachers.mean(run(student), torch.ones_like(ids))
    assert (before @ before.T - after @ after.T).abs().max() < 0.01
    assert inputs[0].abs().max() > 6
    others = [channel for channel in range(48) if channel != 16]
    assert inputs[-1][..., others].abs().max() < 4


def test_a_unit_with_far_larger_weights_is_split(place: Path) -> None:
    teacher = teachers.first_teacher(place / "first")
    for layer in teacher.encoder.layer:
        layer.output.dense.weight.data[:, 4] *= 10
    # A dimension too few to spread anything, and units to spare.
    recipe = dataclasses.replace(load_recipe(place / "one.toml"), hidden=18, heads=2, intermediate=400)
    student = init_from_teacher(teacher, recipe, len(VOCABULARY), torch.ones(2, 2)).eval()
    ids = torch.randint(104, len(VOCABULARY), (40, 30), generator=torch.Generator().manual_seed(1))

    def run(model: torch.nn.Module) -> torch.Tensor:
        states: torch.Tensor = model(ids, torch.ones_like(ids)).last_hidden_state
        return states

    def largest() -> float:
        return max(float(layer.mlp.wo.weight.detach().abs().max()) for layer in student.encoder.layer)

    with torch.no_grad():
        before, weight = teachers.mean(run(student), torch.ones_like(ids)), largest()
        balance(student, run, 16)
        after = teachers.mean(run(student), torch.ones_like(ids))
    assert torch.allclose(before, after, atol=1e-4)
    assert largest() < 0.7 * weight


def test_settings_need_sources(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("seed = 3\n")
    with pytest.raises(ExportError, match="names no text"):
        load_recipe(tmp_path / "empty.toml")
    assert Recipe(sources=(Source("a.txt"),)).hidden == 512


def test_a_bundle_trains_elsewhere_and_its_result_is_finished_here(place: Path, tmp_path: Path) -> None:
    """The extracted bundle needs nothing of the repository, the corpus or the teachers, and trains the same student."""
    dev_pairs = place / "evaluation" / "sts" / "a.tsv"
    prepare = command(place, tmp_path / "here", "--dev", str(dev_pairs), recipe="two.toml")
    written = run([*prepare, "--teacher", str(place / "second"), "--prepare", str(tmp_path / "b.tar.xz")])
    assert written.returncode == 0, written.stderr
    assert not (tmp_path / "here" / "checkpoint").exists()
    with tarfile.open(tmp_path / "b.tar.xz") as tar:
        tar.extractall(tmp_path / "b", filter="data")
    elsewhere = [
        sys.executable,
        "-W",
        "error",
        "train.py",
        "--output",
        str(tmp_path / "run"),
        "--threads",
        "1",
    ]
    trained = subprocess.run(
        [*elsewhere, "--parts", str(tmp_path / "parts"), "--score-steps", "22"],
        cwd=tmp_path / "b",
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert trained.returncode == 0, trained.stderr
    assert "step 44 of 44" in trained.stderr
    finish = [sys.executable, "-W", "error", "-m", "export.distill", "--bundle", str(tmp_path / "b")]
    finished = run([*finish, "--output", str(tmp_path / "there"), "--result", str(tmp_path / "parts")])
    assert finished.returncode == 0, finished.stderr
    assert "weights of step 44" in finished.stderr
    record = json.loads((tmp_path / "there" / "checkpoint" / "training.json").read_text())
    assert [step for step, _ in record["dev_scores"]] == [0, 22, 44]
    assert load_model(tmp_path / "there" / "checkpoint").config.hidden_size == 32
    (tmp_path / "parts" / "weights.000.part").write_bytes(b"cut off")
    damaged = run([*finish, "--output", str(tmp_path / "there"), "--result", str(tmp_path / "parts")])
    assert damaged.returncode == 2
    assert "1 parts do not make a whole" in damaged.stderr


def test_weights_come_home_in_parts(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(1)
    weights = {
        "embeddings.word_embeddings.weight": torch.randn(50, 16, generator=rng),
        "a": torch.randn(7, generator=rng),
    }
    files = bundle.write_parts(weights, {"step": 3}, tmp_path, 500)
    assert len(files) > 1
    assert all(file.stat().st_size <= 500 for file in files)
    found, record = bundle.read_parts(tmp_path)
    assert record == {"step": 3}
    assert torch.allclose(found["a"], weights["a"], atol=1e-3)
    table = weights["embeddings.word_embeddings.weight"]
    assert (found["embeddings.word_embeddings.weight"] - table).abs().max() <= table.abs().max() / 254 * 1.01
    files[0].unlink()
    with pytest.raises(ExportError, match="do not make a whole"):
        bundle.read_parts(tmp_path)


def test_fewer_dimensions_keep_what_is_similar() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((200, 5)) @ rng.standard_normal((5, 40))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    fewer = bundle.project(vectors, 6).astype(np.float32)
    assert fewer.shape == (200, 6)
    assert np.abs(fewer @ fewer.T - vectors.astype(np.float32) @ vectors.astype(np.float32).T).max() < 0.005


def test_a_bundle_of_more_than_the_limit_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "LIMIT", 1 << 10)
    (tmp_path / "texts.xz").write_bytes(b"")
    with pytest.raises(ExportError, match=r"would pass 0 MiB \(train.py|would pass 0 MiB \(code"):
        bundle.write(
            tmp_path / "b.tar.xz",
            run=tmp_path,
            recipe=place / "one.toml",
            teacher=place / "first",
            second=None,
            vocabulary=VOCABULARY,
            dev=None,
            start=None,
        )
    assert not list(tmp_path.glob("b.tar*"))


def test_a_model_folder_can_be_trained_further(place: Path, tmp_path: Path) -> None:
    teacher = teachers.first_teacher(place / "first")
    for layer in teacher.encoder.layer:
        layer.attention.output.LayerNorm.bias.data[3] = 9.0
        layer.output.LayerNorm.bias.data[5] = -7.0
    recipe = dataclasses.replace(load_recipe(place / "one.toml"), hidden=48)
    student = init_from_teacher(teacher, recipe, len(VOCABULARY), torch.ones(2, 2)).eval()
    ids = torch.randint(104, len(VOCABULARY), (40, 30), generator=torch.Generator().manual_seed(1))

    def run(model: torch.nn.Module) -> torch.Tensor:
        states: torch.Tensor = model(ids, torch.ones_like(ids)).last_hidden_state
        return states

    with torch.no_grad():
        balance(student, run, 16)
        before = teachers.mean(run(student), torch.ones_like(ids))
        save_model(build(student.export_weights(), precision="int8"), tmp_path)
        manifest = {"precision": "int8", "scheme": "per-token", "layers": 2, "heads": 4, "intermediate": 24}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        loaded = load_model_folder(tmp_path).eval()
        after = teachers.mean(run(loaded), torch.ones_like(ids))
        assert (before * after).sum(1).min() > 0.99
        copies = gather_copies(loaded, 16)
        gathered = run(loaded)
    assert copies > 5
    assert gathered[..., 17:].abs().max() == 0
    after = teachers.mean(gathered, torch.ones_like(ids))
    assert (before @ before.T - after @ after.T).abs().max() < 0.05


def test_only_int8_folders_can_be_trained_further(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"precision": "fp32"}))
    with pytest.raises(ExportError, match="is not int8 per token"):
        load_model_folder(tmp_path)
