"""A job from its inputs to its end: `embed_files` reads, has workers embed, writes, and accounts for every row."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime import __version__
from runtime.cli.sources import ReadOptions
from runtime.errors import InputError
from runtime.manifest import check_files

from . import dry_run as dry
from . import inputs, layout, output
from .arrow import ArrowEmbedder
from .output import MANIFEST, REJECTS, WRITERS, Journal, Part, load_manifest, save_manifest
from .plan import plan
from .progress import Bar
from .rows import MOST_BYTES, Counts, Place, Reading, reject
from .storage import Facts, Storage, reason
from .workers import JobError, embed_units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .embedding import Embedded

HOPELESS_ROWS = 10_000  # if so many are rejected and none is good, the job ends
LIBRARIES = ("onnxruntime", "numpy", "pyarrow")
READING_OPTIONS = ("encoding", "errors", "delimiter", "quoting")
# Nothing of the output follows from these: a resumed job may have others.
RUN_OPTIONS = {"source", "target", "model", "dedupe", "max_rejects", "processes", "threads", "verify"}
RUN_OPTIONS |= {"resume", "force", "dry_run", "progress", "say"}


@dataclass
class Summary(Counts):
    """What a job did."""

    parts: int = 0
    parts_before: int = 0  # of them done by earlier runs
    problem: str | None = None  # why the job counts as failed

    def __str__(self) -> str:
        """In one line: every row is accounted for."""
        clauses = {
            f"{self.rows:,} rows = {self.vectors:,} vectors + {self.rejected:,} rejected": True,
            f" (see {REJECTS})": self.rejected,
            f"; {self.filtered:,} more left out by --filter": self.filtered,
            f"; {self.blank:,} blank {'line' if self.blank == 1 else 'lines'} skipped": self.blank,
            f"; {self.tokens:,} tokens, {self.parts:,} {'part' if self.parts == 1 else 'parts'}": True,
            f", {self.parts_before:,} of them done before": self.parts_before,
            f"; {self.truncated_texts:,} texts were cut ({self.cut_tokens:,} tokens lost)": self.truncated_texts,
        }
        return "".join(text for text, wanted in clauses.items() if wanted)


def embed_files(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    *,
    field: str = "text",
    id_column: str | None = None,
    keep: Sequence[str] = (),
    filter: str | None = None,  # noqa: A002
    row_groups: str | None = None,
    input_format: str | None = None,
    unit: str | None = None,
    encoding: str | None = None,
    errors: str = "strict",
    delimiter: str | None = None,
    quoting: str = "auto",
    model: str | os.PathLike[str] | None = None,
    max_length: int | None = None,
    overflow: str = "truncate",
    dimensions: int | None = None,
    normalize: bool | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
    format: str = "parquet",  # noqa: A002
    dtype: str = "float32",
    vector_column: str = "embedding",
    token_vectors: str | None = None,
    token_dimensions: int | None = None,
    shard_rows: int | None = None,
    dedupe: bool = False,
    max_rejects: str | float = "1%",
    processes: int | None = None,
    threads: int | None = None,
    verify: bool = False,
    resume: bool = False,
    force: bool = False,
    dry_run: bool = False,
    progress: bool | None = False,
    say: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Embed files of texts into a folder of vectors; parameters as the options of `python -m runtime.bulk`.

    :param source: file, folder, pattern or URI, or several.
    :param target: folder or URI.
    :param keep: columns as NAME or NAME:TYPE; "*" for all.
    :param max_rejects: a number of rows, or a share as "1%".
    :param progress: draw a line on standard error; None for on a terminal.
    :param say: shows a line.
    :return: what was done. `problem` is set if rows were lost to more than max_rejects.
    :raises InputError: an argument or the input is wrong; nothing was written.
    :raises ModelError: the model cannot be used.
    :raises JobError: a worker failed; what is done is kept, go on with resume=True.
    :raises OSError: the output cannot be written; the same.
    """
    given = dict(locals())
    if resume and force:
        raise InputError("--resume and --force together: give one of them")
    places = [source] if isinstance(source, str | os.PathLike) else list(source)
    where = os.fspath(target)
    files = inputs.find([os.fspath(place) for place in places], input_format, where)
    how = {name: given[name] for name in READING_OPTIONS}
    options = ReadOptions(field, format=input_format, most_bytes=MOST_BYTES, **how)
    folder = None if model is None else os.path.abspath(os.fspath(model))
    own = given | {"model": folder, "threads": None}
    embedder = ArrowEmbedder(
        **{name: own[name] for name in ArrowEmbedder.__dataclass_fields__ if name in own}
    )
    manifest = embedder.manifest
    check_files(embedder.folder, manifest, verify)
    embedder.max_length = max_length or manifest.max_tokens
    limit = _max_rejects(max_rejects)
    reading = plan(files, options, given, say)
    if token_vectors is not None:
        if format == "npy":
            raise InputError(
                "--token-vectors with --format npy: npy holds one vector a row: use --format parquet"
            )
        bytes_of_token = embedder.token_dimension * np.dtype(token_vectors).itemsize
        reading = reading._replace(smaller=max(1, bytes_of_token // 128))
    settings = layout.choose(processes, threads, manifest, embedder.max_length)
    embedder.threads, embedder.long_texts = settings.threads, settings.long_texts
    if dry_run:
        rows, rejected = dry.sample(reading, embedder, settings, say)
        return Summary(rows=rows, rejected=rejected)
    document = {
        "schema_version": output.SCHEMA_VERSION,
        "made_with": {"jinabert-runtime": __version__, **{name: _version(name) for name in LIBRARIES}},
        "input": inputs.fingerprint(files, verify),
        "model": {
            "name": manifest.name,
            "checksum": manifest.document["checksum"],
            "precision": manifest.precision,
            "dimension": manifest.dimension,
        },
        "options": {name: value for name, value in given.items() if name not in RUN_OPTIONS}
        | {
            "keep": [column.label for column in reading.kept[1 if id_column else 0 :]],
            "unit": reading.unit,
            "encoding": options.encoding,
            "delimiter": options.delimiter,
            "max_length": embedder.max_length,
            "dimensions": embedder.dimension,
            "normalize": manifest.normalize if normalize is None else normalize,
        },
    }
    storage = Storage(where)
    try:
        storage.make()
    except OSError as error:
        raise InputError(f"--output {where!r}: cannot be made ({reason(error)})") from None
    with storage.lock():
        job = _Job(storage, reading, embedder, document, say)
        job.begin(resume, force)
        with contextlib.closing(Bar(files.bytes, progress)) as bar:
            job.work(settings.processes, dedupe, bar)
        return job.finish(limit)


class _Job:
    """A job and its output."""

    def __init__(
        self,
        storage: Storage,
        reading: Reading,
        embedder: ArrowEmbedder,
        document: dict[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self._storage, self._reading, self._embedder = storage, reading, embedder
        self._document, self._say = document, say
        self._journal = Journal(storage)
        self._parts: dict[int, Part] = {}
        self._totals = Summary()

    def begin(self, resume: bool, force: bool) -> None:
        """See what is there already, and say on disk what is to be done."""
        storage, where = self._storage, f"--output {self._storage.place!r}"
        if force and (storage.read(MANIFEST) is not None):
            output.clear(storage)
        old = load_manifest(storage)
        if old is None:
            strange = [name for name in storage.names() if not name.startswith(".")]
            if strange:
                raise InputError(
                    f"{where} has {strange[0]!r} in it, but no {MANIFEST}: name a new or empty folder"
                )
            save_manifest(storage, self._document | {"complete": False})
            return
        if not resume:
            raise InputError(f"{where} holds a job already: go on with --resume, or replace it with --force")
        difference = _difference(old, self._document)
        if difference is not None:
            raise InputError(
                f"--resume: {difference}: undo that, start over with --force, or name another --output"
            )
        then, now = old["made_with"], self._document["made_with"]
        changed = next((name for name in now if then.get(name) != now[name]), None)
        if changed is not None:
            versions = f"{changed} {then.get(changed)} then, {now[changed]} now"
            self._say(
                f"begun with other versions ({versions}): last bits of vectors may differ between parts"
            )
        self._document = old
        storage.sweep()
        for number, part in sorted(self._journal.load().items()):
            damaged = next(
                (name for name, *facts in part.files if not storage.same(name, Facts(*facts))), None
            )
            if damaged is None:
                self._parts[number] = part
            else:
                self._journal.ordered = False
                self._say(f"{damaged} is missing or changed: part {number} is done again")
        self._totals.parts_before = len(self._parts)
        for part in self._parts.values():
            self._totals.add(part)

    def work(self, processes: int, dedupe: bool, bar: Bar) -> None:
        """Do the parts that are not done."""
        highest = max(self._parts, default=-1)
        gaps = [number for number in range(highest + 1) if number not in self._parts]
        for number in gaps:
            self._embed(self._place(number), number, True, 1, dedupe, bar)
        end = self._place(highest + 1)
        if end.file < len(self._reading.files.files):
            bar.resumed = highest >= 0
            self._embed(end, highest + 1, False, processes, dedupe, bar)

    def _place(self, number: int) -> Place:
        return Place(*self._parts[number - 1].end) if number else Place()

    def _embed(self, start: Place, number: int, one: bool, processes: int, dedupe: bool, bar: Bar) -> None:
        """Do parts from a place on: one, or all to the end."""
        reading, embedder, storage = self._reading, self._embedder, self._storage
        units = reading.units(start, number)
        if one:
            units = _one_part(units, number)
        model, options = self._document["model"], self._document["options"]
        about = {"model": model["name"], "checksum": model["checksum"], "normalize": options["normalize"]}
        part, writer = Part(), None
        try:
            with contextlib.closing(embed_units(embedder, units, processes, dedupe)) as results:
                for unit, found in results:
                    if writer is None:
                        part = Part(part=unit.part)
                        make = WRITERS[options["format"]]
                        writer = make(storage, unit.part, embedder.schema.names, about)
                    self._add(part, unit, found, writer)
                    bar.add(unit.bytes, unit.rows, found.tokens)
                    if unit.last:
                        part.files = [[name, *facts] for name, facts in writer.close()]
                        part.end, writer = list(unit.end), None
                        if part.rows != part.vectors + part.rejected:
                            raise JobError(
                                f"part {part.part}: {part.rows} rows became {part.vectors} vectors and "
                                f"{part.rejected} rejects: this is a fault of the program"
                            )
                        self._journal.add(part)
                        self._totals.add(part)
                        part.rejects = []
                        self._parts[part.part] = part
                        if self._hopeless:
                            return
        except BaseException:
            if writer is not None:
                writer.discard()
            raise
        finally:
            storage.sweep()

    def _add(self, part: Part, unit: Any, found: Embedded, writer: Any) -> None:
        good = [number for number, error in enumerate(found.errors) if error is None]
        late = [reject(unit.places[n], error) for n, error in enumerate(found.errors) if error is not None]
        rejects = sorted(unit.rejects + late, key=lambda bad: bad["row"]) if late else unit.rejects
        if good:
            table, schema = self._reading.table(unit, good), self._embedder.schema
            for place, array in enumerate(self._embedder.arrays(found.chosen(good))):
                if schema.names[place] != self._embedder.error_column:
                    table = table.append_column(schema.field(place), array)
            writer.write(table)
        part.add(unit)
        part.vectors += len(good)
        part.rejected += len(rejects)
        part.rejects += rejects
        part.tokens += found.tokens
        part.truncated_texts += found.truncated_texts
        part.cut_tokens += found.cut_tokens

    @property
    def _hopeless(self) -> bool:
        return self._totals.vectors == 0 and self._totals.rows >= HOPELESS_ROWS

    def finish(self, limit: tuple[float, str]) -> Summary:
        """Write what belongs to the end, and tell what was done."""
        totals = self._totals
        totals.parts = len(self._parts)
        first = self._journal.finish()
        end = {"complete": not self._hopeless, "totals": totals.counts()}
        save_manifest(self._storage, self._document | end)
        allowed = limit[0] * totals.rows if limit[1].endswith("%") else limit[0]
        if totals.failed:
            more = f" (and {len(totals.failed) - 1:,} more files)" if len(totals.failed) > 1 else ""
            totals.problem = f"{totals.failed[0]}{more}"
        elif totals.rejected and (totals.vectors == 0 or totals.rejected > allowed):
            bad = first[0]
            line = f"line {bad['line']}" if bad["line"] else f"row {bad['file_row']}"
            where = f"{bad['file']}, {line}"
            which = f"{totals.rejected:,} of {totals.rows:,} rows were rejected, more than --max-rejects {limit[1]}"
            totals.problem = (
                f"{which if totals.vectors else 'all rows were rejected'}; the first is {where}: {bad['reason']} "
                f"(all of them: {self._storage.join(REJECTS)})"
            )
        return totals


def _one_part(units: Iterator[Any], number: int) -> Iterator[Any]:
    for unit in units:
        yield unit
        if unit.last:
            return


def _max_rejects(value: str | float) -> tuple[float, str]:
    """A number of rows, or the share of a word that ends with %; and the word."""
    word = f"{value:%}" if isinstance(value, float) and 0 < value < 1 else str(value).strip()
    try:
        number = float(word.removesuffix("%"))
    except ValueError:
        number = -1
    if not 0 <= number < (100.1 if word.endswith("%") else 1e18):
        raise InputError(f"--max-rejects {value}: expected a number of rows, or a share as 1%")
    return number / 100 if word.endswith("%") else number, word


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Why one job cannot go on as another; None if it can."""
    by = old["input"].get("by")
    if by != new["input"]["by"]:
        return f"the job was begun {'with' if by == 'content' else 'without'} --verify"
    for part, title in (("input", "the input"), ("model", "the model")):
        for key, before in old[part].items():
            now = new[part].get(key)
            if now != before:
                what = f"its names, or {by}" if key == "digest" else f"{key} was {before}, is {now}"
                return f"{title} has changed ({what})"
    for key in sorted({*old["options"], *new["options"]}):
        before, now = old["options"].get(key), new["options"].get(key)
        if before != now:
            return f"--{key.replace('_', '-')} was {before!r}, is {now!r}"
    return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
