"""Tokens a second of runtime/tokenization/wordpiece.py next to `tokenizers` on one thread, over real English.

    python -m tests.bench.tokenizer [--rounds 5] [--lines 4000]

The two take turns, the median of the rounds counts, and their ids are compared before anything is timed.
"first" has the cache empty at the start of every round, as a new process does; "again" has it filled by the same
texts. `tokenizers` keeps no cache for WordPiece: its encode_batch gives offsets too, encode_batch_fast ids alone.
"""

from __future__ import annotations

import argparse
import gc
import lzma
import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

from runtime.tokenization.wordpiece import WordPiece
from tests.paths import SHARED
from tests.wordpiece import reference, vocabulary


def corpora(lines: int) -> dict[str, list[str]]:
    """Return a table name -> texts: STS-B test, both columns, and the first lines of every file of English."""
    rows = (SHARED / "data" / "sts" / "stsb_test.tsv").read_text(encoding="utf-8").splitlines()
    found = {"stsb_test": [text for row in rows for text in row.split("\t")[1:]]}
    for path in sorted((SHARED / "data" / "text").glob("*.txt.xz")):
        with lzma.open(path, "rt", encoding="utf-8") as stream:
            found[path.name.removesuffix(".txt.xz")] = [
                line.rstrip("\n") for line, _ in zip(stream, range(lines), strict=False)
            ]
    return found


def seconds(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.tokenizer", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lines", type=int, default=4000, help="lines taken from each file (default 4000)")
    options = parser.parse_args()
    path = vocabulary()
    if path is None or not (SHARED / "data" / "text").is_dir():
        print("needs ../shared/data", file=sys.stderr)
        return 2
    judge = reference(path)
    loads = [seconds(lambda: WordPiece.from_file(path)) for _ in range(options.rounds)]
    print(f"vocabulary loaded in {statistics.median(loads) * 1000:.1f} ms; millions of tokens a second:")
    heads = ("tokens", "first", "again", "batch", "fast", "first/batch", "first/fast")
    print(
        f"{'texts':28}"
        + "".join(f"{head:>{width}}" for head, width in zip(heads, (9, 8, 8, 8, 8, 14, 12), strict=True))
    )
    ratios: list[tuple[float, float]] = []
    for name, texts in corpora(options.lines).items():
        check = WordPiece.from_file(path)
        expected = judge.encode_batch(texts)
        for text, one in zip(texts, expected, strict=True):
            assert check.encode(text) == one.ids, text
        tokens = sum(len(one.ids) for one in expected)
        del expected
        times: list[tuple[float, float, float, float]] = []
        for _ in range(options.rounds):
            ours = WordPiece.from_file(path)

            def encode(encode: Callable[[str], list[int]] = ours.encode, texts: list[str] = texts) -> None:
                for text in texts:
                    encode(text)

            times.append(
                (
                    seconds(encode),
                    seconds(encode),
                    seconds(lambda texts=texts: judge.encode_batch(texts)),  # type: ignore[misc]
                    seconds(lambda texts=texts: judge._tokenizer.encode_batch_fast(texts)),  # type: ignore[misc]
                )
            )
        first, again, batch, fast = (
            tokens / statistics.median(column) / 1e6 for column in zip(*times, strict=True)
        )
        ratios.append(
            (
                statistics.median(row[2] / row[0] for row in times),
                statistics.median(row[3] / row[0] for row in times),
            )
        )
        print(
            f"{name:28}{tokens:9,}{first:8.2f}{again:8.2f}{batch:8.2f}{fast:8.2f}"
            f"  {ratios[-1][0]:12.2f}{ratios[-1][1]:12.2f}"
        )
    for title, column in (("encode_batch", 0), ("encode_batch_fast", 1)):
        values = [row[column] for row in ratios]
        print(f"times the speed of {title}: median {statistics.median(values):.2f}, least {min(values):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
