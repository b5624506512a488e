"""A job from its inputs to its end: `embed_files` reads, has workers embed, writes, and accounts for every row."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
from tqdm import tqdm

from runtime import __version__
from runtime.bundled import bundled_model
from runtime.cli.sources import ReadOptions, Source, has_field, missing
from runtime.errors import InputError
from runtime.manifest import check_files

from . import columns, inputs, layout, output
from .arrow import ArrowEmbedder, is_text
from .output import MANIFEST, REJECTS, WRITERS, Journal, Part, load_manifest, save_manifest
from .rows import (
    FILE,
    MOST_BYTES,
    ROW,
    Place,
    Reading,
    first_texts,
    parquet_schemas,
    reject,
    row_groups,
    shown,
)
from .storage import Facts, Storage, reason
from .workers import JobError, embed_units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .arrow import Embedded
    from .inputs import Files

SAMPLE_ROWS = 1000  # that are looked at before the work, and by --dry-run
SAMPLE_SECONDS_TEXTS = 64  # that --dry-run embeds to estimate the time
HOPELESS_ROWS = 10_000  # if so many are rejected and none is good, the job ends
IDENTITY = (  # options that the output follows from: a resumed job must have the same
    "field",
    "id_column",
    "filter",
    "row_groups",
    "input_format",
    "errors",
    "quoting",
    "overflow",
    "prompt_name",
    "prompt",
    "format",
    "dtype",
    "vector_column",
    "shard_rows",
)
LIBRARIES = ("onnxruntime", "numpy", "pyarrow")


class Summary(NamedTuple):
    """What a job did: rows = vectors + rejected."""

    rows: int
    vectors: int
    rejected: int
    filtered: int  # rows that `filter` left out; not in rows
    blank: int  # blank lines that were skipped
    tokens: int
    truncated_texts: int
    cut_tokens: int
    parts: int
    parts_before: int  # of them done by earlier runs
    failed: tuple[str, ...]  # files that could not be read to their end
    problem: str | None  # why the job counts as failed


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
    reading_names = ("encoding", "errors", "delimiter", "quoting")
    options = ReadOptions(
        field, format=input_format, most_bytes=MOST_BYTES, **{name: given[name] for name in reading_names}
    )
    names = (
        "field",
        "vector_column",
        "max_length",
        "overflow",
        "dimensions",
        "normalize",
        "prompt_name",
        "prompt",
    )
    heart = ArrowEmbedder(
        None if model is None else os.path.abspath(os.fspath(model)),
        dtype=dtype,
        **{name: given[name] for name in names},
    )
    manifest = heart.manifest
    check_files(heart.model or bundled_model(), manifest, verify)
    heart.max_length = max_length or manifest.max_tokens
    limit = _max_rejects(max_rejects)
    reading = _reading(files, options, given)
    settings = layout.choose(processes, threads, manifest, heart.max_length)
    heart.threads = settings.threads
    if dry_run:
        return _dry_run(reading, heart, settings, say)
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
        "options": {name: given[name] for name in IDENTITY}
        | {
            "keep": [column.label for column in reading.kept[1 if id_column else 0 :]],
            "unit": reading.unit,
            "encoding": options.encoding,
            "delimiter": options.delimiter,
            "max_length": heart.max_length,
            "dimensions": heart.dimension,
            "normalize": manifest.normalize if normalize is None else normalize,
        },
    }
    storage = Storage(where)
    try:
        storage.make()
    except OSError as error:
        raise InputError(f"--output {where!r}: cannot be made ({reason(error)})") from None
    with storage.lock():
        job = _Job(storage, reading, heart, document, say)
        job.begin(resume, force)
        with contextlib.closing(_Bar(files.bytes, progress)) as bar:
            job.work(settings.processes, dedupe, bar)
        return job.finish(limit)


class _Job:
    """A job and its output."""

    def __init__(
        self,
        storage: Storage,
        reading: Reading,
        heart: ArrowEmbedder,
        document: dict[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self._storage, self._reading, self._heart = storage, reading, heart
        self._document, self._say = document, say
        self._journal = Journal(storage)
        self._parts: dict[int, Part] = {}
        self._before = 0
        self._totals = dict.fromkeys(output.COUNTS, 0)
        self._failed: list[str] = []

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
        self._before = len(self._parts)
        for part in self._parts.values():
            self._count(part)

    def work(self, processes: int, dedupe: bool, bar: _Bar) -> None:
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
        return output.place_after(self._parts[number - 1]) if number else Place()

    def _embed(self, start: Place, number: int, one: bool, processes: int, dedupe: bool, bar: _Bar) -> None:
        """Do parts from a place on: one, or all to the end."""
        reading, heart, storage = self._reading, self._heart, self._storage
        units = reading.units(start, number)
        if one:
            units = _one_part(units, number)
        about = {
            "model": self._document["model"]["name"],
            "checksum": self._document["model"]["checksum"],
            "normalize": self._document["options"]["normalize"],
        }
        part, writer = Part(number), None
        try:
            with contextlib.closing(embed_units(heart, units, processes, dedupe)) as results:
                for unit, found in results:
                    if writer is None:
                        part = Part(unit.part)
                        format_name = self._document["options"]["format"]
                        writer = WRITERS[format_name](storage, unit.part, heart.vector_column, about)
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
                        self._count(part)
                        part.rejects = []
                        self._parts[part.part] = part
                        if self._totals["vectors"] == 0 and self._totals["rows"] >= HOPELESS_ROWS:
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
            vectors = found.vectors if len(good) == len(found.errors) else found.vectors[good]
            writer.write(vectors, self._reading.table(unit, good))
        part.rows += unit.rows
        part.vectors += len(good)
        part.rejected += len(rejects)
        part.rejects += rejects
        part.filtered += unit.filtered
        part.blank += unit.blank
        part.failed += unit.failed
        part.tokens += found.tokens
        part.truncated_texts += found.truncated_texts
        part.cut_tokens += found.cut_tokens

    def _count(self, part: Part) -> None:
        for name in output.COUNTS:
            self._totals[name] += getattr(part, name)
        self._failed += part.failed

    def finish(self, limit: tuple[float, str]) -> Summary:
        """Write what belongs to the end, and tell what was done."""
        totals = self._totals
        first = self._journal.finish()
        hopeless = totals["vectors"] == 0 and totals["rows"] >= HOPELESS_ROWS
        self._document = {
            **self._document,
            "complete": not hopeless,
            "totals": totals,
            "failed": self._failed,
        }
        save_manifest(self._storage, self._document)
        problem = None
        if self._failed:
            problem = f"{self._failed[0]}"
            if len(self._failed) > 1:
                problem += f" (and {len(self._failed) - 1:,} more files could not be read)"
        elif totals["rejected"] and (
            totals["vectors"] == 0 or totals["rejected"] > _allowed(limit, totals["rows"])
        ):
            which = "all" if totals["vectors"] == 0 else f"{totals['rejected']:,} of {totals['rows']:,}"
            bad = first[0]
            line = f"line {bad['line']}" if bad["line"] else f"row {bad['file_row']}"
            more = "" if totals["vectors"] == 0 else f", more than --max-rejects {limit[1]}"
            problem = (
                f"{which} rows were rejected{more}; the first is {bad['file']}, {line}: {bad['reason']} "
                f"(all of them: {self._storage.join(REJECTS)})"
            )
        return Summary(
            **{name: totals[name] for name in output.COUNTS},
            parts=len(self._parts),
            parts_before=self._before,
            failed=tuple(self._failed),
            problem=problem,
        )


def tell(summary: Summary) -> str:
    """A job in one line: every row is accounted for."""
    text = f"{summary.rows:,} rows = {summary.vectors:,} vectors + {summary.rejected:,} rejected"
    if summary.rejected:
        text += f" (see {REJECTS})"
    if summary.filtered:
        text += f"; {summary.filtered:,} more left out by --filter"
    if summary.blank:
        text += f"; {summary.blank:,} blank {'line' if summary.blank == 1 else 'lines'} skipped"
    text += f"; {summary.tokens:,} tokens, {summary.parts:,} part{'s' if summary.parts != 1 else ''}"
    if summary.parts_before:
        text += f", {summary.parts_before:,} of them done before"
    if summary.truncated_texts:
        text += (
            f"; {summary.truncated_texts:,} texts were cut ({summary.cut_tokens:,} tokens lost): "
            "--overflow error rejects them"
        )
    return text


def _reading(files: Files, options: ReadOptions, given: dict[str, Any]) -> Reading:
    """What to read, after a look at the first file; tells what it is."""
    unit, id_column, keep, say = given["unit"], given["id_column"], given["keep"], given["say"]
    condition, groups, shard_rows = given["filter"], given["row_groups"], given["shard_rows"]
    format_name, vector_column = given["format"], given["vector_column"]
    first = files.files[0]
    try:
        with first.storage.open(first.path) as stream:
            source = Source(stream, first.path, options)
    except OSError as error:
        raise InputError(f"{first.path}: cannot be read ({reason(error)})") from None
    text = source.format == "text"
    if unit is not None and not text:
        raise InputError(f"--unit {unit}: is for texts, the input is {source.about()}")
    unit = (unit or ("line" if files.one else "file")) if text else None
    say(
        f"{inputs.describe(files)}: {source.about()}{_unit_told(unit) if text else f', field {options.key!r}'}"
    )
    if files.passed_over:
        others = ", ".join(files.passed_over[:3]) + (", ..." if len(files.passed_over) > 3 else "")
        say(f"{len(files.passed_over):,} files of other kinds passed over ({others})")
    parquet = source.format == "parquet"
    schemas = parquet_schemas(files.files) if parquet and files.kind in (None, "parquet") else []
    present = schemas[0].names if schemas else source.columns
    ident = columns.parse(id_column) if id_column is not None else None
    wanted = [
        columns.parse(word.strip()) for given in keep for word in given.split(",") if word.strip() != "*"
    ]
    if any(word.strip() == "*" for given in keep for word in given.split(",")):
        if not present:
            raise InputError(f"--keep '*': {source.about()} has no list of columns: name them")
        taken = {options.key, ident.name if ident else None, *(column.name for column in wanted)}
        wanted += [columns.Column(name) for name in [*present, *files.partitions()] if name not in taken]
    kept = (*((ident,) if ident else ()), *wanted)
    if text and kept:
        raise InputError(
            "--id-column and --keep: texts have no columns; the output has the row, or the file's name"
        )
    if format_name == "npy" and wanted:
        raise InputError("--keep with --format npy: npy holds vectors and ids only: use --format parquet")
    if not parquet and (condition or groups is not None):
        raise InputError(f"--filter and --row-groups are for Parquet, the input is {source.about()}")
    names = [column.name for column in kept]
    names += [FILE if unit == "file" else ROW] if ident is None else []
    names += [vector_column] if format_name == "parquet" else []
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"two columns of the output would be called {twice!r}: leave one out, or choose another --id-column or "
            "--vector-column"
        )
    tested = columns.parse_filter(condition)[1] if condition else []
    if parquet:
        _check_parquet(first.path, schemas, [options.key, *(column.name for column in kept), *tested], files)
        types = {column.name: _type(column, schemas, files) for column in kept}
        if condition:
            fields = [(name, _type(columns.Column(name), schemas, files)) for name in tested]
            try:
                pa.schema(fields).empty_table().filter(columns.parse_filter(condition)[0])
            except pa.ArrowException as error:
                raise InputError(f"--filter {condition!r}: {reason(error)}") from None
    else:
        if source.columns:
            for name in (options.key, *(column.name for column in kept)):
                if not has_field([*source.columns, *files.partitions()], name):
                    raise InputError(
                        f"{first.path}: {missing(name, source.columns)}: name another with --field"
                    )
                if source.columns.count(name) > 1:
                    raise InputError(f"{first.path}: two columns are called {name!r}: rename one")
        types = {column.name: columns.TYPES[column.type or "string"] for column in kept}
        partitions = files.partitions()
        kept = tuple(
            column._replace(type="int64")
            if column.type is None and partitions.get(column.name) == pa.int64()
            else column
            for column in kept
        )
        types = {column.name: columns.TYPES[column.type or "string"] for column in kept}
    ident = kept[0] if ident else None
    reading = Reading(
        files, options, unit, ident, kept, types, files.partitions(), condition, None, shard_rows
    )
    if groups is not None:
        reading = reading._replace(row_groups=row_groups(groups, files.files))
    if not text:
        _check_field(reading, first.path)
    return reading


def _unit_told(unit: str | None) -> str:
    if unit == "line":
        return ", one text a line (--unit file makes one vector of a whole file)"
    return ", one text a file (--unit line makes a vector of each line)"


def _check_field(reading: Reading, path: str) -> None:
    """Whether any of the first rows has the field with the text: a wrong name would reject every row."""
    one = reading._replace(files=reading.files._replace(files=reading.files.files[:1]), condition=None)
    texts, problems = first_texts(one, 100)
    lacking = [problem for problem in problems if problem.startswith("no field")]
    if lacking and not texts and len(lacking) == len(problems):
        raise InputError(f"{path}: {lacking[0]}: name another with --field")


def _check_parquet(path: str, schemas: list[Any], wanted: Sequence[str], files: Files) -> None:
    schema = schemas[0]
    for name in wanted:
        root = name if name in schema.names else name.partition(".")[0]
        if root not in schema.names and root not in files.partitions():
            raise InputError(
                f"{path}: {missing(name, schema.names).replace('field', 'column')}: choose another"
            )
        twice = schema.names.count(root) > 1
        if twice:
            raise InputError(f"{path}: two columns are called {root!r}: rename one")
    kind = _type(columns.Column(wanted[0]), schemas[:1], files)
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not is_text(kind) and not pa.types.is_null(kind):
        raise InputError(f"{path}: column {wanted[0]!r} is {kind}, not strings: choose another --field")


def _type(column: columns.Column, schemas: list[Any], files: Files) -> Any:
    """The type of a column in all files: null and a type are that type, int32 and int64 are int64."""
    if column.type is not None:
        raise InputError(
            f"{column.label!r}: a column of Parquet has a type of its own: leave :{column.type} out"
        )
    found = []
    for schema in schemas:
        root = column.name if column.name in schema.names else column.name.partition(".")[0]
        if root in schema.names:
            kind = schema.field(root).type
            for part in column.name.split(".")[1:] if root != column.name else ():
                if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
                    raise InputError(f"column {root!r} is {kind}, with no field {column.name!r}")
                kind = kind.field(part).type
            if pa.schema([("x", kind)]) not in found:
                found.append(pa.schema([("x", kind)]))
    if not found:
        return files.partitions()[column.name]
    try:
        return pa.unify_schemas(found, promote_options="permissive").field(0).type
    except pa.ArrowException:
        kinds = " and ".join(str(schema.field(0).type) for schema in found)
        raise InputError(
            f"column {column.name!r} has other types in other files ({kinds}): leave it out, or convert it"
        ) from None


def _one_part(units: Iterator[Any], number: int) -> Iterator[Any]:
    for unit in units:
        yield unit
        if unit.last:
            return


def _max_rejects(value: str | float) -> tuple[float, str]:
    """A number of rows, or a share as a number below 1 with a minus sign; and how it was written."""
    word = str(value).strip()
    try:
        number = float(word.removesuffix("%"))
    except ValueError:
        number = -1
    share = word.endswith("%") or 0 < number < 1
    if number < 0 or (word.endswith("%") and number > 100) or number != number:
        raise InputError(f"--max-rejects {value!r}: expected a number of rows, or a share as 1%")
    return (-number / 100 if word.endswith("%") else -number if share else number), word


def _allowed(limit: tuple[float, str], rows: int) -> float:
    return limit[0] if limit[0] >= 0 and not limit[1].endswith("%") else -limit[0] * rows


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


def _dry_run(reading: Reading, heart: ArrowEmbedder, settings: Any, say: Callable[[str], None]) -> Summary:
    """Tell what a job would read, and how long it would take; nothing is written."""
    files = reading.files
    small = reading._replace(shard_rows=SAMPLE_ROWS)
    texts: list[str] = []
    problems: list[str] = []
    consumed = 0
    for unit in small.units(Place(), 20):
        texts += unit.texts
        problems += [bad["reason"] for bad in unit.rejects] + unit.failed
        consumed = unit.bytes
        if len(texts) + len(problems) >= SAMPLE_ROWS:
            break
    say(
        f"{len(files.files):,} files, {files.bytes:,} bytes; output columns: {', '.join(reading.schema.names)}"
    )
    for name, kind in zip(reading.schema.names, reading.schema.types, strict=True):
        say(f"  {name}: {kind}")
    say(f"  {heart.vector_column}: {heart.schema.field(0).type}")
    for text in texts[:3]:
        say(f"  text: {shown(text)}")
    for problem in problems[:3]:
        say(f"  rejected: {problem}")
    if texts:
        from runtime import Embedder

        with Embedder(heart.model, threads=settings.threads) as embedder:
            counts = sorted(embedder.count_tokens(texts))
            sample = texts[:: max(1, len(texts) // SAMPLE_SECONDS_TEXTS)]
            embedder.encode(sample[:2])
            start = time.perf_counter()
            stats = embedder.encode(sample, max_length=heart.max_length, return_stats=True)[1]
            rate = stats.tokens / (time.perf_counter() - start) * settings.processes
        total = sum(min(count, heart.max_length or count) for count in counts)
        times = max(1.0, files.bytes / max(1, consumed))
        say(
            f"tokens of a text, in the first {len(texts):,}: median {counts[len(counts) // 2]:,}, "
            f"99 % at most {counts[len(counts) * 99 // 100]:,}, longest {counts[-1]:,}"
        )
        say(
            f"about {round((len(texts) + len(problems)) * times):,} rows, {round(total * times):,} tokens; at "
            f"{rate:,.0f} tokens/s with {settings.processes} x {settings.threads} threads about "
            f"{_duration(total * times / rate)}"
        )
    say("dry run: nothing was written")
    return Summary(len(texts) + len(problems), 0, len(problems), 0, 0, 0, 0, 0, 0, 0, (), None)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{max(1, rest)} s"
    )


class _Bar:
    """Progress on standard error, over the bytes of the input; what was done before is not in the rates."""

    def __init__(self, total: int, wanted: bool | None) -> None:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        draw = sys.stderr is not None and (terminal if wanted is None else wanted)
        tqdm.monitor_interval = 0  # no thread for it
        self._bar = tqdm(
            total=total,
            file=sys.stderr,
            disable=not draw,
            dynamic_ncols=terminal,
            smoothing=0.05,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}",
        )
        self._rows = self._tokens = 0
        self.resumed = False
        self._start = time.perf_counter()

    def add(self, done: int, rows: int, tokens: int) -> None:
        """Rows and tokens that are done, up to a byte of the input."""
        if self.resumed and not self._rows:
            self._bar.initial = self._bar.n = done
        self._rows, self._tokens = self._rows + rows, self._tokens + tokens
        seconds = max(time.perf_counter() - self._start, 1e-9)
        rates = f"{self._rows / seconds:,.0f} rows/s, {self._tokens / seconds:,.0f} tokens/s"
        self._bar.set_postfix_str(f"{self._rows:,} rows, {rates}", refresh=False)
        self._bar.update(max(0, done - self._bar.n))

    def close(self) -> None:
        """Leave the line as it is."""
        self._bar.refresh()
        self._bar.close()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
