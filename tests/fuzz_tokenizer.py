"""Random texts against `tokenizers`, for as long as one likes: tokenizers of every kind.

    python -m tests.fuzz_tokenizer [--seconds 60] [--texts N] [--seed 0] [--kind NAME ...]

Exits 1 and prints the texts if ids, offsets or counts differ anywhere; 2 if there is nothing to compare.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from runtime.tokenization.wordpiece import WordPiece
from tests import tokenizer_kinds, wordpiece

BATCH = 1000
SHOWN = 20  # texts that differ
PROGRESS_SECONDS = 10

# Compares a batch; gives the texts that differ.
Check = Callable[[list[str]], list[str]]


def checks(folder: Path) -> Iterator[tuple[str, Callable[[], Check]]]:
    """Name each tokenizer that is at hand, and how to load it.

    :param folder: for checkpoints and model folders.
    :return: name and loader, WordPiece first; without ../shared the tiny ones of tests/tokenizer_kinds.py follow.
    """
    path = wordpiece.vocabulary()
    if path is not None:
        for case, name in ((True, "WordPiece uncased"), (False, "WordPiece cased")):
            yield name, partial(_wordpiece, path, case)
    names = [*tokenizer_kinds.TINY]
    if tokenizer_kinds.ASSETS.is_dir():
        names += tokenizer_kinds.SHARED_KINDS
    for name in names:
        yield name, partial(_kind, folder / name.replace(" ", "_"), name)


def _wordpiece(path: Path, lower_case: bool) -> Check:
    return partial(
        wordpiece.mismatches,
        WordPiece.from_file(path, lower_case=lower_case),
        wordpiece.reference(path, lower_case=lower_case),
    )


def _kind(folder: Path, name: str) -> Check:
    return partial(tokenizer_kinds.mismatches, tokenizer_kinds.load_pair(folder, name))


def main() -> int:
    """Run until the time is over.

    :return: the exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz_tokenizer", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--seconds", type=float, default=60, help="stop after this long (default: %(default)s)"
    )
    parser.add_argument("--texts", type=int, default=0, help="stop after this many texts (default: no limit)")
    parser.add_argument("--seed", type=int, default=0, help="of the texts (default: %(default)s)")
    parser.add_argument(
        "--kind", action="append", help="only these tokenizers; repeat for several (default: all)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = dict(checks(Path(folder)))
        if unknown := sorted(set(options.kind or ()) - set(found)):
            print(f"--kind {unknown[0]}: must be one of {', '.join(found)}", file=sys.stderr)
            return 2
        loaded = {name: load() for name, load in found.items() if name in (options.kind or found)}
    tried = dict.fromkeys(loaded, 0)
    failed = 0
    start = shown = time.monotonic()
    texts = tokenizer_kinds.kind_texts(options.seed)
    for name in itertools.cycle(loaded):
        now = time.monotonic()
        if now - shown >= PROGRESS_SECONDS:
            shown = now
            print(
                f"{now - start:,.0f} s: {sum(tried.values()):,} texts, {failed} mismatches", file=sys.stderr
            )
        if now - start >= options.seconds or 0 < options.texts <= sum(tried.values()):
            break
        batch = list(itertools.islice(texts, BATCH))
        for text in loaded[name](batch):
            failed += 1
            if failed <= SHOWN:
                print(f"{name}: {text!a}")
        tried[name] += len(batch)
    for name, count in tried.items():
        print(f"{name}: {count:,} texts")
    print(f"{sum(tried.values()):,} texts from seed {options.seed}, {failed} mismatches")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
