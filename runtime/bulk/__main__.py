"""`python -m runtime.bulk INPUT --output OUT`: the command line of bulk jobs.

This file parses, checks and tells; the work is in the other files of this folder.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from runtime.errors import JinaBertError

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLES = """\
examples:
  python -m runtime.bulk corpus.parquet --output vectors --text-column body --id-column id --keep title,year
  python -m runtime.bulk corpus.parquet --output vectors --filter 'year >= 2020 and language in ("en", "de")'
  python -m runtime.bulk 'crawl/*.jsonl' --output vectors --id-column id:int64 --dtype float16 --resume
  python -m runtime.bulk table.csv --output vectors --format npy --id-column id
  python -m runtime.bulk notes/ --output vectors                 # a folder of .txt and .md files, a vector each
  python -m runtime.bulk s3://bucket/corpus/ --output s3://bucket/vectors --engine ray --ray-address auto

OUT holds part-00000.parquet and so on, one file a shard, with the vectors as FixedSizeList beside the id and what
--keep names; or part-00000.npy with part-00000.ids.npy. A shard's file is there whole or not at all. _manifest.json
says what the job is made from and which shards are done (rows, sizes, SHA-256). Rows that cannot be embedded (null,
no string, no UTF-8, no JSON, too long with --overflow error) go to _rejects.jsonl with their number and the reason.

After a stop, a crash or kill -9, the same command with --resume does what is not done, and nothing twice; the result is
the same to the bit. It refuses if input, model or options have changed. Processes, threads and engine may change.

exit status: 0 all rows are done (rejected ones are counted, not an error), 1 a worker, an output or the machine failed,
2 an argument, the input or the model is wrong, 130 or 143 stopped by Ctrl-C or SIGTERM.
"""


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    options = argparse.ArgumentParser(
        prog="python -m runtime.bulk",
        description="Embed a corpus into shards of vectors, on many processors or a Ray cluster; it can be resumed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    options.add_argument(
        "input",
        metavar="INPUT",
        help="a file, a folder, or a pattern in quotes; or a URI: s3://, gs://, hdfs://",
    )
    options.add_argument("--output", metavar="OUT", required=True, help="folder of the output, or a URI")
    options.add_argument(
        "--resume", action="store_true", help="go on with the job in OUT, or begin if there is none"
    )

    group = options.add_argument_group("input")
    add = group.add_argument
    add(
        "--input-format",
        choices=("parquet", "jsonl", "csv", "text"),
        help="text: a file is a text (default: by the files' names: .parquet, .jsonl, .csv or .tsv, .txt or .md)",
    )
    add(
        "--text-column",
        metavar="NAME",
        default="text",
        help="column or field with the text (default: %(default)s)",
    )
    add(
        "--id-column",
        metavar="NAME[:TYPE]",
        help="column to keep as the id (default: none; the output has the number of the row in the whole input, from 0,"
        " as `row`, or the name of the file as `file` for a folder of texts)",
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
    add("--delimiter", metavar="C", help="of CSV (default: a comma, a tab for .tsv)")

    group = options.add_argument_group("vectors")
    add = group.add_argument
    add("--model", metavar="DIR", help="model folder made by python -m export (default: the bundled model)")
    add("--verify", action="store_true", help="compare the SHA-256 of the model's files before using it")
    add("--max-length", type=int, metavar="N", help="most tokens of a text (default: the model's)")
    add(
        "--overflow",
        choices=("truncate", "error"),
        default="truncate",
        help="a longer text is cut, or rejected (default: %(default)s)",
    )
    add(
        "--dimensions",
        type=int,
        metavar="N",
        help="keep the first N numbers of a vector, of a model exported with --rotate (default: all)",
    )
    add("--no-normalize", action="store_true", help="leave vectors at their length instead of making it 1")

    group = options.add_argument_group("output")
    add = group.add_argument
    add("--format", choices=("parquet", "npy"), default="parquet", help="default: %(default)s")
    add("--dtype", choices=("float32", "float16"), default="float32", help="default: %(default)s")
    add("--vector-column", metavar="NAME", default="embedding", help="default: %(default)s")
    add(
        "--shard-rows",
        type=int,
        metavar="N",
        help="rows of input in a shard, which ends earlier at 4 MiB of text: what a kill can cost each process, and"
        " what --format npy holds in memory (default: 8192)",
    )

    group = options.add_argument_group("where it runs")
    add = group.add_argument
    add("--engine", choices=("processes", "ray"), default="processes", help="default: %(default)s")
    add(
        "--processes",
        type=int,
        metavar="N",
        help="workers with a model each (default: as many as processors / threads and memory allow; with --engine ray"
        " as many as the cluster's)",
    )
    add("--threads", type=int, metavar="N", help="of each worker (default: 1, or processors / processes)")
    add(
        "--ray-address",
        metavar="ADDRESS",
        help="cluster to join, as ray.init takes it: auto or HOST:PORT (default: RAY_ADDRESS, else a local one)",
    )
    add("--progress", action=argparse.BooleanOptionalAction, help="draw progress (default: on a terminal)")
    add("--quiet", action="store_true", help="no progress and no summary")
    return options


class Stopped(BaseException):
    """SIGTERM came."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param arguments: without the program's name; None for sys.argv.
    :return: exit status.
    """
    options = parser().parse_args(arguments)
    stopped = False

    def stop(*_: Any) -> NoReturn:
        nonlocal stopped
        stopped = True
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        from .run import run
    except ImportError as error:
        return _missing(error, "bulk")
    from .job import JobError

    try:
        try:
            return run(options, _say)
        except Exception:
            if stopped:  # inside a library, which made an error of its own of it
                raise Stopped from None
            raise
    except JobError as error:
        return _fail(f"{error}: what is done is kept, go on with --resume", 1)
    except MemoryError as error:
        return _fail(str(error) or "not enough memory", 1)
    except JinaBertError as error:
        return _fail(error, 2)
    except ImportError as error:
        return _missing(error, options.engine if options.engine == "ray" else "bulk")
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        lines = (error.strerror or str(error)).splitlines() or ["failed"]
        return _fail(f"{name}{lines[0]}: what is done is kept, go on with --resume", 1)
    except KeyboardInterrupt:
        return _fail("interrupted: what is done is kept, go on with --resume", 130)
    except Stopped:
        return _fail("stopped by SIGTERM: what is done is kept, go on with --resume", 143)
    finally:
        signal.signal(signal.SIGTERM, before)


def _missing(error: ImportError, extra: str) -> int:
    name = (error.name or "").partition(".")[0] or str(error)
    return _fail(f'{name} is not installed: pip install "jinabert-runtime[{extra}]"', 2)


def _say(message: object) -> None:
    if sys.stderr is not None:
        try:
            sys.stderr.write(f"bulk: {message}\n")
            sys.stderr.flush()
        except OSError:  # closed or full: no reason for work that is right to end in an error
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _fail(message: object, status: int) -> int:
    _say(message)
    return status


if __name__ == "__main__":
    sys.exit(main())
