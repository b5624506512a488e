"""What a model folder holds for late interaction: a weight for each token, and a rotation of token vectors.

Both come from texts alone, here the verification texts: the inverse document frequency of each token, and the
principal components of token vectors. runtime/multivector.py says how they are used; a folder without them works too.

    python -m export.token_vectors FOLDER [--texts FILE]    adds them to a finished model folder, or makes them anew
"""

import argparse
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export import folder, texts
from export.errors import ExportError
from runtime.cli.command import Parser
from runtime.manifest import MANIFEST
from runtime.multivector import (
    TOKEN_ROTATION,
    TOKEN_WEIGHTS,
    inverse_document_frequencies,
    principal_rotation,
    unit_rows,
)

ROTATION_DIMENSIONS = 128  # columns that are kept
SAMPLE_TEXTS = 600  # whose token vectors the rotation is computed from
SAMPLE_TOKENS = 128  # of each


def write_token_arrays(
    target: Path,
    run: Callable[[Sequence[int]], NDArray[np.float32]],
    tokens: Sequence[Sequence[int]],
    vocabulary: int,
) -> None:
    """Write both arrays into a folder.

    :param target: an existing folder.
    :param run: token ids of one text to its token vectors [T, hidden_size].
    :param tokens: ids of at least some hundred texts.
    :param vocabulary: V, rows of the embedding table.
    """
    ids = [np.asarray(each, np.int32) for each in tokens]
    weights = inverse_document_frequencies(ids, vocabulary)
    sample = random.Random(len(ids)).sample(range(len(ids)), min(SAMPLE_TEXTS, len(ids)))
    rows = np.concatenate([unit_rows(run(tokens[number][:SAMPLE_TOKENS])) for number in sample])
    rotation = principal_rotation(rows, min(ROTATION_DIMENSIONS, rows.shape[1]))
    np.save(target / TOKEN_WEIGHTS, weights.astype(np.float16))
    np.save(target / TOKEN_ROTATION, rotation)


def add_to_folder(model: Path, corpus: Sequence[str]) -> None:
    """Add the arrays to a finished model folder.

    :param model: the folder; it is replaced as a whole.
    :param corpus: texts.
    :raises JinaBertError: it is no model folder of an embedding model.
    :raises ExportError: it cannot be written.
    """
    from runtime import Embedder

    with Embedder(model) as embedder, tempfile.TemporaryDirectory() as work:
        tokenizer = embedder.tokenizer
        tokens = [tokenizer.truncate(tokenizer.encode(text), embedder.max_tokens) for text in corpus]
        vocabulary = max(len(tokenizer), embedder.manifest.vocabulary)
        write_token_arrays(Path(work), embedder.model.embed_tokens, tokens, vocabulary)
        new = sorted(Path(work).iterdir())
        manifest = {key: value for key, value in embedder.manifest.document.items() if key != "checksum"}
        kept = [model / name for name in embedder.manifest.files if name not in {file.name for file in new}]
        unlisted = [
            file
            for file in sorted(model.iterdir())
            if file.is_file() and file.name != MANIFEST and file.name not in embedder.manifest.files
        ]
        others = {file.name: file.read_bytes() for file in unlisted}  # a README.md, for example
        folder.write(model, [*kept, *new], manifest, force=True)
    for name, content in others.items():
        (model / name).write_bytes(content)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param arguments: without the program's name; None for sys.argv.
    :return: exit status.
    """
    parser = Parser(
        "export.token_vectors", "Add to a model folder what late interaction weighs tokens with.", ""
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a finished model folder")
    parser.add_argument(
        "--texts", metavar="FILE", type=Path, help="texts, one a line (default: those shipped)"
    )

    def work(options: argparse.Namespace) -> int:
        try:
            add_to_folder(options.folder, texts.load(options.texts))
        except ExportError as error:
            return parser.fail(error, 2)
        return 0

    return parser.run(work, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
