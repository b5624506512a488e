"""`python -m runtime.embed`: texts from arguments, files or a pipe; vectors to standard output or a file.

This file parses and prints; the work is in embedder.py, reading.py and writing.py, imported once the
arguments are known to be right.
"""

from __future__ import annotations

import sys

from .cli import command
from .errors import InputError, TextTooLongError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from typing import Any

    from .embedder import Embedder

NAME = "embed"  # with which lines on standard error begin
EXAMPLES = """\
examples:
  python -m runtime.embed "How is the weather today?"
  python -m runtime.embed --similarity "How is the weather today?" "What is the current weather like today?"
  python -m runtime.embed --input corpus.txt --format npy --output corpus.npy --stats
  python -m runtime.embed --input corpus.jsonl --field body > vectors.jsonl
  cat report.txt | tr '\\n' ' ' | python -m runtime.embed --chunks 256 --overlap 32
  python -m runtime.embed --prompt-name query --stats "weather today"
  python -m runtime.embed --max-length 32768 --overflow error --input long.txt

An input is what its first bytes say: text (UTF-8 or UTF-16) with one text a line, JSON lines, a JSON array, CSV (by
its name), Parquet, and each of them packed with gzip, bzip2, xz, zstd or lz4 (zstd, lz4 and Parquet need pyarrow). In
text an empty line is an empty text, so that vector n belongs to line n; in JSON lines and CSV blank lines are skipped
and counted.
Vectors go to standard output, everything else to standard error.
exit status: 0 all went well, 1 an output or the machine failed, 2 an argument, an input or the model is
wrong, 130 Ctrl-C, 141 nobody reads standard output any more.
"""


def parser() -> command.Parser:
    """Make the parser of the command line."""
    options = command.Parser(
        "runtime.embed", "Embed texts with a JinaBert model, offline, on the CPU.", EXAMPLES, NAME
    )
    add = options.add_argument
    add(
        "texts",
        nargs="*",
        metavar="TEXT",
        help="a text (without any, and without --input, standard input is read)",
    )
    add("--input", metavar="FILE", help="read texts from FILE, one a line; - for standard input")
    command.add_field(
        options, "field or column with the text, of JSON, CSV or Parquet; a.b for b within a (default: text)"
    )
    command.add_reading(options)
    command.add_model(options)
    add("--output", metavar="FILE", help="write to FILE (complete or not at all) instead of standard output")
    command.add_force(options, "replace FILE if it exists")
    add(
        "--format",
        choices=("json", "jsonl", "npy", "text"),
        help="json: an array; jsonl: an object a line; npy: numpy's float32 [n, D], needs --output; text: numbers with"
        " spaces, a vector a line (default: jsonl; with --similarity: text)",
    )
    add(
        "--similarity",
        action="store_true",
        help="print the cosine of each text with each other instead of vectors",
    )
    add(
        "--chunks",
        type=command.integer(1),
        metavar="N",
        help="late chunking: a vector for each N tokens of a text, computed over the"
        " whole of it, with its character span and text",
    )
    add(
        "--overlap",
        type=command.integer(0),
        metavar="M",
        help="tokens that neighbouring chunks share (default: 0)",
    )
    command.add_max_length(options, "most tokens of a text, may pass the model's (default: the model's)")
    command.add_overflow(options)
    command.add_dimensions(options)
    command.add_normalize(options)
    command.add_prompt(options)
    command.add_threads(options)
    add(
        "--stats",
        action="store_true",
        help="say how many texts, tokens, cut tokens and tokens/s on standard error",
    )
    command.add_progress(options)
    add("--quiet", action="store_true", help="no progress, and no word about cut texts")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param arguments: without the program's name; None for sys.argv.
    :return: exit status.
    """
    return parser().run(_main, arguments)


def _main(options: argparse.Namespace) -> int:
    try:
        _check(options)
        return _embed(options)
    except ImportError as error:
        reason = str(error).strip().splitlines()[-1]  # numpy puts advice before it
        command.say(NAME, f"{reason}: `pip install onnxruntime numpy`, or give the process more memory")
    except BrokenPipeError:
        raise
    except OSError as error:
        command.discard(1)
        where = options.output or "standard output"
        command.say(NAME, f"{where}: cannot be written ({error.strerror or error})")
    return 1


def _check(options: argparse.Namespace) -> None:
    if options.texts and options.input is not None:
        raise InputError("TEXT and --input together: give one of them")
    if options.texts and options.field is not None:
        raise InputError("--field is for --input or standard input, not for TEXT arguments")
    if options.format is None:
        options.format = "text" if options.similarity else "jsonl"
    if options.format == "npy" and options.output is None:
        raise InputError("--format npy is binary: name a file with --output")
    if options.force and options.output is None:
        raise InputError("--force needs --output")
    if options.overlap is not None and options.chunks is None:
        raise InputError("--overlap needs --chunks")
    if options.chunks is not None and options.format in ("npy", "text"):
        raise InputError(f"--chunks with --format {options.format} would lose the spans: use jsonl or json")
    if options.chunks is not None and options.similarity:
        raise InputError("--chunks and --similarity together: give one of them")
    if not options.texts and options.input is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError("no text: give one as an argument, or --input FILE, or a pipe (see --help)")
        options.input = "-"
    if options.output is None and sys.stdout is None:
        raise OSError("it is closed")


def _embed(options: argparse.Namespace) -> int:
    from .cli import writing
    from .embedder import Embedder
    from .manifest import check_dimensions

    output = writing.OutputFile(options.output, options.force) if options.output is not None else None
    try:
        with Embedder(options.model, threads=options.threads, verify=options.verify) as embedder:
            stream = output.stream if output else sys.stdout.buffer
            label = "similarity" if options.similarity else "embedding"
            size = check_dimensions(embedder.manifest, options.dimensions)
            writer = writing.FORMATS[options.format](stream, label, size)
            encoder = CorpusEncoder(options, embedder)
            if options.similarity:
                _similarity(embedder, options, encoder, writer)
            elif options.chunks is not None:
                _chunks(embedder, options, encoder, writer)
            else:
                for window in _windows(options):
                    writer.write(encoder.encode(window))
                    if output is None:
                        stream.flush()
            writer.close()
        if output:
            output.commit()
        else:
            stream.flush()
    finally:
        if output:
            output.discard()
    encoder.report()
    return 0


class CorpusEncoder:
    """Encodes window after window, and counts over all of them."""

    def __init__(self, options: argparse.Namespace, embedder: Embedder) -> None:
        """Start counting, and drawing progress if asked for."""
        self._options = options
        self._embedder = embedder
        self._progress = None
        self.texts = self.tokens = self.truncated = self.cut = 0
        self.seconds = 0.0
        terminal = sys.stderr is not None and sys.stderr.isatty()
        if not options.quiet and (terminal if options.progress is None else options.progress):
            from .cli.progress import Progress

            self._progress = Progress(len(options.texts) or None)

    def encode(self, texts: list[str]) -> Any:
        """Vectors [n, D] of the next window of texts."""
        options = self._options
        try:
            vectors, stats = self._embedder.encode(
                texts,
                max_length=options.max_length,
                overflow=options.overflow,
                normalize=True if options.similarity else options.normalize,
                prompt_name=options.prompt_name,
                prompt=options.prompt,
                dimensions=options.dimensions,
                return_stats=True,
            )
        except TextTooLongError as error:
            raise InputError(
                f"text {self.texts + error.index + 1} has {error.tokens:,} tokens, more than {error.max_length:,}: "
                "shorten it, raise --max-length, or cut it with --overflow truncate"
            ) from None
        self.truncated += stats.truncated_texts
        self.cut += stats.cut_tokens
        self.add(stats.texts, stats.tokens, stats.seconds)
        return vectors

    def add(self, texts: int, tokens: int, seconds: float) -> None:
        """Count work that was done."""
        self.texts += texts
        self.tokens += tokens
        self.seconds += seconds
        if self._progress:
            self._progress.add(texts, tokens)

    def _prompt(self) -> str:
        """What --stats says of the prompt: nothing, where there is none."""
        chosen = self._embedder.choose_prompt(self._options.prompt_name, self._options.prompt)
        if not chosen.text:
            return ""
        return f", prompt {chosen.text!r}" + (f" ({chosen.name})" if chosen.name else "")

    def report(self) -> None:
        """What there is to say, on standard error."""
        if self._progress:
            self._progress.close()
        options = self._options
        if options.stats:
            rate = self.tokens / self.seconds if self.seconds else 0.0
            command.say(
                NAME,
                f"texts {self.texts:,}, tokens {self.tokens:,}, truncated texts {self.truncated:,}, "
                f"cut tokens {self.cut:,}, seconds {self.seconds:.3f}, tokens/s {rate:,.0f}{self._prompt()}",
            )
        elif self.truncated and not options.quiet:
            limit = options.max_length or self._embedder.max_tokens
            command.say(
                NAME,
                f"{self.truncated:,} of {self.texts:,} texts were cut to {limit:,} tokens ({self.cut:,} tokens lost): "
                "raise --max-length to keep them, or refuse them with --overflow error",
            )


def _windows(options: argparse.Namespace) -> Iterator[list[str]]:
    from .cli import reading

    yield from reading.in_windows(_texts(options))


def _texts(options: argparse.Namespace) -> Iterator[str]:
    if options.input is None:
        return iter(options.texts)
    from .cli import reading

    return reading.texts_of(options, lambda line: command.say(NAME, line))


def _similarity(embedder: Embedder, options: argparse.Namespace, encoder: CorpusEncoder, writer: Any) -> None:
    import numpy as np

    windows = [encoder.encode(window) for window in _windows(options)]
    vectors = np.concatenate(windows) if windows else np.empty((0, embedder.dimension), np.float32)
    for start in range(0, len(vectors), 256):
        writer.write(embedder.similarity(vectors[start : start + 256], vectors))


def _chunks(embedder: Embedder, options: argparse.Namespace, encoder: CorpusEncoder, writer: Any) -> None:
    import time

    import numpy as np

    for index, text in enumerate(_texts(options)):
        start = time.perf_counter()
        chunks = embedder.encode_chunks(
            text,
            options.chunks,
            options.overlap or 0,
            max_length=options.max_length,
            normalize=options.normalize,
            prompt_name=options.prompt_name,
            prompt=options.prompt,
            dimensions=options.dimensions,
        )
        encoder.add(1, sum(chunk.tokens for chunk in chunks), time.perf_counter() - start)
        if chunks:
            extras = [
                {"index": index, "chunk": number, "start": chunk.start, "end": chunk.end, "text": chunk.text}
                for number, chunk in enumerate(chunks)
            ]
            writer.write(np.stack([chunk.vector for chunk in chunks]), extras)


if __name__ == "__main__":
    sys.exit(main())
