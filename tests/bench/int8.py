"""What int8 takes for weights of several kinds: ``python -m tests.bench.int8 [NAME ...]``.

NAME is ``SHAPE`` or ``SHAPE:SCALE`` (seeded weights, every matrix times SCALE; a shape of tests/bench/shapes.py),
``bundled`` (the bundled model's weights, brought back from int8) or a folder of BERT such as all-MiniLM-L6-v2, whose
layers are lifted into the bundled model's shape as ``export.distill`` begins, outliers and all. A row for each: the
worst cosine of 48 texts to fp32 with all linear layers in int8 rounded to nearest, smoothed and rounded with
compensation, and repaired until the sample keeps the bound. ``python -m export`` begins with this.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from export import texts
from export.graph.encoder import Encoder
from export.graph.weights import FORMS
from export.quantization import Quantized, quantize
from export.quantization.cost import ROWS, measured
from runtime.bundled import bundled_model
from runtime.manifest import VOCABULARY
from runtime.resources import default_threads
from runtime.tokenization.wordpiece import WordPiece
from tests.bench.shapes import SHAPES, seeded_checkpoint

NAMES = ("small:0.7", "small", "small:1.6", "base:0.7", "base", "base:1.6", "bundled")
LONGEST = 512  # tokens of a text


def encoder_of(name: str) -> Encoder:
    """Make the weights of a name, in fp32."""
    shape, _, scale = name.partition(":")
    if shape in SHAPES:
        from export.checkpoint import load_model

        return load_model(seeded_checkpoint(shape, float(scale or 1))).export_weights()
    from export.distill.dequantize import load_model_folder

    if name == "bundled":
        return load_model_folder(Path(bundled_model())).eval().export_weights()
    return lifted(Path(name))


def lifted(folder: Path) -> Encoder:
    """Lift the layers of a BERT into the shape of the bundled model."""
    import torch

    from export.distill import teachers
    from export.distill.__main__ import RECIPE
    from export.distill.initialize import attention_distances, init_from_teacher
    from export.distill.recipe import load_recipe

    teacher = teachers.first_teacher(folder, attentions=True)
    samples = (torch.tensor(ids) for ids in tokens()[:32])
    with torch.no_grad():
        student = init_from_teacher(
            teacher, load_recipe(RECIPE), teacher.config.vocab_size, attention_distances(teacher, samples)
        )
    return student.eval().export_weights()


def tokens() -> list[list[int]]:
    """The verification texts."""
    tokenizer = WordPiece.from_file(Path(bundled_model()) / VOCABULARY)
    return [tokenizer.truncate(tokenizer.encode(text), LONGEST) for text in texts.load()]


def row(name: str, made: Quantized) -> str:
    """One row of the table."""
    worst = {step["step"]: f"{step['worst']:.4f}" for step in made.steps}
    rounded = worst.get("int8, smoothed and rounded with compensation", "–")
    tries = {name: name.split() for name in worst if name.endswith(" repairs")}
    left = len(made.remaining)
    done = [name for name, words in tries.items() if int(words[0]) + left == int(words[2])]
    repaired = worst[done[0]] if done else "–"
    moves = sum(form != "int8" for form in made.forms.values())
    count = Counter(made.forms.values())
    forms = f"{count['int8']} / {count['wide']} / {count['fp32']}"
    return f"| {name} | {next(iter(worst.values()))} | {rounded} | {repaired} | {moves} | {forms} |"


def main() -> int:
    """Run the command line."""
    options = argparse.ArgumentParser("python -m tests.bench.int8", description=__doc__)
    options.add_argument("names", metavar="NAME", nargs="*", default=NAMES)
    options.add_argument("--min-cosine", metavar="X", type=float, default=0.99)
    options.add_argument("--costs", action="store_true", help="time the forms of a linear layer instead")
    arguments = options.parse_args()
    if arguments.costs:
        for form in FORMS:
            print(f"{form}: {measured(form, default_threads()):.2f} ms for a million weights, {ROWS} tokens")
        return 0
    print("| weights | nearest | smoothed, compensated | repaired | repairs | int8 / 16-bit / fp32 |")
    print("|---|---|---|---|---|---|")
    corpus = tokens()
    for name in arguments.names:
        made = quantize(
            encoder_of(name),
            corpus,
            bound=arguments.min_cosine,
            threads=default_threads(),
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
        print(row(Path(name).name, made), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
