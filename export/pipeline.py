"""The export from a checkpoint to a model folder: build the graph, quantise, verify, and only then write.

Everything is made in a temporary folder; the target appears when all of it has passed.
"""

from __future__ import annotations

import dataclasses
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

import export
from export import (
    baseline,
    checkpoint,
    declared,
    folder,
    graph,
    int8,
    official,
    reranking,
    rotate,
    source,
    texts,
    trace,
    verify,
)
from export.config import read_json
from export.errors import ExportError
from export.gates import Subject
from export.quantization import quantize
from export.token_vectors import write_token_arrays
from export.verify import Figures, Progress
from export.verify_tokenizer import verify_tokenizer
from export.verify_vectors import verify_vectors
from export.vocabulary import LearnedTokenizer, Vocabulary, load_tokenizer_files
from runtime.manifest import MODEL, SCHEMA_VERSION, file_facts
from runtime.modules import MODULES_DATA, Module, describe, pack
from runtime.resources import default_threads
from runtime.tokenization.loading import load_tokenizer
from runtime.tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    from export.declared import Declared
    from export.models import EncoderModel


BLOCKWISE_TOKENS = 2048  # a length that runs blockwise whatever the number of heads


@dataclass(frozen=True)
class ExportSettings:
    """What to export, and where to."""

    source: str  # folder in Hugging Face layout, or hub name
    output: Path
    precision: str = "int8"  # or "fp32"
    scheme: str | None = "per-token"  # or "optimum"; None for fp32
    texts: Path | None = None
    revision: str | None = None
    force: bool = False
    name: str | None = None
    min_cosine: float = verify.INT8_WORST_COSINE  # of int8 to fp32, the least
    compare: bool = False  # measure optimum's int8 beside ours
    max_tokens: int | None = None  # the default max_length, instead of what the folder declares
    tokenizer: str | None = None  # "tokenizer.json" or "vocab.txt", where the two disagree
    without_head: bool = False  # leave out a head for another task
    rotate: bool = (
        False  # make vectors that can be cut, see export/rotate.py; source may be a model folder then
    )
    task: str | None = None  # "embed" or "rerank"; None: what the checkpoint has a head for


def export_checkpoint(settings: ExportSettings, progress: Progress) -> dict[str, object]:
    """Export a checkpoint.

    :param settings: see there.
    :param progress: gets a line for each step.
    :return: the manifest as written.
    :raises ExportError: anything is refused or out of bounds; then the output is as it was.
    """
    folder.check_target(settings.output, force=settings.force)
    corpus = texts.load(settings.texts)
    if rotate.is_model_folder(Path(settings.source)):
        if not settings.rotate:
            raise ExportError(
                f"{settings.source} is a model folder already: give a checkpoint, or pass --rotate to make its vectors "
                "such that they can be cut"
            )
        return rotate.rotate(
            Path(settings.source), settings.output, corpus, force=settings.force, progress=progress
        )
    if settings.rotate:
        with tempfile.TemporaryDirectory(prefix="jinabert-export-") as work:
            straight = Path(work) / "model"
            export_checkpoint(dataclasses.replace(settings, output=straight, rotate=False), progress)
            return rotate.rotate(straight, settings.output, corpus, force=settings.force, progress=progress)
    checkpoint_folder = source.resolve(settings.source, settings.revision, progress)
    progress(f"loading {settings.source}")
    stated = declared.read_declared(checkpoint_folder)
    notes = list(stated.notes)
    model = checkpoint.load_model(
        stated.backbone,
        without_head=settings.without_head or settings.task == "embed",
        rerank=settings.task == "rerank" or _is_reranker(settings, stated.backbone),
        notes=notes,
    )
    stated = dataclasses.replace(stated, notes=tuple(notes))
    if model.head:  # the score is made of the first token
        stated = dataclasses.replace(stated, pooling=("cls",), modules=model.head, normalize=False)
    for note in notes:
        progress(note)
    with tempfile.TemporaryDirectory(prefix="jinabert-export-") as work:
        return _export(settings, checkpoint_folder, stated, model, corpus, Path(work), progress)


@dataclass(frozen=True)
class _Job:
    """A checkpoint that was read, and where its export is made."""

    settings: ExportSettings
    checkpoint_folder: Path
    stated: Declared
    model: EncoderModel
    vocabulary: Vocabulary | LearnedTokenizer
    tokenizer: Tokenizer
    corpus: Sequence[str]
    work: Path  # for what is not kept
    final: Path  # for the files of the model folder
    threads: int
    progress: Progress

    def tokens(self, longest: int) -> list[list[int]]:
        """The verification texts as token ids."""
        self.progress(f"tokenizing {len(self.corpus):,} verification texts")
        tokenizer = self.tokenizer
        return [tokenizer.truncate(tokenizer.encode(text), longest) for text in self.corpus]


def _export(
    settings: ExportSettings,
    checkpoint_folder: Path,
    stated: Declared,
    model: EncoderModel,
    corpus: Sequence[str],
    work: Path,
    progress: Progress,
) -> dict[str, object]:
    final = work / "final"
    final.mkdir()
    notes = list(stated.notes)
    vocabulary = load_tokenizer_files(stated.backbone, model.config, choice=settings.tokenizer, notes=notes)
    _check_lower_case(stated, vocabulary, notes)
    stated = dataclasses.replace(stated, notes=tuple(notes))
    for name, content in vocabulary.files().items():
        (final / name).write_bytes(content)
    tokenizer = load_tokenizer(str(final), vocabulary.describe(), model.config.vocab_size)
    if settings.texts is None:
        corpus = [*corpus, *texts.of_tokenizer(vocabulary.describe()["type"])]
    progress("comparing the tokenizer with the checkpoint's own")
    ids = verify_tokenizer(stated.backbone, tokenizer, corpus, settings.tokenizer)
    threads = default_threads()
    job = _Job(
        settings,
        checkpoint_folder,
        stated,
        model,
        vocabulary,
        tokenizer,
        corpus,
        work,
        final,
        threads,
        progress,
    )
    baseline_wanted = settings.precision == "int8" and settings.scheme == "optimum"
    # A cross-encoder's head gives a score and no vector.
    with nullcontext() if model.head else verify.pooled_as(stated.pooling, stated.modules):
        made = _make_baseline(job) if baseline_wanted else _make_ours(job)
    dense = None if baseline_wanted else graph.max_dense_tokens(model.config.num_attention_heads)
    return _write(job, {"tokenizer": ids, **made}, dense)


def _make_ours(job: _Job) -> dict[str, Figures]:
    """Make our graph, fp32 or int8, and verify it.

    :param job: what to export.
    :return: the figures of the verification.
    """
    model, settings, progress, threads = job.model, job.settings, job.progress, job.threads
    longest = max(job.vocabulary.max_tokens, settings.max_tokens or 0)
    tokens = job.tokens(longest)
    progress("building the graph")
    encoder = model.export_weights()
    reference = job.work / "fp32"
    reference.mkdir()
    (reference_path, *_) = folder.save_model(graph.build(encoder, precision="fp32"), reference)
    verification: dict[str, Figures] = {}
    subject = _Checkpoint(job.stated.backbone, job.tokenizer, reference_path, model.head, threads)
    if found := _official(settings, model, subject, progress):
        verification["official"] = found
    made = None
    if settings.precision == "int8":  # before what takes minutes: will it be good enough?
        made = quantize(encoder, tokens, bound=settings.min_cosine, threads=threads, progress=progress)
    # A text may be longer than the default max_length: the blockwise branch is verified in any case.
    verification["fp32"] = _against_torch(job, reference_path, tokens, max(longest, BLOCKWISE_TOKENS))
    if made is None:
        for file in reference.iterdir():
            shutil.copyfile(
                file, job.final / file.name
            )  # copytree would report a full disk as a list of lists
    else:
        figures, exact = int8.prove_int8(
            made,
            encoder,
            tokens,
            reference_path,
            job.final,
            bound=settings.min_cosine,
            threads=threads,
            progress=progress,
        )
        verification |= figures
        if settings.compare:
            verification["optimum"] = int8.compare_optimum(
                model, job.final, tokens, exact, job.work, threads=threads, progress=progress
            )
    return verification | _for_ranking(job, reference_path, tokens, longest)


def _make_baseline(job: _Job) -> dict[str, Figures]:
    """Make optimum's int8 graph, and measure it.

    :param job: what to export.
    :return: the figures of the verification; no cosine is too low for a baseline.
    """
    progress, threads = job.progress, job.threads
    longest = min(job.vocabulary.max_tokens, int8.BASELINE_TOKENS)
    tokens = job.tokens(longest)
    progress("tracing")
    plain = job.work / "plain.onnx"
    trace.trace(job.model, plain)
    verification: dict[str, Figures] = {}
    subject = _Checkpoint(job.stated.backbone, job.tokenizer, plain, job.model.head, threads)
    if found := _official(job.settings, job.model, subject, progress):
        verification["official"] = found
    verification["fp32"] = _against_torch(job, plain, tokens, longest)
    progress("quantising as optimum does")
    baseline.quantize_optimum(plain, job.final / MODEL)
    progress(f"comparing int8 with fp32 on {len(tokens):,} texts")
    verification["int8"], _ = verify.verify_int8(
        job.final / MODEL,
        verify.fp32_reference(plain, tokens, None, threads, progress),
        tokens,
        max_dense_tokens=None,
        bound=None,
        threads=threads,
        progress=progress,
    )
    return verification | _for_ranking(job, plain, tokens, longest)


def _against_torch(job: _Job, fp32: Path, tokens: Sequence[Sequence[int]], longest: int) -> Figures:
    job.progress("comparing fp32 with torch")
    stream = [token for text in tokens[::-1] for token in text]  # the long texts come first
    return verify.verify_fp32(
        job.model, fp32, stream, longest=longest, threads=job.threads, progress=job.progress
    )


def _for_ranking(job: _Job, fp32: Path, tokens: Sequence[Sequence[int]], longest: int) -> dict[str, Figures]:
    """What ranking documents takes: weights of tokens for an embedder; a cross-encoder's scores are verified."""
    model = job.model
    if not model.head:
        job.progress("weighing tokens for late interaction")
        session = verify.open_session(job.final / MODEL, job.threads)
        write_token_arrays(
            job.final,
            lambda ids: verify.onnx_tokens(session, ids),
            tokens,
            max(len(job.tokenizer), model.config.vocab_size),
        )
        return {}
    scores = reranking.verify_scores(
        model,
        job.tokenizer,
        job.corpus,
        fp32,
        job.final / MODEL if job.settings.precision == "int8" else None,
        longest=longest,
        max_dense_tokens=graph.max_dense_tokens(model.config.num_attention_heads),
        threads=job.threads,
        progress=job.progress,
    )
    return {"rerank": scores}


def _write(job: _Job, verification: dict[str, Figures], max_dense_tokens: int | None) -> dict[str, object]:
    """Write the model folder, if its vectors are the checkpoint's; returns its manifest."""
    settings, stated = job.settings, job.stated
    came_from = source.provenance(settings.source, job.checkpoint_folder)
    sources = [*checkpoint.weight_files(stated.backbone), stated.backbone / "config.json", *stated.files]
    if packed := pack(stated.modules):
        (job.final / MODULES_DATA).write_bytes(packed)
    manifest: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "name": settings.name or Path(came_from["name"] or settings.source).name,
        "source": {
            **came_from,
            "sha256": {stated.name_of(file): file_facts(file).sha256 for file in sorted(sources)},
        },
        **shape(job.model, job.vocabulary, stated, settings.max_tokens),
        "precision": settings.precision,
        "scheme": settings.scheme if settings.precision == "int8" else None,
        "max_dense_tokens": max_dense_tokens,
        "made_with": _made_with(),
        "notes": list(stated.notes),
        "verification": verification,
    }
    parts = sorted(job.final.iterdir())
    if not job.model.head:
        job.progress("comparing the vectors of the folder with torch, pooling and modules")
        folder.seal(job.final, manifest)
        verification["vectors"] = verify_vectors(
            job.model,
            stated,
            job.final,
            job.corpus,
            choice=settings.tokenizer,
            least_cosine=_least_cosine(settings),
            threads=job.threads,
        )
    job.progress(f"writing {settings.output}")
    return folder.write(settings.output, parts, manifest, force=settings.force)


def _least_cosine(settings: ExportSettings) -> float | None:
    """Least cosine of an end vector: None for fp32, judged by its components; the baseline is only measured."""
    if settings.precision == "fp32":
        return None
    # All verification texts kept the bound already; texts with prompts may lie a little below it.
    return -1.0 if settings.scheme == "optimum" else settings.min_cosine - 0.02


def _check_lower_case(stated: Declared, vocabulary: Vocabulary | LearnedTokenizer, notes: list[str]) -> None:
    """Lower-casing before the tokenizer changes nothing where the tokenizer does it itself."""
    if not stated.lower_case:
        return
    if not vocabulary.lower_case:
        raise ExportError(
            f"{stated.backbone}: sentence-transformers is told to lower-case texts (do_lower_case) before a tokenizer "
            "that keeps case and accents, which is not implemented: set do_lower_case in tokenizer_config.json if "
            "accents may be dropped"
        )
    notes.append(
        "do_lower_case of sentence-transformers changes nothing: the tokenizer lower-cases by itself"
    )


def shape(
    model: EncoderModel,
    vocabulary: Vocabulary | LearnedTokenizer,
    stated: Declared,
    max_tokens: int | None = None,
) -> dict[str, object]:
    """Say what kind of model it is.

    :param model: of the checkpoint.
    :param vocabulary: of the checkpoint.
    :param stated: what its folder declares.
    :param max_tokens: the default max_length; None for the folder's.
    :return: those fields of a manifest.
    """
    config = model.config
    pooled = len(stated.pooling) * config.hidden_size
    return {
        "architecture": model.architecture.name,
        "task": "rerank" if model.head else "embed",
        "dimension": stated.modules[-1].output_size if stated.modules else pooled,
        "hidden_size": config.hidden_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "intermediate": config.intermediate_size,
        "vocabulary": config.vocab_size,
        "max_tokens": max_tokens or stated.max_tokens or vocabulary.max_tokens,
        "pooling": {"modes": list(stated.pooling), "include_prompt": stated.include_prompt},
        "modules": [describe(module) for module in stated.modules],
        "normalize": stated.normalize,
        "prompts": stated.prompts,
        "default_prompt_name": stated.default_prompt_name,
        "similarity": stated.similarity,
        "tokenizer": vocabulary.describe(),
    }


class _Checkpoint:
    """The checkpoint as published figures are compared with it: its tokenizer and its fp32 graph."""

    score: Callable[[str, str], float] | None = None

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, graph: Path, head: tuple[Module, ...], threads: int
    ) -> None:
        self.folder = folder
        self._tokenizer, self._session = tokenizer, verify.open_session(graph, threads)
        if head:
            self.score = lambda query, document: float(
                reranking.score(self._session, head, [tokenizer.encode_pair(query, document)[0]])[0]
            )

    def ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def hidden(self, ids: Sequence[int], mask: Sequence[int]) -> NDArray[np.float32]:
        feed = {"input_ids": np.array([ids], np.int64), "attention_mask": np.array([mask], np.int64)}
        (hidden,) = self._session.run(["last_hidden_state"], feed)
        states: NDArray[np.float32] = hidden[0]
        return states


def _is_reranker(settings: ExportSettings, backbone: Path) -> bool:
    """Whether the folder or its name says that it is a cross-encoder."""
    name = official.official_name(settings.source, settings.name)
    architectures = read_json(backbone / "config.json").get("architectures") or []
    return "reranker" in (name or "") or any(
        "ForSequenceClassification" in str(kind) for kind in architectures
    )


def _official(
    settings: ExportSettings, model: EncoderModel, subject: Subject, progress: Progress
) -> Figures | None:
    """Check published figures. They are enforced for official weights; else a miss is said.

    A fine-tuned checkpoint keeps the tokenizer, and often the configuration, of what it was made from.
    """
    config = model.config
    shape = (model.architecture.name, config.num_hidden_layers, config.hidden_size, config.vocab_size)
    known = official.identify((settings.source, settings.name), shape, subject)
    if known is None:
        claimed = read_json(subject.folder / "config.json").get("_name_or_path")
        if (name := official.official_name(claimed if isinstance(claimed, str) else None)) is None:
            return None
        known = official.Known(name, f"_name_or_path, {claimed!r}", False)
    progress(f"checking the published figures of {known.name}, known by {known.by}")
    found = official.check(known, subject)
    if missed := [gate["what"] for gate in found["gates"] if not gate["passed"]]:
        progress(
            f"not the weights of {known.name}, or read wrongly: {len(missed)} published figures are missed, "
            f"{missed[0]} first; --name {known.name.rpartition('/')[2]} refuses that"
        )
    return found


def _made_with() -> dict[str, object]:
    versions: dict[str, object] = {"export": export.__version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "optimum", "optimum-onnx", "onnx", "onnxruntime", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {**versions, "opset": trace.MAX_OPSET}
