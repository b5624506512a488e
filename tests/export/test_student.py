"""The student: it starts as its teacher, what it learns from, and what makes it easy to quantise."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from export.distill import dev, losses, teachers
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
from tests.export.distilling import (
    VOCABULARY,
)

pytest.importorskip("scipy", reason="needs the `distill` extra")


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
