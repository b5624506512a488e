"""Random texts against `tokenizers`, for as long as one likes: tokenizers of every kind.

    python -m tests.fuzz_tokenizer [--seconds 60] [--texts N] [--seed 0] [--kind NAME ...]

Each tokenizer gets texts of its own (tests/hostile_texts.py). Ids, offsets, counts
and the texts that the ids give must be those of `tokenizers`.
The last line says how many texts there were and how many differed. Exits 1 and prints the texts if any did, 2 if the
arguments are wrong.
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
from typing import Any

from runtime.tokenization.added_tokens import AddedToken
from runtime.tokenization.wordpiece import WordPiece
from runtime.tokenization.wordpiece_added import WordPieceAdded
from tests import tokenizer_kinds, wordpiece
from tests.hostile_texts import hostile_texts
from tests.tokenizer_kinds import Pair

BATCH = 1000
SHOWN = 20  # texts that differ
PROGRESS_SECONDS = 10


def pairs(folder: Path) -> Iterator[tuple[str, Callable[[], Pair]]]:
    """Name each tokenizer that is at hand, and how to load it and that of `tokenizers`.

    :param folder: For checkpoints and model folders.
    :return: Name and loader, WordPiece first; those of ../shared last, where it is.
    """
    path = wordpiece.vocabulary()
    if path is not None:
        for case, name in ((True, "WordPiece uncased"), (False, "WordPiece cased")):
            yield name, partial(_wordpiece, path, case)
            yield f"{name}, added tokens", partial(_wordpiece_added, path, case)
    names = [*tokenizer_kinds.TINY]
    if tokenizer_kinds.ASSETS.is_dir():
        names += tokenizer_kinds.SHARED_KINDS
    for name in names:
        yield name, partial(tokenizer_kinds.load_pair, folder / name.replace(" ", "_"), name)


def _wordpiece(path: Path, lower_case: bool) -> Pair:
    return Pair(
        WordPiece.from_file(path, lower_case=lower_case), wordpiece.reference(path, lower_case=lower_case)
    )


def _wordpiece_added(path: Path, lower_case: bool) -> Pair:
    from tokenizers import AddedToken as Added

    plain, judge = _wordpiece(path, lower_case)
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    for number, content in enumerate(wordpiece.ADDED):
        mix = {flag: bool(number * 5 >> bit & 1) for bit, flag in enumerate(flags)}
        judge.add_tokens([Added(content, **mix, special=number % 5 == 0)])
    added = [AddedToken(**entry) for entry in wordpiece.description(judge)["added_tokens"]]
    assert isinstance(plain, WordPiece)
    return Pair(WordPieceAdded(plain, added), judge)


def texts_for(judge: Any, seed: int) -> Iterator[str]:
    """Random texts for a tokenizer, with its own tokens in them.

    :param judge: The tokenizer of `tokenizers`.
    :param seed: The same seed gives the same texts with the same version of Python.
    :return: Without end.
    """
    pieces = (judge.decode([number], skip_special_tokens=False) for number in range(judge.get_vocab_size()))
    added = [entry["content"] for entry in wordpiece.description(judge)["added_tokens"]]
    return hostile_texts(seed, [piece for piece in pieces if piece], added)


def main() -> int:
    """Run until the time is over or all texts are done.

    :return: The exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz_tokenizer", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--seconds", type=float, help="stop after this long (default: 60 where --texts is not given)"
    )
    parser.add_argument("--texts", type=int, help="stop after about this many texts (default: no limit)")
    parser.add_argument("--seed", type=int, default=0, help="of the texts (default: %(default)s)")
    parser.add_argument(
        "--kind", action="append", help="only these tokenizers; repeat for several (default: all)"
    )
    options = parser.parse_args()
    seconds = float("inf") if options.texts else 60.0
    seconds = seconds if options.seconds is None else options.seconds
    with tempfile.TemporaryDirectory() as folder:
        found = dict(pairs(Path(folder)))
        if unknown := sorted(set(options.kind or ()) - set(found)):
            print(f"--kind {unknown[0]}: must be one of {', '.join(found)}", file=sys.stderr)
            return 2
        loaded = {name: load() for name, load in found.items() if name in (options.kind or found)}
    texts = {name: texts_for(pair.judge, options.seed) for name, pair in loaded.items()}
    tried = dict.fromkeys(loaded, 0)
    failed = 0
    start = shown = time.monotonic()
    for name in itertools.cycle(loaded):
        now = time.monotonic()
        total = sum(tried.values())
        if now - shown >= PROGRESS_SECONDS:
            shown = now
            print(f"{now - start:,.0f} s: {total:,} texts, {failed} mismatches", file=sys.stderr)
        if now - start >= seconds or 0 < (options.texts or 0) <= total:
            break
        batch = list(itertools.islice(texts[name], BATCH))
        for text in wordpiece.mismatches(*loaded[name], batch):
            failed += 1
            if failed <= SHOWN:
                print(f"{name}: {text!a}", flush=True)
        tried[name] += len(batch)
    for name, count in tried.items():
        print(f"{name}: {count:,} texts")
    print(f"{sum(tried.values()):,} texts from seed {options.seed}, {failed} mismatches")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
