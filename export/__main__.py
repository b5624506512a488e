"""``python -m export``: parses and prints; the work is in ``export.pipeline``."""

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from export.errors import ExportError
from runtime.cli.command import Parser, add_force, integer

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
MOST_COSINE = 0.99999  # of int8: more is fp32

EXAMPLES = """\
examples:
  python -m export jinaai/jina-embeddings-v2-small-en --output models/jina-small
  python -m export ./checkpoint --output ./model --precision fp32
  python -m export ./checkpoint --output ./baseline --scheme optimum
  python -m export ./model --rotate --output ./model-rotated

The folder is written only after fp32 matched torch and int8 matched fp32 on 1,078 texts. It takes a few
minutes for small-en on two cores. A run that is cut off leaves DIR.unfinished, where the same command goes on.
exit status: 0 written, 1 out of memory, 2 refused, 130 interrupted.
"""


def parser() -> Parser:
    """Make the parser of the command line."""
    options = Parser(
        "export", "Make a verified model folder for `runtime` from a JinaBert checkpoint.", EXAMPLES
    )
    options.add_argument("source", metavar="SOURCE", help="folder in Hugging Face layout, or hub name")
    options.add_argument("--output", metavar="DIR", type=Path, required=True, help="model folder to make")
    options.add_argument("--precision", choices=("int8", "fp32"), default="int8", help="default: int8")
    options.add_argument(
        "--scheme",
        choices=("per-token", "optimum"),
        help="how int8 is done: per-token activation scales (default), or as optimum does it, for comparison",
    )
    options.add_argument(
        "--texts", metavar="FILE", type=Path, help="texts to verify int8 on, one a line, at least 1,000"
    )
    options.add_argument(
        "--min-cosine",
        metavar="X",
        type=_cosine,
        help="the least cosine of an int8 vector to fp32 (default: 0.99); int8 is repaired until it is reached",
    )
    options.add_argument(
        "--compare", action="store_true", help="measure optimum's int8 of the same weights beside ours"
    )
    options.add_argument("--revision", metavar="R", help="branch, tag or commit of a hub name")
    options.add_argument(
        "--name", metavar="NAME", help="name in the manifest (default: the last part of SOURCE)"
    )
    options.add_argument(
        "--max-tokens",
        metavar="N",
        type=integer(3, MAX_TOKENS),
        help="default of max_length at run time (default: what the folder declares)",
    )
    options.add_argument(
        "--tokenizer",
        choices=("tokenizer.json", "vocab.txt"),
        help="which of the two files to take where they disagree",
    )
    options.add_argument(
        "--without-head",
        action="store_true",
        help="leave out a head for another task, such as classification, and export the encoder under it",
    )
    turned = options.add_mutually_exclusive_group()
    turned.add_argument(
        "--rotate",
        action="store_true",
        help="turn vectors to their principal components, so that they can be cut (dimensions=); SOURCE may "
        "be a model folder, too",
    )
    turned.add_argument(
        "--head",
        metavar="FILE",
        type=Path,
        help="the same with a matrix that `python -m export.distill --head` trained for this model",
    )
    options.add_argument(
        "--task",
        choices=("embed", "rerank"),
        help="rerank: refuse an encoder without a trained head; embed: the same as --without-head "
        "(default: what the checkpoint has a head for)",
    )
    options.add_argument(
        "--layout",
        choices=("sentence-transformers",),
        help="also write what sentence-transformers, fastembed, transformers.js and optimum look for",
    )
    add_force(options, "replace an existing model folder")
    return options


def _cosine(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number <= MOST_COSINE:
        raise argparse.ArgumentTypeError(
            f"{text!r}: must be a number above 0 and at most {MOST_COSINE} (--precision fp32 has no loss)"
        )
    return number


def missing_modules() -> list[str]:
    """List what the export needs and this environment lacks."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param argv: arguments without the program's name; None: of the process.
    :return: exit status.
    """
    return parser().run(
        _export, argv, unfinished="; no model folder was written", machine_status=2, sigterm_status=130
    )


def _export(arguments: argparse.Namespace) -> int:
    if arguments.precision == "fp32" and arguments.scheme:
        raise ExportError(
            f"--scheme {arguments.scheme} is a way to make int8: leave it out with --precision fp32"
        )
    own_int8 = arguments.precision == "int8" and arguments.scheme != "optimum"
    if not own_int8 and (arguments.compare or arguments.min_cosine):
        option = "--compare" if arguments.compare else f"--min-cosine {arguments.min_cosine}"
        raise ExportError(
            f"{option} is for our int8: leave it out with --precision fp32 and --scheme optimum"
        )
    if missing := missing_modules():
        raise ExportError(f"the export needs {', '.join(missing)}: {INSTALL}")
    # Telemetry would be sent from the first import of onnxruntime on; none of what is imported needs a network.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # torch's threads that spin while they wait cost minutes where other work shares the CPU cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    started = time.monotonic()

    def progress(line: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - started:6.1f} s] {line}\n")
        sys.stderr.flush()

    progress("importing torch and optimum")
    from export import pipeline, report

    settings = pipeline.ExportSettings(
        source=arguments.source,
        output=arguments.output,
        precision=arguments.precision,
        scheme=None if arguments.precision == "fp32" else arguments.scheme or "per-token",
        texts=arguments.texts,
        revision=arguments.revision,
        force=arguments.force,
        name=arguments.name,
        max_tokens=arguments.max_tokens,
        tokenizer=arguments.tokenizer,
        without_head=arguments.without_head,
        rotate=arguments.rotate,
        head=arguments.head,
        task=arguments.task,
        min_cosine=arguments.min_cosine or pipeline.ExportSettings.min_cosine,
        compare=arguments.compare,
    )
    manifest, speeds = pipeline.export_checkpoint(settings, progress)
    if arguments.layout:
        from export import source
        from export.layout import write_layout

        progress("writing the files of other programs")
        checkpoint = source.resolve(arguments.source, arguments.revision)
        own = checkpoint / "tokenizer.json"
        kind = manifest["tokenizer"]["type"]  # type: ignore[index]
        write_layout(arguments.output, tokenizer=own if kind != "wordpiece" and own.is_file() else None)
    progress("done")
    print("\n".join(report.lines(manifest, speeds)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
