"""``python -m export``: parses and prints; the work is in ``export.pipeline``."""

import argparse
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from export.errors import ExportError

# Modules that the export extra brings; looked for before anything heavy is imported.
NEEDED = (
    "torch",
    "transformers",
    "optimum",
    "onnx",
    "onnxruntime",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
)
INSTALL = 'pip install "jinabert-runtime[export]"   (in a checkout: pip install -e ".[export]")'

MAX_TOKENS = 1 << 20  # far beyond any model

INTERRUPTED = "interrupted; nothing was written"

EXAMPLES = """\
examples:
  python -m export jinaai/jina-embeddings-v2-small-en --output models/jina-small
  python -m export ./checkpoint --output ./model --precision fp32
  python -m export ./checkpoint --output ./baseline --scheme optimum

The folder is written only after fp32 matched torch and int8 matched fp32 on 1,078 texts. It takes a few
minutes for small-en on two cores. Exit codes: 0 written, 1 out of memory, 2 refused, 130 interrupted.
"""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help shows the options)\n")


def parser() -> argparse.ArgumentParser:
    options = Parser(
        prog="python -m export",
        description="Make a verified model folder for `runtime` from a JinaBert checkpoint.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("source", metavar="SOURCE", help="folder in Hugging Face layout, or hub name")
    options.add_argument("--output", metavar="DIR", type=Path, required=True, help="model folder to make")
    options.add_argument("--precision", choices=("int8", "fp32"), default="int8", help="default: int8")
    options.add_argument(
        "--scheme",
        choices=("per-token", "optimum"),
        help="how int8 is done: one scale a token (default), or as optimum does it, unchanged, for comparison",
    )
    options.add_argument(
        "--texts", metavar="FILE", type=Path, help="texts to verify int8 on, one a line, at least 1,000"
    )
    options.add_argument("--revision", metavar="R", help="branch, tag or commit of a hub name")
    options.add_argument(
        "--name", metavar="NAME", help="name in the manifest (default: the last part of SOURCE)"
    )
    options.add_argument(
        "--max-tokens",
        metavar="N",
        type=_max_tokens,
        help="default of max_length at run time (default: what the folder declares)",
    )
    options.add_argument(
        "--without-head",
        action="store_true",
        help="leave out a head for another task, such as classification, and export the encoder under it",
    )
    options.add_argument("--force", action="store_true", help="replace an existing model folder")
    return options


def _max_tokens(value: str) -> int:
    if not value.isdecimal() or not 3 <= int(value) <= MAX_TOKENS:
        raise argparse.ArgumentTypeError(f"{value!r}: must be an integer from 3 to {MAX_TOKENS:,}")
    return int(value)


def missing_modules() -> list[str]:
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def main(argv: Sequence[str] | None = None) -> int:
    """
    :param argv: arguments without the program's name; None: of the process.
    :return: the exit code.
    """
    options = parser()
    arguments = options.parse_args(argv)
    if arguments.precision == "fp32" and arguments.scheme:
        options.error(
            f"--scheme {arguments.scheme} is a way to make int8: leave it out with --precision fp32"
        )
    if missing := missing_modules():
        return _fail(f"the export needs {', '.join(missing)}: {INSTALL}")
    # Telemetry would be sent from the first import of onnxruntime on; none of what is imported needs a network.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    interrupted = False

    def interrupt(signum: int, frame: object) -> None:
        """Asked to end: temporary folders are removed on the way out."""
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    started = time.monotonic()

    def progress(line: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - started:6.1f} s] {line}\n")
        sys.stderr.flush()

    try:
        progress("importing torch and optimum")
        from export import pipeline, report

        settings = pipeline.Settings(
            source=arguments.source,
            output=arguments.output,
            precision=arguments.precision,
            scheme=None if arguments.precision == "fp32" else arguments.scheme or "per-token",
            texts=arguments.texts,
            revision=arguments.revision,
            force=arguments.force,
            name=arguments.name,
            max_tokens=arguments.max_tokens,
            without_head=arguments.without_head,
        )
        manifest = pipeline.run(settings, progress)
        progress("done")
        print("\n".join(report.lines(manifest)))
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, 130)
    except Exception as error:
        # A native library that is interrupted while it calls Python turns that into an error of its own.
        if interrupted:
            return _fail(INTERRUPTED, 130)
        return _explain(error)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0


def _explain(error: Exception) -> int:
    """One line for what can be explained; anything else is a bug, and its traceback is wanted."""
    if isinstance(error, ExportError):
        return _fail(str(error))
    if isinstance(error, OSError):
        from export.folder import explain

        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{explain(error)}; nothing was written")
    if isinstance(error, MemoryError):
        return _fail("not enough memory; nothing was written", 1)
    raise error


def _fail(message: str, code: int = 2) -> int:
    sys.stderr.write(f"python -m export: {' '.join(message.split())}\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
