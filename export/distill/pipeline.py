"""From a folder of text and the teachers to a checkpoint."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from export.distill import bundle, dev, student, teachers, training
from export.distill.balance import balance
from export.distill.corpus import CLS, SEP, Corpus, load_corpus, second_texts
from export.distill.initialize import attention_distances, freeze_spare_dimensions, init_from_teacher
from export.distill.recipe import Recipe, load_recipe
from export.errors import ExportError
from export.models.jinabert import JinaBertModel
from runtime.resources import default_threads
from runtime.tokenization.wordpiece import WordPiece

__all__ = ["DistillJob", "distill", "prepare"]

DISTANCE_TEXTS, DISTANCE_TOKENS = 64, 192
CALIBRATION_TEXTS = 500
CALIBRATION_STRIDE = 20  # every twentieth entry of the vocabulary


@dataclass(frozen=True)
class DistillJob:
    """What the command line says."""

    corpus: Path
    teachers: tuple[Path, ...]
    output: Path
    recipe: Path
    vocabulary: Path | None = None
    evaluation: Path | None = None
    dev: Path | None = None
    start: Path | None = None
    bundle: Path | None = None  # folder; corpus and teachers are then unpacked from it
    result: Path | None = None  # folder of parts: averaged weights of a run elsewhere
    parts: Path | None = None  # folder to write such parts to, instead of a checkpoint
    part_bytes: int = 15 << 20
    score_steps: int = 100
    save_seconds: float = 180.0
    steps: int | None = None
    device: str | None = None
    threads: int | None = None


class _Given(NamedTuple):
    """What is trained on."""

    recipe: Recipe
    vocabulary: list[str]
    tokenizer: WordPiece
    corpus: Corpus
    second: np.ndarray | None


def distill(job: DistillJob, report: Callable[[str], None]) -> Path:
    """Train a student, or go on where an earlier run stopped.

    :param job: see the command line.
    :param report: takes lines of progress.
    :return: the folder of the checkpoint, ``output/checkpoint``.
    :raises ExportError: something given is wrong.
    """
    job, given = _gather(job, report)
    recipe, corpus, tokenizer = given.recipe, given.corpus, given.tokenizer
    device = job.device or ("cuda" if torch.cuda.is_available() else "cpu")
    pairs = None if job.dev is None else dev.load_pairs(job.dev)
    teacher = teachers.first_teacher(job.teachers[0]).to(device)
    width = teacher.config.hidden_size
    model = _initial_student(job, recipe, corpus, given.vocabulary, width).to(device)
    freeze_spare_dimensions(model, width)
    state = training.start(model, recipe)
    checkpoint = job.output / "checkpoint"
    checkpoint.mkdir(exist_ok=True)
    passages = dev.split_passages(corpus.held_out, tokenizer)

    def write() -> None:
        student.write(state.averaged, given.vocabulary, _record(job, recipe, corpus, state), checkpoint)

    def score(scored: JinaBertModel) -> float:
        assert pairs is not None
        write()  # a resumed or killed run has what was last scored
        if passages:
            pooled, maxsim = dev.retrieval(scored, tokenizer, passages)
            report(
                f"{len(passages)} held-out passages: nDCG@10 {100 * pooled:.2f}, by MaxSim {100 * maxsim:.2f}"
            )
        return dev.spearman(scored, tokenizer, pairs)

    if job.result is not None:
        training.take_result(state, recipe, *bundle.read_parts(job.result))
        report(f"weights of step {state.step:,}, trained elsewhere")
    else:
        if training.load_state(state, recipe, job.output):
            report(f"resumed at step {state.step:,}")
        elif pairs is not None:
            state.scores.append((0, score(state.averaged)))
            report(f"step 0, dev score {100 * state.scores[0][1]:.2f}")
        training.train(
            state,
            corpus,
            teacher,
            given.second,
            recipe,
            save=lambda r: training.save_state(r, recipe, job.output),
            score=None if pairs is None else score,
            report=report,
            score_steps=job.score_steps,
            save_seconds=job.save_seconds,
        )
    if job.parts is not None:
        record = training.progress(state, recipe)
        for file in bundle.write_parts(state.averaged.state_dict(), record, job.parts, job.part_bytes):
            report(f"wrote {file}, {file.stat().st_size:,} bytes")
        return job.parts
    report("balancing for int8")
    state.averaged.to("cpu")  # where balance.py rounds weights as the export does
    balance(state.averaged, lambda m: _calibrate(m, corpus), width)
    if pairs is not None:
        report(f"dev score {100 * dev.spearman(state.averaged, tokenizer, pairs):.2f}")
    write()
    return checkpoint


def prepare(job: DistillJob, output: Path, report: Callable[[str], None]) -> Path:
    """Write a bundle instead of training.

    :param job: see the command line.
    :param output: file to write.
    :param report: takes lines of progress.
    :return: the file.
    :raises ExportError: something given is wrong, or the bundle would be too large.
    """
    job, given = _gather(job, report)
    sizes = bundle.write(
        output,
        run=job.output,
        recipe=job.recipe,
        teacher=job.teachers[0],
        second=given.second,
        vocabulary=given.vocabulary,
        dev=job.dev,
        start=job.start,
    )
    report(", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in sizes.items()))
    return output


def _gather(job: DistillJob, report: Callable[[str], None]) -> tuple[DistillJob, _Given]:
    """All that training needs but the models, from the corpus and the second teacher or from a bundle."""
    if job.bundle is not None:
        unpacked = bundle.unpack(job.bundle, job.output)
        job = dataclasses.replace(job, **unpacked, teachers=(job.output / "teacher",))
    recipe = load_recipe(job.recipe)
    if job.steps is not None:
        recipe = dataclasses.replace(recipe, steps=job.steps)
    if job.bundle is None and len(job.teachers) != (2 if recipe.second_texts else 1):
        raise ExportError(
            f"{len(job.teachers)} teachers given, and second_texts is {recipe.second_texts} in {job.recipe}: "
            "a second teacher goes with second_texts above 0"
        )
    threads = job.threads or default_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    vocabulary = _vocabulary(job.vocabulary or job.teachers[0] / "vocab.txt")
    teachers.check_vocabulary(job.teachers[0], vocabulary)
    tokenizer = WordPiece(vocabulary)
    job.output.mkdir(parents=True, exist_ok=True)
    corpus = load_corpus(job.corpus, recipe, tokenizer, job.evaluation, job.output / "texts.xz", report)
    second = _second(job, recipe, corpus, threads, report)
    return job, _Given(recipe, vocabulary, tokenizer, corpus, second)


def _calibrate(model: JinaBertModel, corpus: Corpus) -> None:
    """Run some texts from all over the corpus, one at a time, so that there is no padding to look at.

    Texts of a single token are among them, since a token without context can make activations that no sentence makes.
    """
    for text in range(0, len(corpus), max(1, len(corpus) // CALIBRATION_TEXTS)):
        ids = torch.from_numpy(corpus.tokens(text, DISTANCE_TOKENS))[None].to(model.device)
        model(ids, torch.ones_like(ids))
    tokens = torch.arange(SEP + 1, model.config.vocab_size, CALIBRATION_STRIDE, device=model.device)
    ids = torch.stack([torch.full_like(tokens, CLS), tokens, torch.full_like(tokens, SEP)], dim=1)
    for part in ids.split(256):
        model(part, torch.ones_like(part))


def _vocabulary(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} cannot be read as a vocabulary: {error}") from None
    return lines[:-1] if lines[-1] == "" else lines


def _second(
    job: DistillJob, recipe: Recipe, corpus: Corpus, threads: int, report: Callable[[str], None]
) -> np.ndarray | None:
    if not recipe.second_texts:
        return None
    if job.bundle is not None:
        found: np.ndarray = np.load(job.bundle / "second.npy")
        return found
    from export.distill.second_teacher import second_vectors  # heavy imports, which a bundle does without

    asked = [corpus.texts[text] for text in second_texts(corpus, recipe).tolist()]
    return second_vectors(job.teachers[1], asked, job.output / "second", threads, report)


def _initial_student(
    job: DistillJob, recipe: Recipe, corpus: Corpus, vocabulary: list[str], wide: int
) -> JinaBertModel:
    if job.start is None:
        looking = teachers.first_teacher(job.teachers[0], attentions=True)
        longest = np.argsort(-np.diff(corpus.offsets), kind="stable")[:DISTANCE_TEXTS]
        texts = (torch.from_numpy(corpus.tokens(int(text), DISTANCE_TOKENS)) for text in longest)
        return init_from_teacher(looking, recipe, len(vocabulary), attention_distances(looking, texts))
    if _vocabulary(job.start / "vocab.txt") != vocabulary:
        raise ExportError(f"{job.start}: its vocab.txt is not the student's vocabulary")
    from export.distill.dequantize import (  # needs onnx, which a bundle may not
        gather_copies,
        load_model_folder,
    )

    model = load_model_folder(job.start)
    gather_copies(model, wide)
    return model


def _record(job: DistillJob, recipe: Recipe, corpus: Corpus, state: training.TrainingState) -> dict[str, Any]:
    return {
        "made_by": "python -m export.distill",
        "recipe": dataclasses.asdict(recipe),
        "teachers": [teacher.name for teacher in job.teachers],
        "corpus": {"texts": len(corpus), "tokens": len(corpus.ids), "lines": corpus.counts},
        "step": state.step,
        "tokens": state.tokens,
        "seconds": round(state.seconds),
        "dev_scores": [[step, round(value, 5)] for step, value in state.scores],
        "made_with": {"python": platform.python_version(), "torch": torch.__version__},
    }
