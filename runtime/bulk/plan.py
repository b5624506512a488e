"""What a job reads: what the input is, which columns travel with the text and of which types, asked before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from runtime.cli.sources import Source
from runtime.errors import InputError

from . import columns, inputs
from .arrow import column_of, texts_of
from .parquet import row_groups, schemas_of
from .rows import FILE, ROW, Place, Reading
from .storage import reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runtime.cli.sources import ReadOptions

    from .inputs import Files

FIRST_ROWS = 100  # that are looked at for the field with the text
UNITS = {
    "line": ", one text a line (--unit file makes one vector of a whole file)",
    "file": ", one text a file (--unit line makes a vector of each line)",
    None: ", field {!r}",
}


def plan(files: Files, options: ReadOptions, given: dict[str, Any], say: Callable[[str], None]) -> Reading:
    """What to read, after a look at the first file.

    :param given: parameters of embed_files.
    :param say: is told what the input is, and what is passed over.
    :raises InputError: the input is nothing that holds texts, or has not the columns.
    """
    first, unit = files.files[0], given["unit"]
    try:
        with first.storage.open(first.path) as stream:
            source = Source(stream, first.path, options)
    except OSError as error:
        raise InputError(f"{first.path}: cannot be read ({reason(error)})") from None
    about, text, parquet = source.about(), source.format == "text", source.format == "parquet"
    if unit is not None and not text:
        raise InputError(f"--unit {unit}: is for texts, the input is {about}")
    if not parquet and (given["filter"] or given["row_groups"] is not None):
        raise InputError(f"--filter and --row-groups are for Parquet, the input is {about}")
    unit = (unit or ("line" if files.one else "file")) if text else None
    if text:  # so are the other files then, whatever one of them begins with
        options.format = "text"
    say(f"{inputs.describe(files)}: {about}{UNITS[unit].format(options.key)}")
    if files.passed_over:
        others = ", ".join(files.passed_over[:3]) + (", ..." if len(files.passed_over) > 3 else "")
        say(f"{len(files.passed_over):,} file(s) passed over: of other kinds, or met before ({others})")
    schemas = schemas_of(files.files) if parquet else []
    present = schemas[0].names if schemas else source.columns
    partitions = files.partitions()
    ident, kept = _wanted(given, [*present, *partitions], options.key, about)
    if text and kept:
        raise InputError(
            "--id-column and --keep: texts have no columns; the output has the row, or the file's name"
        )
    _check_names(given, [column.name for column in kept], None if ident else FILE if unit == "file" else ROW)
    condition, tested = columns.parse_filter(given["filter"]) if given["filter"] else (None, [])
    if not parquet:
        schemas = [pa.schema([(name, pa.string()) for name in present])] if present else []
    kept_names = [column.name for column in kept]
    options.used.update(part for name in kept_names for part in (name, *name.split(".")))
    empty = _empty(schemas, [options.key, *kept_names, *tested], partitions) if schemas else None
    if empty is not None:
        try:
            texts_of(column_of(empty, options.key), options.key)
            found = {name: column_of(empty, name).type for name in [*kept_names, *tested]}
            empty.filter(condition) if condition is not None else None
        except InputError as error:
            raise InputError(f"{first.path}: {error}") from None
        except pa.ArrowException as error:
            raise InputError(f"--filter {given['filter']!r}: {reason(error)}") from None
    if parquet:
        typed = next((column for column in kept if column.type is not None), None)
        if typed is not None:
            raise InputError(
                f"{typed.label!r}: a column of Parquet has a type of its own: leave :{typed.type} out"
            )
        types = {name: found[name] for name in kept_names}
    else:
        whole = [name for name, kind in partitions.items() if pa.types.is_integer(kind)]
        kept = [
            column._replace(type="int64") if column.type is None and column.name in whole else column
            for column in kept
        ]
        types = {column.name: columns.TYPES[column.type or "string"] for column in kept}
    reading = Reading(files, options, unit, ident, tuple(kept), types, partitions, given["filter"])
    if given["row_groups"] is not None:
        reading = reading._replace(row_groups=row_groups(given["row_groups"], files.files))
    if not text and not parquet:
        _check_field(reading, first.path)
    return reading._replace(shard_rows=given["shard_rows"])


def _wanted(
    given: dict[str, Any], present: list[str], key: str, about: str
) -> tuple[columns.Column | None, list[columns.Column]]:
    """The id column, and all that are kept, that one first."""
    words = [word.strip() for one in given["keep"] for word in one.split(",")]
    ident = columns.parse(given["id_column"]) if given["id_column"] is not None else None
    kept = [*([ident] if ident else []), *(columns.parse(word) for word in words if word != "*")]
    if "*" in words:
        if not present:
            raise InputError(f"--keep '*': {about} has no list of columns: name them")
        taken = {key, *(column.name for column in kept)}
        kept += [columns.Column(name) for name in present if name not in taken]
    if given["format"] == "npy" and kept[1 if ident else 0 :]:
        raise InputError("--keep with --format npy: npy holds vectors and ids only: use --format parquet")
    return ident, kept


def _check_names(given: dict[str, Any], kept: Sequence[str], own: str | None) -> None:
    vectors = [given["vector_column"]] if given["format"] == "parquet" else []
    vectors += ["token_vectors"] if given["token_vectors"] is not None else []
    names = [*kept, *([own] if own else []), *vectors]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"two columns of the output would be called {twice!r}: leave one out, or choose another --id-column or "
            "--vector-column"
        )


def _empty(schemas: list[Any], wanted: Sequence[str], partitions: dict[str, Any]) -> Any:
    """A table without rows that has the columns of all files: null and a type are that type, int32 and int64 int64."""
    names = {name for word in wanted for name in (word, word.partition(".")[0])}
    some = dict.fromkeys(pa.schema([one for one in schema if one.name in names]) for schema in schemas)
    twice = next((name for schema in some for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two columns are called {twice!r}: rename one")
    try:
        unified = pa.unify_schemas(list(some), promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(f"columns have other types in other files: {reason(error)}: convert them") from None
    others = [one for one in schemas[0] if one.name not in names]  # for messages
    more = [pa.field(name, kind) for name, kind in partitions.items() if name not in unified.names]
    return pa.schema([*unified, *more, *others]).empty_table()


def _check_field(reading: Reading, path: str) -> None:
    """Whether any of the first rows has the field with the text: a wrong name would reject every row."""
    one = reading._replace(files=reading.files._replace(files=reading.files.files[:1]))
    good, problems = 0, []
    for unit in one.units(Place(), 0):
        good += len(unit.texts)
        problems += [bad["reason"] for bad in unit.rejects]
        if good or len(problems) >= FIRST_ROWS:
            break
    if problems and not good and all(problem.startswith("no field") for problem in problems):
        raise InputError(f"{path}: {problems[0]}: name another with --field")
