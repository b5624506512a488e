"""Random texts against `tokenizers`, for as long as one likes.

    python -m tests.fuzz_tokenizer [--seconds 60] [--seed 0]

Exits 1 and prints the texts if ids, offsets or counts differ anywhere.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time

from runtime.tokenization.wordpiece import WordPiece
from tests.wordpiece import mismatches, random_texts, reference, vocabulary


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz_tokenizer", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    path = vocabulary()
    if path is None:
        print("no vocab.txt in models/ or ../shared/data", file=sys.stderr)
        return 2
    pairs = [
        (WordPiece.from_file(path, lower_case=case), reference(path, lower_case=case))
        for case in (True, False)
    ]
    texts = random_texts(options.seed)
    tried, failed, end = 0, 0, time.monotonic() + options.seconds
    while time.monotonic() < end:
        batch = list(itertools.islice(texts, 2000))
        for wordpiece, judge in pairs if tried % 10_000 == 0 else pairs[:1]:
            for text in mismatches(wordpiece, judge, batch):
                failed += 1
                if failed <= 20:
                    print(f"lower_case={wordpiece.lower_case}: {text!a}")
        tried += len(batch)
    print(f"{tried} texts from seed {options.seed}, {failed} mismatches")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
