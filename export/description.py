"""manifest.json of an export: what kind of model it is, what it was made from, and with what."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import export
from export import checkpoint, source, trace
from export.job import ExportSettings, Job
from export.unfinished import code_fingerprint, processor
from export.verify import Figures
from export.vocabulary import LearnedTokenizer, Vocabulary
from runtime.manifest import SCHEMA_VERSION, file_facts
from runtime.modules import describe

if TYPE_CHECKING:
    from export.declared import Declared
    from export.models import EncoderModel

__all__ = ["describe_model", "fingerprint", "made_with", "shape", "split_speeds"]

SPEEDS = {"tokens_per_second", "times_fp32_speed"}  # figures that differ from run to run


def describe_model(
    job: Job, sources: Mapping[str, str], verification: Figures, max_dense_tokens: int | None
) -> dict[str, object]:
    """Write the manifest.

    :param job: what is exported.
    :param sources: SHA-256 of each file that it is made from.
    :param verification: figures, without speeds: the same checkpoint gives the same manifest.
    :param max_dense_tokens: longer texts run alone; None: any batch.
    :return: everything but ``files`` and ``checksum``.
    """
    settings, stated = job.settings, job.stated
    came_from = source.provenance(settings.source, job.checkpoint_folder)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": settings.name or Path(came_from["name"] or settings.source).name,
        "source": {**came_from, "sha256": dict(sources)},
        **shape(job.model, job.vocabulary, stated, settings.max_tokens),
        "precision": settings.precision,
        "scheme": settings.scheme if settings.precision == "int8" else None,
        "max_dense_tokens": max_dense_tokens,
        "made_with": made_with(),
        "notes": list(stated.notes),
        "verification": verification,
    }


def source_hashes(stated: Declared) -> dict[str, str]:
    """Hash the files of a checkpoint that its vectors are made from.

    :param stated: what its folder declares.
    :return: name within the folder -> SHA-256.
    """
    files = [*checkpoint.weight_files(stated.backbone), stated.backbone / "config.json", *stated.files]
    return {stated.name_of(file): file_facts(file).sha256 for file in sorted(files)}


def fingerprint(
    settings: ExportSettings,
    sources: Mapping[str, str],
    texts: list[str],
    files: Mapping[str, bytes],
    threads: int,
) -> dict[str, Any]:
    """Say what an export's work is made from, so that no stale work is used.

    :param settings: of the export.
    :param sources: SHA-256 of each file of the checkpoint.
    :param texts: the verification texts.
    :param files: of the tokenizer.
    :param threads: of one operator.
    :return: a JSON object.
    """
    digest = hashlib.sha256("\0".join(texts).encode())
    for name, content in sorted(files.items()):
        digest.update(name.encode() + b"\0" + content)
    names = ("precision", "scheme", "min_cosine", "max_tokens", "tokenizer", "without_head", "task")
    return {
        "files": dict(sources),
        "settings": {name: getattr(settings, name) for name in names},
        "texts": digest.hexdigest(),
        "code": code_fingerprint(),
        "libraries": made_with(),
        "processor": [processor(), threads],
    }


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


def made_with() -> dict[str, object]:
    """Name the versions of what makes a model folder."""
    versions: dict[str, object] = {"export": export.__version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "optimum", "optimum-onnx", "onnx", "onnxruntime", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {**versions, "opset": trace.MAX_OPSET}


def split_speeds(figures: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take the speeds out of figures.

    :param figures: of a verification.
    :return: the figures without speeds, and the speeds alone, both nested as they were.
    """
    rest: dict[str, Any] = {}
    speeds: dict[str, Any] = {}
    for name, value in figures.items():
        if name in SPEEDS:
            speeds[name] = value
        elif isinstance(value, Mapping):
            rest[name], inner = split_speeds(value)
            if inner:
                speeds[name] = inner
        else:
            rest[name] = value
    return rest, speeds
