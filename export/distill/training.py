"""The loop: steps, the averaged weights, and a state on disk that a killed run goes on from."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BertModel

from export.distill import losses, teachers
from export.distill.corpus import CLS, SEP, Batch, Corpus, batches, second_texts, split_sentence
from export.distill.noise import noise
from export.distill.recipe import NoiseFinetuning, Recipe, fingerprint
from export.errors import ExportError
from export.models.jinabert import JinaBertModel
from runtime.files import replacing

__all__ = ["TrainingState", "load_state", "progress", "rate", "save_state", "take_result", "train"]

STATE = "state.pt"
REPORT_STEPS = 20


@dataclass
class TrainingState:
    """Where a training stands."""

    student: JinaBertModel
    averaged: JinaBertModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # in steps, over all resumptions
    scores: list[tuple[int, float]] = dataclasses.field(default_factory=list)


def start(student: JinaBertModel, recipe: Recipe) -> TrainingState:
    """Return a run at step 0; the student is trained in place."""
    averaged = JinaBertModel(student.config).to(student.device)
    averaged.load_state_dict(student.state_dict())
    averaged.requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.0
    )
    return TrainingState(student.train(), averaged, optimizer)


def rate(step: int, recipe: Recipe) -> float:
    """Return the learning rate of a step.

    Up in ``warmup_steps``, level, and down to 0 in the last ``decay`` of the ``steps``; then down to 0 in each
    ``noise_finetuning``.
    """
    stage, done = _noise_stage(step, recipe)
    if stage is not None:
        return stage.learning_rate * (1 - done / stage.steps)
    falling = max(1.0, recipe.decay * recipe.steps)
    share = min(1.0, (step + 1) / recipe.warmup_steps, (recipe.steps - step) / falling)
    return recipe.learning_rate * share


def _noise_stage(step: int, recipe: Recipe) -> tuple[NoiseFinetuning | None, int]:
    """Which one a step is of, if any, and how many of its steps are before it."""
    step -= recipe.steps
    for stage in recipe.noise_finetuning:
        if 0 <= step < stage.steps:
            return stage, step
        step -= stage.steps
    return None, 0


def train(
    run: TrainingState,
    corpus: Corpus,
    teacher: BertModel,
    second: NDArray[np.float16] | None,
    recipe: Recipe,
    *,
    save: Callable[[TrainingState], None],
    score: Callable[[JinaBertModel], float] | None,
    report: Callable[[str], None],
    save_seconds: float = 180.0,
    score_steps: int = 100,
) -> None:
    """Train to the last step of the recipe.

    :param run: at any step; goes on to the last of the recipe.
    :param second: the second teacher's vectors of ``second_texts``, float16 [texts, dimensions], or None.
    :param save: writes the state of a run.
    :param score: of a model on held-out text, or None.
    :param report: takes lines of progress.
    """
    rows = {} if second is None else {int(t): i for i, t in enumerate(second_texts(corpus, recipe))}
    stream: Iterator[Batch] = batches(corpus, recipe, first=run.step)
    means: dict[str, float] = {}
    saved = time.monotonic()
    first_step, first_tokens, first_seconds = run.step, run.tokens, run.seconds
    steps = recipe.steps + sum(stage.steps for stage in recipe.noise_finetuning)
    while run.step < steps:
        began = time.monotonic()
        for group in run.optimizer.param_groups:
            group["lr"] = rate(run.step, recipe)
        stage, _ = _noise_stage(run.step, recipe)
        with nullcontext() if stage is None else noise(run.student, stage.noise, run.step):
            parts, tokens = _losses(run.student, teacher, next(stream), corpus, second, rows, recipe)
            if stage is not None and stage.words:
                parts |= _word_losses(run.student, teacher, stage.words, run.step, recipe)
        loss = sum((recipe.weights[name.split()[-1]] * part for name, part in parts.items()), torch.zeros(()))
        if not math.isfinite(loss.item()):
            raise ExportError(
                f"the loss is {loss.item()} at step {run.step}: lower learning_rate and start again"
            )
        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(run.student.parameters(), 1.0)
        run.optimizer.step()
        _average(run.averaged, run.student, min(recipe.average, (run.step + 1) / (run.step + 10)))
        run.step += 1
        run.tokens += tokens
        run.seconds += time.monotonic() - began
        for name, part in parts.items():
            value = part.item()
            means[name] = means.get(name, value) * 0.9 + value * 0.1
        if run.step % REPORT_STEPS == 0 or run.step == steps:
            spent = run.seconds - first_seconds
            left = spent / (run.step - first_step) * (steps - run.step)
            report(
                f"step {run.step:,} of {steps:,}, {(run.tokens - first_tokens) / spent:,.0f} tokens/s, "
                f"{left / 60:.0f} min left, loss "
                + ", ".join(f"{name} {value:.4f}" for name, value in sorted(means.items()))
            )
        last = run.step == steps
        if score is not None and (last or run.step % score_steps == 0):
            run.scores.append((run.step, score(run.averaged)))
            report(f"step {run.step:,}, dev score {100 * run.scores[-1][1]:.2f}")
        if last or time.monotonic() - saved > save_seconds:
            save(run)
            saved = time.monotonic()


def _losses(
    student: JinaBertModel,
    teacher: BertModel,
    batch: Batch,
    corpus: Corpus,
    second: NDArray[np.float16] | None,
    rows: dict[int, int],
    recipe: Recipe,
) -> tuple[dict[str, Tensor], int]:
    device = student.device
    if batch.pairs:
        texts = [corpus.tokens(text, len(corpus.ids)) for text in batch.texts]
        halves = zip(*(split_sentence(text, recipe.pair_tokens) for text in texts), strict=True)
        (first, first_mask), (rest, rest_mask) = (_padded(list(half), device) for half in halves)
        sentences = _states(student, teacher, first, first_mask)
        passages = _states(student, teacher, rest, rest_mask)
        parts = losses.text_losses(*passages, recipe.temperature)
        parts |= losses.pair_losses(*sentences, *passages, recipe.temperature)
        return parts, int(first_mask.sum() + rest_mask.sum())
    ids, mask = _padded([corpus.tokens(text, recipe.longest_tokens) for text in batch.texts], device)
    hidden, target = _states(student, teacher, ids, mask)
    tokens = int(mask.sum())
    if not batch.documents:
        similarity = None
        if batch.second and second is not None:
            answers = torch.from_numpy(second[[rows[text] for text in batch.texts]]).to(device).float()
            similarity = losses.mixed(teachers.mean(target.states, mask), answers, recipe.second_weight)
        return losses.text_losses(hidden, target, recipe.temperature, similarity), tokens
    long, long_mask = _padded(batch.documents, device)
    states, long_target = _states(student, teacher, long, long_mask)
    parts = losses.document_losses(states, long_target, hidden, target, recipe.temperature)
    return {
        ("long token" if name == "token" else name): part for name, part in parts.items()
    }, tokens + long.numel()


def _word_losses(
    student: JinaBertModel, teacher: BertModel, count: int, seed: int, recipe: Recipe
) -> dict[str, Tensor]:
    """Of texts of a single token, any of the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(SEP + 1, teacher.config.vocab_size, (count,), generator=generator)
    ids = torch.stack([torch.full_like(tokens, CLS), tokens, torch.full_like(tokens, SEP)], 1)
    ids = ids.to(student.device)
    hidden, target = _states(student, teacher, ids, torch.ones_like(ids))
    parts = losses.text_losses(hidden, target, recipe.temperature)
    return {f"word {name}": part for name, part in parts.items()}


def _states(
    student: JinaBertModel, teacher: BertModel, ids: Tensor, mask: Tensor
) -> tuple[Tensor, losses.Target]:
    with torch.autocast(student.device.type, torch.bfloat16):
        hidden: Tensor = student(ids, mask).last_hidden_state
    return hidden, losses.Target(teachers.token_targets(teacher, ids, mask), mask)


def _padded(texts: list[NDArray[np.int64]], device: torch.device) -> tuple[Tensor, Tensor]:
    rows = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(text) for text in texts], batch_first=True)
    lengths = torch.tensor([len(text) for text in texts])
    mask = (torch.arange(rows.shape[1]) < lengths[:, None]).long()
    return rows.to(device), mask.to(device)


def _average(averaged: JinaBertModel, student: JinaBertModel, keep: float) -> None:
    with torch.no_grad():
        for old, new in zip(averaged.parameters(), student.parameters(), strict=True):
            old.lerp_(new, 1 - keep)


def progress(run: TrainingState, recipe: Recipe) -> dict[str, Any]:
    """Return all of a state but weights: numbers and text alone."""
    return {
        "recipe": fingerprint(recipe),
        "step": run.step,
        "tokens": run.tokens,
        "seconds": run.seconds,
        "scores": run.scores,
    }


def save_state(run: TrainingState, recipe: Recipe, folder: Path) -> None:
    """Write all that a resumption needs, whole or not at all.

    :param folder: the file is ``state.pt`` in it.
    """
    state = {
        **progress(run, recipe),
        "student": run.student.state_dict(),
        "averaged": run.averaged.state_dict(),
        "optimizer": run.optimizer.state_dict(),
    }
    with replacing(folder / STATE) as partial:
        torch.save(state, partial)


def load_state(run: TrainingState, recipe: Recipe, folder: Path) -> bool:
    """Take up the state that an earlier process left.

    :param run: at step 0, changed in place.
    :return: whether there was one.
    :raises ExportError: it is damaged, or of another recipe.
    """
    path = folder / STATE
    if not path.exists():
        return False
    try:
        state: dict[str, Any] = torch.load(path, map_location=run.student.device, weights_only=True)
    except Exception as error:  # a damaged file raises anything
        raise ExportError(f"{path} is damaged ({type(error).__name__}): remove it to start again") from None
    _take_progress(run, recipe, state, str(path))
    run.student.load_state_dict(state["student"])
    run.averaged.load_state_dict(state["averaged"])
    run.optimizer.load_state_dict(state["optimizer"])
    return True


def take_result(
    run: TrainingState, recipe: Recipe, weights: dict[str, Tensor], record: dict[str, Any]
) -> None:
    """Take up averaged weights that were trained elsewhere; not to be trained further, as the optimizer stays there.

    :param run: changed in place.
    :param weights: parameter name -> value.
    :param record: of ``progress``.
    :raises ExportError: they are of another recipe or shape.
    """
    _take_progress(run, recipe, record, "the result")
    try:
        run.averaged.load_state_dict(weights)
    except RuntimeError as error:
        raise ExportError(f"the result does not fit the recipe's student: {error}") from None


def _take_progress(run: TrainingState, recipe: Recipe, record: dict[str, Any], whose: str) -> None:
    if record["recipe"] != fingerprint(recipe):
        raise ExportError(f"{whose} is of another recipe: restore the recipe, or name another --output")
    run.step, run.tokens, run.seconds = record["step"], record["tokens"], record["seconds"]
    run.scores = [(step, score) for step, score in record["scores"]]
