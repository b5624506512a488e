"""``python -m export.distill``: trains a JinaBert student of one or two teachers, and prints how it goes."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from export.errors import ExportError
from runtime.cli.command import Parser, add_threads, integer

NEEDED = ("torch", "transformers", "safetensors", "tokenizers", "optimum", "onnxruntime", "scipy")
NEEDED_FOR_BUNDLES = ("torch", "transformers", "safetensors", "scipy")
NEEDED_FOR_HEADS = ("torch", "transformers", "onnx", "onnxruntime", "scipy")
INSTALL = 'pip install "jinabert-runtime[distill]"   (in a checkout: pip install -e ".[distill]")'
RECIPE = Path(__file__).resolve().parent / "recipe.toml"
HEAD_RECIPE = RECIPE.with_name("head.toml")

EXAMPLES = """\
examples:
  python -m export.distill TEXTS --teacher all-MiniLM-L6-v2 --teacher all-mpnet-base-v2 --output student
  python -m export.distill TEXTS --teacher all-MiniLM-L6-v2 --recipe my.toml --dev stsb_dev.tsv --output student
  python -m export student/checkpoint --output model
  python -m export.distill TEXTS --head model --output head
  python -m export model --head head/head.npy --output model-with-head
A machine without the text and the teachers:
  python -m export.distill TEXTS --teacher ... --output student --prepare bundle.tar.xz
  mkdir b && tar xf bundle.tar.xz -C b && python b/train.py --output run --parts parts    (there)
  python -m export.distill --bundle b --output student --result parts

A run that is cut off goes on where it was when the same command is given again. The checkpoint is written at
the end, and at each dev score.
exit status: 0 done, 1 the machine failed, 2 refused, 130 interrupted.
"""


def parser() -> Parser:
    """Make the parser of the command line."""
    options = Parser(
        "export.distill",
        "Train a JinaBert checkpoint from the vectors of one or two teachers, on a CPU or a GPU.",
        EXAMPLES,
    )
    options.add_argument(
        "corpus", metavar="TEXTS", type=Path, nargs="?", help="folder of the texts that the recipe names"
    )
    options.add_argument(
        "--teacher",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="folder in sentence-transformers layout; the first is a BERT whose layers the student starts from, "
        "a second (recipe: second_texts) may be any encoder with mean pooling",
    )
    options.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder of the run")
    options.add_argument("--recipe", metavar="FILE", type=Path, help="TOML (default: our own)")
    options.add_argument(
        "--start",
        metavar="DIR",
        type=Path,
        help="model folder (int8, of an earlier export) to go on from, instead of the first teacher's layers",
    )
    options.add_argument(
        "--head",
        metavar="MODEL",
        type=Path,
        help="train no student but a head for the vectors of a model folder, so that they can be cut (no teacher)",
    )
    options.add_argument(
        "--vocabulary", metavar="FILE", type=Path, help="vocab.txt (default: the first teacher's)"
    )
    options.add_argument(
        "--evaluation", metavar="DIR", type=Path, help="folder of evaluation text to keep out of training"
    )
    options.add_argument(
        "--dev", metavar="FILE", type=Path, help="score TAB sentence TAB sentence, for a dev score"
    )
    options.add_argument(
        "--score-steps", metavar="N", type=integer(1), default=100, help="steps between dev scores"
    )
    options.add_argument(
        "--save-seconds", metavar="S", type=float, default=180.0, help="between states (default: 180)"
    )
    options.add_argument(
        "--steps", metavar="N", type=integer(1), help="instead of the recipe's; may grow on resumption"
    )
    options.add_argument("--device", metavar="NAME", help="cpu or cuda (default: cuda where there is one)")
    add_threads(options, "threads of a CPU (default: the CPU cores this process may use)")
    options.add_argument(
        "--prepare",
        metavar="FILE",
        type=Path,
        help="write a bundle (.tar.xz) for another machine; do not train",
    )
    options.add_argument(
        "--bundle", metavar="DIR", type=Path, help="an extracted bundle, instead of TEXTS and --teacher"
    )
    options.add_argument(
        "--parts", metavar="DIR", type=Path, help="write the trained weights in parts, not a checkpoint"
    )
    options.add_argument(
        "--part-mib", metavar="N", type=integer(1), default=15, help="of a part, at most (default: 15)"
    )
    options.add_argument("--result", metavar="DIR", type=Path, help="take up such parts; do not train")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param argv: arguments without the program's name; None: of the process.
    :return: exit status.
    """
    return parser().run(
        _distill, argv, unfinished="; the same command goes on from the last state that was saved"
    )


def _distill(arguments: argparse.Namespace) -> int:
    if arguments.head is not None:
        return _head(arguments)
    given = arguments.corpus is not None and arguments.teacher
    if bool(given) == (arguments.bundle is not None) or (arguments.bundle and arguments.prepare):
        raise ExportError("give either TEXTS and --teacher, or --bundle")
    needed = NEEDED_FOR_BUNDLES if arguments.bundle else NEEDED
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise ExportError(f"training needs {', '.join(missing)}: {INSTALL}")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ["HF_HUB_OFFLINE"] = os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    progress = _progress()
    from export.distill import pipeline

    job = pipeline.DistillJob(
        corpus=arguments.corpus or arguments.bundle,
        teachers=tuple(arguments.teacher),
        output=arguments.output,
        recipe=arguments.recipe or RECIPE,
        vocabulary=arguments.vocabulary,
        evaluation=arguments.evaluation,
        dev=arguments.dev,
        start=arguments.start,
        bundle=arguments.bundle,
        result=arguments.result,
        parts=arguments.parts,
        part_bytes=arguments.part_mib << 20,
        score_steps=arguments.score_steps,
        save_seconds=arguments.save_seconds,
        steps=arguments.steps,
        device=arguments.device,
        threads=arguments.threads,
    )
    if arguments.prepare:
        written = pipeline.prepare(job, arguments.prepare, progress)
    else:
        written = pipeline.distill(job, progress)
    sys.stdout.write(f"{written}\n")
    return 0


def _head(arguments: argparse.Namespace) -> int:
    students = ("start", "vocabulary", "steps", "device", "prepare", "bundle", "parts", "result")
    given = ["teacher"] * bool(arguments.teacher) + [
        name for name in students if getattr(arguments, name) is not None
    ]
    if given:
        raise ExportError(f"--{given[0]} is for training a student: leave it out with --head")
    if arguments.corpus is None:
        raise ExportError("--head needs TEXTS, the folder of the texts that the recipe names")
    if missing := [name for name in NEEDED_FOR_HEADS if importlib.util.find_spec(name) is None]:
        raise ExportError(f"training needs {', '.join(missing)}: {INSTALL}")
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    progress = _progress()
    from export.distill import head

    job = head.HeadJob(
        model=arguments.head,
        corpus=arguments.corpus,
        output=arguments.output,
        recipe=arguments.recipe or HEAD_RECIPE,
        evaluation=arguments.evaluation,
        dev=arguments.dev,
        threads=arguments.threads,
    )
    sys.stdout.write(f"{head.train_head(job, progress)}\n")
    return 0


def _progress() -> Callable[[str], None]:
    started = time.monotonic()

    def progress(line: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - started:6.0f} s] {line}\n")
        sys.stderr.flush()

    return progress


if __name__ == "__main__":
    raise SystemExit(main())
