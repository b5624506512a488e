"""A job from its options to its end: what is wanted, what is done already, the engine, the manifest."""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import TYPE_CHECKING

from runtime.bundled import bundled_model
from runtime.embedder import MIN_MAX_LENGTH
from runtime.errors import InputError
from runtime.manifest import check_dimensions, check_files, load_manifest

from . import columns, filters, inputs, layout, processes
from .job import Job
from .manifest import MANIFEST, REJECTS, JobManifest
from .plan import SHARD_ROWS, footer, plan, row_groups
from .progress import Bar
from .rows import csv_header
from .schema import all_columns, check_names
from .shards import REJECTS as SHARD_REJECTS
from .storage import Storage

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Generator

    from runtime.manifest import Manifest as ModelManifest

    from .inputs import Files
    from .shards import Done, Written

LARGEST = (1 << 31) - 1


def run(options: argparse.Namespace, say: Callable[[object], None]) -> int:
    """Do a job, or what is left of it.

    :param options: of the command line.
    :param say: shows a line.
    :return: exit status: 0.
    :raises InputError: an argument or the input is wrong.
    :raises ModelError: the model cannot be used.
    :raises JobError: a worker failed.
    :raises OSError: the output cannot be written.
    """
    _check_numbers(options)
    engine = _engine(options.engine)
    model = load_manifest(options.model or bundled_model())
    check_files(options.model or bundled_model(), model, options.verify)
    files = inputs.find(options.input, options.input_format, options.output)
    job = _job(options, files, model)
    check_names(job)
    shards = plan(job, files)
    storage = Storage(options.output)
    settings = layout.choose(options.processes, options.threads, model, job.max_length)
    settings = settings._replace(address=options.ray_address)
    if options.engine == "ray" and options.processes is None:
        settings = settings._replace(processes=0)
    try:
        storage.make()
    except OSError as error:
        raise InputError(f"--output {options.output!r}: cannot be made ({error.strerror or error})") from None
    lock = storage.lock()
    try:
        manifest = _begin(
            options, storage, JobManifest.new(storage, job, inputs.fingerprint(files), model, shards), say
        )
        left = [shard for shard in shards if shard.number not in manifest.done]
        bar = Bar(shards, left, options.progress, options.quiet)
        try:
            if left:
                with contextlib.closing(engine(job, left, settings, bar.add)) as results:
                    for done in results:
                        manifest.record(done)
        finally:
            bar.close()
            storage.sweep()
        _gather_rejects(storage, manifest)
        if left or not shards:
            manifest.save()
        if not options.quiet:
            say(_summary(manifest.totals(), len(shards), len(left), job))
        return 0
    finally:
        if lock is not None:
            os.close(lock)


def _check_numbers(options: argparse.Namespace) -> None:
    for name, least in (("max_length", MIN_MAX_LENGTH), ("shard_rows", 1), ("processes", 1), ("threads", 1)):
        value = getattr(options, name)
        if value is not None and not least <= value <= LARGEST:
            raise InputError(
                f"--{name.replace('_', '-')} {value}: a number from {least} to {LARGEST:,} wanted"
            )
    if options.delimiter is not None and (len(options.delimiter) != 1 or options.delimiter in '\r\n"'):
        raise InputError(f"--delimiter {options.delimiter!r}: one character wanted, no quote and no line end")
    if options.ray_address is not None and options.engine != "ray":
        raise InputError("--ray-address is for --engine ray")


def _engine(name: str) -> Callable[..., Generator[Done]]:
    if name == "ray":
        importlib.import_module("ray.data")  # missing, it is to be missed before anything is written
        from . import ray_engine

        return ray_engine.run
    return processes.run


def _job(options: argparse.Namespace, files: Files, model: ModelManifest) -> Job:
    words = [word.strip() for given in options.keep for word in given.split(",")]
    delimiter = options.delimiter or ("\t" if files.files[0].name.lower().endswith(".tsv") else ",")
    if options.filter is not None:
        filters.parse(options.filter)
    if options.row_groups is not None:
        row_groups(options.row_groups)
    job = Job(
        source=_absolute(options.input),
        kind=files.kind,
        text_column=options.text_column,
        id_column=columns.parse(options.id_column) if options.id_column is not None else None,
        keep=tuple(columns.parse(word) for word in words if word != "*"),
        delimiter=delimiter,
        condition=options.filter,
        row_groups=options.row_groups,
        model=os.path.abspath(options.model) if options.model is not None else None,
        model_checksum=model.document["checksum"],
        max_length=options.max_length or model.max_tokens,
        overflow=options.overflow,
        normalize=not options.no_normalize,
        dimensions=check_dimensions(model, options.dimensions),
        output=_absolute(options.output),
        format=options.format,
        dtype=options.dtype,
        vector_column=options.vector_column,
        shard_rows=options.shard_rows or SHARD_ROWS,
    )
    if "*" in words:
        job = _with_all_columns(job, files)
    return job


def _absolute(place: str) -> str:
    """For processes that are started elsewhere."""
    return place if "://" in place else os.path.abspath(place)


def _with_all_columns(job: Job, files: Files) -> Job:
    from dataclasses import replace

    if job.kind not in ("parquet", "csv"):
        raise InputError(f"--keep '*': {job.kind} has no list of columns: name them")
    storage, first = Storage(inputs.root(job.source)), files.files[0]
    if job.kind == "parquet":
        names = footer(storage, first).schema.to_arrow_schema().names
    else:
        with storage.open(first.path) as stream:
            names = csv_header(stream, job.delimiter)
    typed = {column.name: column for column in job.keep}
    return replace(job, keep=tuple(typed.get(column.name, column) for column in all_columns(job, names)))


def _begin(
    options: argparse.Namespace, storage: Storage, new: JobManifest, say: Callable[[object], None]
) -> JobManifest:
    """The manifest to go on with, on disk."""
    where = f"--output {options.output!r}"
    old = JobManifest.load(storage)
    if old is None:
        strange = [name for name in storage.names() if not name.startswith(".")]
        if strange:
            raise InputError(
                f"{where} has {strange[0]!r} in it, but no {MANIFEST}: name a new or empty folder"
            )
        new.save()
        return new
    if not options.resume:
        raise InputError(f"{where} holds a job already: go on with --resume, or name another folder")
    difference = old.differences(new)
    if difference is not None:
        raise InputError(f"--resume: {difference}: undo that, or name another --output")
    versions = old.versions(new)
    if versions is not None and not options.quiet:
        say(f"begun with other versions ({versions}): last bits of vectors may differ between shards")
    storage.sweep()
    for number, done in sorted(old.done.items()):
        damaged = next((file.name for file in done.files if not _whole(storage, file)), None)
        if damaged is not None:
            say(f"{damaged} is missing or changed: shard {number} is done again")
            del old.done[number]
    new.done.update(old.done)
    return new


def _whole(storage: Storage, file: Written) -> bool:
    """Whether a file is as the manifest says; in an object store by its size, since reading it would be a download."""
    if not storage.local:
        size: int | None = storage.size(file.name)
        return size == file.size
    facts: tuple[int, str] | None = storage.facts(file.name)
    return facts == (file.size, file.sha256)


def _gather_rejects(storage: Storage, manifest: JobManifest) -> None:
    numbers = [done.number for _, done in sorted(manifest.done.items()) if done.rejected]
    if not numbers:
        return
    with storage.create(REJECTS) as draft:
        for number in numbers:
            draft.stream.write(storage.read(SHARD_REJECTS.format(number)) or b"")


def _summary(totals: dict[str, int], shards: int, left: int, job: Job) -> str:
    text = f"{totals['rows']:,} rows embedded, {totals['rejected']:,} rejected"
    if totals["rejected"]:
        text += f" (see {REJECTS})"
    text += f", {totals['tokens']:,} tokens, {shards:,} shards"
    if left < shards:
        text += f", {shards - left:,} of them done before"
    if totals["truncated_texts"]:
        text += (
            f"; {totals['truncated_texts']:,} texts were cut to {job.max_length:,} tokens"
            f" ({totals['cut_tokens']:,} tokens lost): --overflow error rejects them"
        )
    return text
