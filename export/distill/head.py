"""A linear head for the vectors of a model folder, trained with the encoder as it is.

The encoder's vectors of some texts are computed once, and a square matrix is trained that turns them. It starts as a
rotation to their principal components in which those of large variance count a little less (partial whitening). Then
pairs of a first sentence and what follows it have two losses, as in ``losses.py``:

pair       a sentence is as similar to what follows each sentence of the batch as the encoder's own vectors are: the
           divergence, both ways
contrast   what follows it is the most similar: cross entropy, both ways

Both are asked of the first D, D/2, D/4 and D/8 numbers of the turned vectors alike (Matryoshka representation learning,
arXiv 2205.13147), so that ``dimensions=`` costs little. ``python -m export MODEL --head head.npy`` puts the matrix into
a model folder, as a Dense module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional

from export.distill import dev
from export.distill.corpus import read_texts
from export.distill.losses import similarity_losses
from export.distill.recipe import Recipe, load_recipe
from export.errors import ExportError
from export.rotate import principal_components
from runtime import Embedder
from runtime.files import replacing
from runtime.modules import INT16_SCALE

__all__ = ["HeadJob", "train", "train_head", "whitening"]

PREFIXES = {1: 1.0, 2: 1.0, 4: 1.0, 8: 0.5}  # the first D / n numbers -> weight of their losses
PAIRS = 8192
FIRST_CHARACTERS = range(30, 201)  # of the first sentence of a pair
LEAST_CHARACTERS, REST_CHARACTERS = 100, 500  # of what follows it: at least, and at most
SAMPLE, SHORT = 2048, 8192  # pairs and short texts that the principal components are computed from
SHORT_CHARACTERS = 200  # of a short text, at most
WHITENING = 0.2
LEAST_DEVIATION = (
    0.01  # of the largest: a component that varies less is left as it is, since it tells nothing apart
)
WEIGHTS = {"pair": 1.0, "contrast": 0.3}  # of the losses
STEPS, WARMUP_STEPS, BATCH, LEARNING_RATE = 100, 20, 512, 2e-4


@dataclass(frozen=True)
class HeadJob:
    """What the command line says."""

    model: Path  # folder
    corpus: Path
    output: Path
    recipe: Path
    evaluation: Path | None = None
    dev: Path | None = None
    threads: int | None = None


def train_head(job: HeadJob, report: Callable[[str], None]) -> Path:
    """Train a head for a model folder.

    :param job: see the command line.
    :param report: takes lines of progress.
    :return: the file of the head, ``output/head.npy``: int16 [D, D], INT16_SCALE times the matrix.
    :raises ExportError: something given is wrong.
    """
    recipe = load_recipe(job.recipe)
    job.output.mkdir(parents=True, exist_ok=True)
    rows = list(read_texts(job.corpus, recipe, job.evaluation, job.output / "texts.xz", report))
    texts = [text for kind, _, _, text in rows if kind in ("text", "prose")]
    pairs = _pairs(texts, recipe.seed)
    if len(pairs) < 2:
        raise ExportError(f"{job.corpus}: the sources of {job.recipe} have no texts of several sentences")
    with Embedder(job.model, threads=job.threads) as embedder:
        if embedder.manifest.truncatable:
            raise ExportError(f"{job.model} has a head or rotation already: name the folder that has none")
        torch.set_num_threads(embedder.threads)

        def encode(chosen: Sequence[str]) -> Tensor:
            vectors = embedder.encode(chosen, max_length=recipe.longest_tokens, normalize=True)
            return torch.from_numpy(vectors)

        first, rest = (encode(side) for side in zip(*pairs, strict=True))
        spread = torch.cat([first[:SAMPLE], rest[:SAMPLE], encode(_short(texts, recipe.seed))])
        report(f"vectors of {len(pairs):,} pairs by {embedder.manifest.name}")
        passages = _pairs([text for kind, _, _, text in rows if kind == "held out"], recipe.seed)
        scores = _scores(encode, job.dev, passages)
    start = whitening(spread, WHITENING)
    matrix = train(first, rest, start, recipe)
    rotation = whitening(spread, 0.0)
    for name, tried in (("rotation", rotation), ("partial whitening", start), ("trained", matrix)):
        report(f"{name}: {scores(tried)}")
    with replacing(job.output / "head.npy") as partial, open(partial, "wb") as file:
        np.save(file, (matrix.numpy() * INT16_SCALE).astype(np.int16))
    return job.output / "head.npy"


def _pairs(texts: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """First sentences and what follows them, of as many texts as are wanted, in random order."""
    pairs: list[tuple[str, str]] = []
    for number in np.random.default_rng([seed, 3]).permutation(len(texts)).tolist():
        end = texts[number].find(". ") + 1
        following = texts[number][end:].strip()[:REST_CHARACTERS]
        if end in FIRST_CHARACTERS and len(following) >= LEAST_CHARACTERS and len(pairs) < PAIRS:
            pairs.append((texts[number][:end], following))
    return pairs


def _short(texts: list[str], seed: int) -> list[str]:
    short = [text for text in texts if len(text) <= SHORT_CHARACTERS]
    return [
        short[number] for number in np.random.default_rng([seed, 4]).permutation(len(short))[:SHORT].tolist()
    ]


def whitening(vectors: Tensor, power: float) -> Tensor:
    """Turn to the principal components, and make those of large variance count for less.

    :param vectors: float32 [n, D].
    :param power: each component is divided by its standard deviation to this power: 0 is a rotation, 1 whitening.
    :return: float32 [D, D], to multiply with from the left.
    """
    rows = vectors.numpy().astype(np.float64)
    rotation = principal_components(rows)
    deviations = (rows @ rotation.T).std(axis=0)
    deviations = deviations.clip(LEAST_DEVIATION * deviations.max())
    return torch.from_numpy(rotation * deviations[:, None] ** -power).float()


def train(first: Tensor, rest: Tensor, start: Tensor, recipe: Recipe) -> Tensor:
    """Train the matrix.

    :param first: the encoder's vectors of first sentences, float32 [n, D], of length 1.
    :param rest: those of what follows each, of the same shape.
    :param start: the matrix to start from, [D, D].
    :param recipe: its seed and temperature.
    :return: float32 [D, D], whole multiples of 1 / INT16_SCALE and all below 1: only cosines count, no lengths.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    deviations = (torch.cat([first, rest]) @ start.T).std(dim=0)
    live = deviations > LEAST_DEVIATION * deviations.max()
    matrix = start.clone().requires_grad_()
    matrix.register_hook(lambda gradient: gradient * live[:, None])
    optimizer = torch.optim.Adam([matrix], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS) * (1 - step / STEPS)
    )
    for _ in range(STEPS):
        rows = torch.randperm(len(first), generator=generator)[:BATCH]
        wanted = first[rows] @ rest[rows].T
        loss = torch.zeros(())
        for part, weight in PREFIXES.items():
            given = _turned(first[rows], matrix, part) @ _turned(rest[rows], matrix, part).T
            for name, part_loss in similarity_losses(wanted, given, recipe.temperature).items():
                loss = loss + weight * WEIGHTS[name] * part_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    trained = matrix.detach()
    return torch.round(trained * ((INT16_SCALE - 1) / trained.abs().max())) / INT16_SCALE


def _turned(vectors: Tensor, matrix: Tensor, part: int) -> Tensor:
    """The first of so many parts of the turned vectors' numbers, of length 1."""
    return functional.normalize(vectors @ matrix[: max(1, len(matrix) // part)].T, dim=-1)


def _scores(
    encode: Callable[[Sequence[str]], Tensor], pairs: Path | None, passages: list[tuple[str, str]]
) -> Callable[[Tensor], str]:
    """Embed the texts of the scores once; what comes back scores a matrix at every size, in words."""
    kinds: list[tuple[str, Tensor, Tensor, Callable[[Tensor], float]]] = []
    if passages:
        asked, found = (encode(side) for side in zip(*passages, strict=True))
        kinds.append((f"nDCG@10 of {len(passages)} held-out passages", asked, found, dev.ndcg))
    if pairs is not None:
        wanted, left, right = dev.load_pairs(pairs)
        kinds.append(
            (
                pairs.name,
                encode(left),
                encode(right),
                lambda similarity: float(spearmanr(wanted, similarity.diagonal()).statistic),
            )
        )

    def scored(matrix: Tensor) -> str:
        lines = []
        for name, left, right, measure in kinds:
            figures = [
                f"{100 * measure(_turned(left, matrix, part) @ _turned(right, matrix, part).T):.2f}"
                for part in PREFIXES
            ]
            lines.append(f"{name} {' / '.join(figures)}")
        return ", ".join(lines)

    return scored
