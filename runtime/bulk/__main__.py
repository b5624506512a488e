"""`python -m runtime.bulk INPUT... --output OUT`: the command line of jobs over whole corpora.

This file parses and tells; the work is in job.py.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from runtime.cli import command
from runtime.errors import InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

EXAMPLES = """\
examples:
  python -m runtime.bulk corpus.parquet --output vectors --field body --id-column id --keep title,year
  python -m runtime.bulk corpus.parquet --output vectors --filter 'year >= 2020 and language in ("en", "de")'
  python -m runtime.bulk 'crawl/*.jsonl.gz' --output vectors --id-column id:int64 --dtype float16 --resume
  python -m runtime.bulk collection.tsv --output vectors --quoting none --format npy --id-column id
  python -m runtime.bulk corpus.txt --output vectors         # a vector a line
  python -m runtime.bulk notes/ --output vectors             # a folder of .txt and .md files: a vector a file

OUT holds part-00000.parquet and so on, with the vectors as FixedSizeList beside the id and what --keep names; or
part-00000.npy with part-00000.ids.npy. Rows that cannot be embedded (null, no string, not UTF-8, no JSON, an ambiguous
quote, too long with --overflow error) are in _rejects.jsonl with file, line and reason; numbers count from 1. At the
end every row is accounted for: rows = vectors + rejected.

After a stop, a crash or kill -9, the same command with --resume does what is not done, and nothing twice; the files are
the same to the bit. It refuses if input, model or options have changed. Processes and threads may.

exit status: 0 all rows are done, and no more were rejected than --max-rejects; 1 more were, all were, a file could not
be read to its end, or a worker, an output or the machine failed; 2 an argument, the input or the model is wrong; 130 or
143 stopped by Ctrl-C or SIGTERM.
"""
KEPT = ": what is done is kept, go on with --resume"


def parser() -> command.Parser:
    """Make the parser of the command line."""
    options = command.Parser(
        "runtime.bulk",
        "Embed a corpus into files of vectors, on all CPU cores of a machine; it can be resumed.",
        EXAMPLES,
        "bulk",
    )
    add = options.add_argument
    add(
        "source",
        metavar="INPUT",
        nargs="+",
        help="a file, a folder, a pattern in quotes, or a URI: s3://, gs://, hdfs://",
    )
    add("--output", metavar="OUT", dest="target", required=True, help="folder of the output, or a URI")
    add("--resume", action="store_true", help="go on with the job in OUT, or begin if there is none")
    command.add_force(options, "remove the job in OUT and begin again")
    add(
        "--dry-run",
        action="store_true",
        help="show columns, first texts, tokens and the time it takes; write nothing",
    )

    group = options.add_argument_group("input")
    add = group.add_argument
    command.add_field(
        group, "column or field with the text; a.b for b within a (default: %(default)s)", "text"
    )
    add(
        "--id-column",
        metavar="NAME[:TYPE]",
        help="column to keep as the id (default: none; the output has `row`, the number of the row in the whole input"
        " from 1, or `file` for texts of a file each)",
    )
    add(
        "--keep",
        metavar="NAME[:TYPE],...",
        action="append",
        default=[],
        help="more columns to keep; * for all (not from JSON lines). Parquet's keep their types, those of JSON lines"
        " and CSV are strings unless TYPE says int64, float64 or bool. Repeatable",
    )
    add(
        "--filter",
        metavar="CONDITION",
        help='only rows of Parquet for which it holds, such as \'year >= 2020 and language in ("en", "de")\'; row'
        " groups whose statistics exclude it are not read",
    )
    add(
        "--row-groups",
        metavar="N-M,...",
        help="only these row groups of Parquet, counted through all files from 0",
    )
    add(
        "--unit",
        choices=("line", "file"),
        help="of texts, what a vector is made of (default: a line of a file that is named, a file of a folder)",
    )
    command.add_reading(group)
    add(
        "--max-rejects",
        metavar="N|P%",
        default="1%",
        help="more rejected rows, or a larger share of all, end with exit status 1 (default: %(default)s)",
    )

    group = options.add_argument_group("vectors")
    add = group.add_argument
    command.add_model(group)
    command.add_max_length(group)
    command.add_overflow(group, "a longer text is cut, or rejected (default: %(default)s)")
    command.add_dimensions(group)
    command.add_normalize(group)
    command.add_prompt(group)
    add(
        "--dedupe",
        action="store_true",
        help="embed equal texts once (as far as the last 128 MiB of vectors reach)",
    )

    group = options.add_argument_group("output")
    add = group.add_argument
    add("--format", choices=("parquet", "npy"), default="parquet", help="default: %(default)s")
    add("--dtype", choices=("float32", "float16"), default="float32", help="default: %(default)s")
    add("--vector-column", metavar="NAME", default="embedding", help="default: %(default)s")
    add(
        "--token-vectors",
        choices=("int8", "float16", "float32"),
        help="also a column token_vectors, with a vector a token, for MaxSim (default: none)",
    )
    add(
        "--token-dimensions",
        type=command.integer(1),
        metavar="N",
        help="numbers of a token's vector: rotated and cut (default: all)",
    )
    add(
        "--shard-rows",
        type=command.integer(1),
        metavar="N",
        help="rows of input in a part (default: 512 in the first, twice as many in each after it up to 8192); long"
        " texts make it smaller",
    )

    group = options.add_argument_group("where it runs")
    group.add_argument(
        "--processes",
        type=command.integer(1),
        metavar="N",
        help="workers with a model each (default: as many as CPU cores / threads and memory allow)",
    )
    command.add_threads(group, "of each worker (default: 2, or CPU cores / processes)")
    command.add_progress(group)
    group.add_argument("--quiet", action="store_true", help="no progress, and nothing told but errors")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param arguments: without the program's name; None for sys.argv.
    :return: exit status.
    """
    return parser().run(_main, arguments, unfinished=KEPT, sigterm_status=command.SIGTERM_STATUS)


def _main(options: argparse.Namespace) -> int:
    try:
        from . import job
    except ImportError as error:
        raise InputError(
            f'{error.name or error} is not installed: pip install "jinabert-runtime[bulk]"'
        ) from None
    values = vars(options)
    quiet = values.pop("quiet")
    if quiet:
        values["progress"] = False
    summary = job.embed_files(**values, say=lambda line: None if quiet else command.say("bulk", line))
    if not quiet and not options.dry_run:
        command.say("bulk", summary)
    if summary.problem is not None:
        command.say("bulk", summary.problem)
    return 0 if summary.problem is None else 1


if __name__ == "__main__":
    sys.exit(main())
