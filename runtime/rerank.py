"""`python -m runtime.rerank`: which passages answer a query best, and where.

This file parses and prints; the work is in reranker.py, with the bundled embedding model or a cross-encoder.
"""

from __future__ import annotations

import sys

from .cli import command
from .errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .reranker import Ranked

NAME = "rerank"  # with which lines on standard error begin
EXAMPLES = """\
examples:
  python -m runtime.rerank "Who wrote Faust?" "Goethe wrote Faust." "Faust is a play." "It rains."
  python -m runtime.rerank "reset a password" --input passages.txt --top 5
  python -m runtime.rerank "reset a password" --input passages.jsonl --field body --format text
  python -m runtime.rerank "reset a password" --input passages.txt --model models/jina-reranker-v1-tiny-en

The model is an embedding model, whose token vectors are compared (late interaction), or a cross-encoder. Each result
has the passage's number from 0, its score, its text and, of an embedding model, the span that answers best.
exit status: 0 all went well, 1 an output or the machine failed, 2 an argument, an input or the model is wrong.
"""


def parser() -> command.Parser:
    """Make the parser of the command line."""
    options = command.Parser(
        "runtime.rerank",
        "Rank passages by how well they answer a query, offline, on the CPU.",
        EXAMPLES,
        NAME,
    )
    add = options.add_argument
    add("query", metavar="QUERY", help="what is asked")
    add(
        "texts", nargs="*", metavar="TEXT", help="passages (without any, and without --input, standard input)"
    )
    add("--input", metavar="FILE", help="read passages from FILE, one a line; - for standard input")
    command.add_field(options, "the input is JSON lines, JSON or CSV, and NAME the field with the passage")
    command.add_reading(options)
    add("--top", type=command.integer(1), metavar="N", help="print the best N (default: all)")
    command.add_model(options)
    command.add_max_length(
        options, "most tokens of a passage, or of query and passage together (default: the model's)"
    )
    command.add_threads(options)
    add(
        "--format",
        choices=("jsonl", "json", "text"),
        default="jsonl",
        help="jsonl: an object a line; json: an array; text: score, number and the best span with tabs between"
        " (default: %(default)s)",
    )
    add(
        "--quiet", action="store_true", help="no word about cut passages and what was recognised in the input"
    )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param arguments: without the program's name; None for sys.argv.
    :return: exit status.
    """
    return parser().run(_main, arguments)


def _main(options: argparse.Namespace) -> int:
    from .cli import reading

    if options.texts and options.input is not None:
        raise InputError("TEXT and --input together: give one of them")
    if not options.query.strip():
        raise InputError("QUERY is empty: it must have a token of its own")
    if not options.texts and options.input is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError("no passages: give them as arguments, or --input FILE, or a pipe (see --help)")
        options.input = "-"
    passages = iter(options.texts)
    if options.input is not None:
        passages = reading.texts_of(options, lambda line: command.say(NAME, line))
    from .ranker import load_ranker

    with load_ranker(options.model, threads=options.threads, verify=options.verify) as ranker:
        best: list[Ranked] = []
        count = cut = 0
        # A score depends on nothing but its passage, so the best of all are among the best of each window.
        for window in reading.in_windows(passages):
            found = ranker.rerank(
                options.query, window, options.top, max_length=options.max_length, return_documents=True
            )
            for ranked in found:
                cut += ranked.truncated
                best.append(ranked.moved(count))
            best = sorted(best, key=lambda each: (-each.score, each.index))[: options.top]
            count += len(window)
        _write(best, options.format)
    if cut and not options.quiet:
        command.say(
            NAME, f"{cut:,} of the passages returned were cut: raise --max-length to read all of them"
        )
    return 0


def _write(best: list[Ranked], form: str) -> None:
    import json

    lines = []
    for ranked in best:
        text = ranked.text or ""
        if form == "text":
            shown = text if ranked.start is None else text[ranked.start : ranked.end]
            lines.append(f"{ranked.score:.4f}\t{ranked.index}\t{' '.join(shown.split())}")
        else:
            found: dict[str, object] = {"index": ranked.index, "score": ranked.score, "text": text}
            if ranked.start is not None:
                found |= {"start": ranked.start, "end": ranked.end}
            lines.append(json.dumps(found))
    if form == "json":
        lines = ["[", *(line + "," for line in lines[:-1]), *lines[-1:], "]"]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
