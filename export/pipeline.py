"""The export from a checkpoint to a model folder: build the graph, quantise, verify, and only then write.

Everything is made in NAME.unfinished beside the target (unfinished.py); the target appears when all of it has passed.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from export import (
    baseline,
    checkpoint,
    declared,
    folder,
    graph,
    int8,
    reranking,
    rotate,
    source,
    texts,
    trace,
    verify,
)
from export.description import describe_model, fingerprint, source_hashes, split_speeds
from export.errors import ExportError
from export.job import ExportSettings, Job
from export.quantization import quantize
from export.remake import remake
from export.subject import is_reranker, published_figures
from export.token_vectors import write_token_arrays
from export.unfinished import open_unfinished
from export.verify import Figures, Progress
from export.verify_tokenizer import verify_tokenizer
from export.verify_vectors import verify_vectors
from export.vocabulary import LearnedTokenizer, Vocabulary, load_tokenizer_files
from runtime.manifest import MODEL
from runtime.modules import MODULES_DATA, pack
from runtime.resources import default_threads
from runtime.tokenization.loading import load_tokenizer

__all__ = ["ExportSettings", "Exported", "export_checkpoint"]

BLOCKWISE_TOKENS = 2048  # a length that runs blockwise whatever the number of heads


class Exported(NamedTuple):
    """What an export made."""

    manifest: dict[str, object]  # as written
    speeds: Figures  # measured by the way; they differ from run to run, so that the manifest has none


def export_checkpoint(settings: ExportSettings, progress: Progress) -> Exported:
    """Export a checkpoint.

    :param settings: see there.
    :param progress: gets a line for each step.
    :return: the manifest, and speeds.
    :raises ExportError: anything is refused or out of bounds; then the output is as it was.
    """
    folder.check_target(settings.output, force=settings.force)
    corpus = texts.load(settings.texts)
    if not rotate.is_model_folder(Path(settings.source)):
        return _from_checkpoint(settings, corpus, progress)
    if not settings.turned:
        return Exported(remake(settings, corpus, progress), {})
    return Exported(_turn(Path(settings.source), settings, corpus, progress), {})


def _turn(
    straight: Path, settings: ExportSettings, corpus: Sequence[str], progress: Progress
) -> dict[str, object]:
    return rotate.rotate(
        straight, settings.output, corpus, force=settings.force, progress=progress, head=settings.head
    )


def _from_checkpoint(settings: ExportSettings, corpus: list[str], progress: Progress) -> Exported:
    checkpoint_folder = source.resolve(settings.source, settings.revision, progress)
    progress(f"loading {settings.source}")
    stated = declared.read_declared(checkpoint_folder)
    notes = list(stated.notes)
    model = checkpoint.load_model(
        stated.backbone,
        without_head=settings.without_head or settings.task == "embed",
        rerank=settings.task == "rerank" or is_reranker(settings, stated.backbone),
        notes=notes,
    )
    if model.head:  # the score is made of the first token
        stated = dataclasses.replace(stated, pooling=("cls",), modules=model.head, normalize=False)
    for note in notes:
        progress(note)
    vocabulary = load_tokenizer_files(stated.backbone, model.config, choice=settings.tokenizer, notes=notes)
    _check_lower_case(stated, vocabulary, notes)
    stated = dataclasses.replace(stated, notes=tuple(notes))
    if settings.texts is None:
        corpus = [*corpus, *texts.of_tokenizer(vocabulary.describe()["type"])]
    threads = default_threads()
    sources = source_hashes(stated)
    made_from = fingerprint(settings, sources, corpus, vocabulary.files(), threads)
    with open_unfinished(settings.output, made_from, progress) as unfinished:
        final = unfinished.work / "final"
        final.mkdir()
        for name, content in vocabulary.files().items():
            (final / name).write_bytes(content)
        job = Job(
            settings,
            checkpoint_folder,
            stated,
            model,
            vocabulary,
            load_tokenizer(str(final), vocabulary.describe(), model.config.vocab_size),
            corpus,
            unfinished,
            final,
            threads,
            progress,
        )
        return _export(job, sources)


def _export(job: Job, sources: dict[str, str]) -> Exported:
    settings, stated, model = job.settings, job.stated, job.model
    job.progress("comparing the tokenizer with the checkpoint's own")
    verification: dict[str, Figures] = {
        "tokenizer": verify_tokenizer(stated.backbone, job.tokenizer, job.corpus, settings.tokenizer)
    }
    baseline_wanted = settings.precision == "int8" and settings.scheme == "optimum"
    # A cross-encoder's head gives a score and no vector.
    with nullcontext() if model.head else verify.pooled_as(stated.pooling, stated.modules):
        verification |= _make_baseline(job) if baseline_wanted else _make_ours(job)
    figures, speeds = split_speeds(verification)
    dense = None if baseline_wanted else graph.MAX_DENSE_TOKENS
    if packed := pack(stated.modules):
        (job.final / MODULES_DATA).write_bytes(packed)
    manifest = describe_model(job, sources, figures, dense)
    return Exported(_write(job, manifest, figures), speeds)


def _make_ours(job: Job) -> dict[str, Figures]:
    """Make our graph, fp32 or int8, and verify it.

    :param job: what to export.
    :return: the figures of the verification.
    """
    model, settings, progress, threads = job.model, job.settings, job.progress, job.threads
    longest = max(job.vocabulary.max_tokens, settings.max_tokens or 0)
    tokens = job.tokens(longest)
    progress("building the graph")
    encoder = model.export_weights()
    reference = job.unfinished.work / "fp32"
    reference.mkdir()
    (reference_path, *_) = folder.save_model(graph.build(encoder, precision="fp32"), reference)
    verification: dict[str, Figures] = {}
    if found := published_figures(job, reference_path):
        verification["official"] = found
    made = None
    if settings.precision == "int8":  # before what takes minutes: will it be good enough?
        made = quantize(
            encoder,
            tokens,
            bound=settings.min_cosine,
            threads=threads,
            progress=progress,
            stages=job.unfinished,
        )
    # A text may be longer than the default max_length: the blockwise branch is verified in any case.
    verification["fp32"] = _against_torch(job, reference_path, tokens, max(longest, BLOCKWISE_TOKENS))
    if made is None:
        for file in reference.iterdir():
            shutil.copyfile(
                file, job.final / file.name
            )  # copytree would report a full disk as a list of lists
    else:
        proven = int8.prove_int8(
            made,
            encoder,
            tokens,
            reference_path,
            job.final,
            bound=settings.min_cosine,
            threads=threads,
            progress=progress,
            stages=job.unfinished,
        )
        verification |= proven.figures
        if settings.compare:
            verification["optimum"] = job.unfinished.figures(
                "optimum",
                lambda: int8.compare_optimum(
                    model, job.final, tokens, proven, job.unfinished, threads=threads, progress=progress
                ),
            )
    return verification | _for_ranking(job, reference_path, tokens, longest)


def _make_baseline(job: Job) -> dict[str, Figures]:
    """Make optimum's int8 graph, and measure it.

    :param job: what to export.
    :return: the figures of the verification; no cosine is too low for a baseline.
    """
    progress, threads = job.progress, job.threads
    longest = min(job.vocabulary.max_tokens, int8.BASELINE_TOKENS)
    tokens = job.tokens(longest)
    progress("tracing")
    plain = job.unfinished.work / "plain.onnx"
    trace.trace(job.model, plain)
    verification: dict[str, Figures] = {}
    if found := published_figures(job, plain):
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


def _against_torch(job: Job, fp32: Path, tokens: Sequence[Sequence[int]], longest: int) -> Figures:
    job.progress("comparing fp32 with torch")
    stream = [token for text in tokens[::-1] for token in text]  # the long texts come first
    return job.unfinished.figures(
        "fp32",
        lambda: verify.verify_fp32(
            job.model, fp32, stream, longest=longest, threads=job.threads, progress=job.progress
        ),
    )


def _for_ranking(job: Job, fp32: Path, tokens: Sequence[Sequence[int]], longest: int) -> dict[str, Figures]:
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
        max_dense_tokens=graph.MAX_DENSE_TOKENS,
        threads=job.threads,
        progress=job.progress,
    )
    return {"rerank": scores}


def _write(job: Job, manifest: dict[str, object], verification: Figures) -> dict[str, object]:
    """Write the model folder, if its vectors are the checkpoint's; returns its manifest."""
    settings = job.settings
    parts = sorted(job.final.iterdir())
    if not job.model.head:
        job.progress("comparing the vectors of the folder with torch, pooling and modules")
        folder.seal(job.final, manifest)
        verification["vectors"] = verify_vectors(
            job.model,
            job.stated,
            job.final,
            job.corpus,
            choice=settings.tokenizer,
            least_cosine=_least_cosine(settings),
            threads=job.threads,
        )
    job.progress(f"writing {settings.output}")
    if not settings.turned:
        return folder.write(settings.output, parts, manifest, force=settings.force)
    folder.seal(job.final, manifest)
    return _turn(job.final, settings, job.corpus, job.progress)


def _least_cosine(settings: ExportSettings) -> float | None:
    """Least cosine of an end vector: None for fp32, judged by its components; the baseline is only measured."""
    if settings.precision == "fp32":
        return None
    # All verification texts kept the bound already; texts with prompts may lie a little below it.
    return -1.0 if settings.scheme == "optimum" else settings.min_cosine - 0.02


def _check_lower_case(
    stated: declared.Declared, vocabulary: Vocabulary | LearnedTokenizer, notes: list[str]
) -> None:
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
