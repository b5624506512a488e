"""The texts that are measured on, and how they reach the workers: as JSON lists in a temporary folder."""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Iterator
from pathlib import Path

from runtime.tokenization.wordpiece import WordPiece
from tests.paths import SHARED

__all__ = ["QUERY", "english", "exactly", "mixed", "running", "save", "stsb", "words"]

QUERY = "What is the current weather like today in New York?"  # 13 tokens; see exactly() for 12


def stsb() -> list[str]:
    """Return both columns of the STS-B test set: 2,758 short texts."""
    rows = (SHARED / "data" / "sts" / "stsb_test.tsv").read_text(encoding="utf-8").splitlines()
    return [text for row in rows for text in row.split("\t")[1:]]


def english() -> Iterator[str]:
    """Return lines of documentation and books, of any length."""
    for name in ("docs_html", "books_sotu_mail", "docs_man_pod", "debian_descriptions"):
        with lzma.open(SHARED / "data" / "text" / f"{name}.txt.xz", "rt", encoding="utf-8") as stream:
            yield from (line.strip() for line in stream if line.strip())


def words(tokenizer: WordPiece, count: int) -> list[str]:
    """Return the first words of English that are one token each."""
    found = []
    for line in english():
        for word in line.split():
            if tokenizer.count(word) == 3:
                found.append(word)
                if len(found) == count:
                    return found
    raise ValueError(f"only {len(found):,} words")


def exactly(tokenizer: WordPiece, tokens: int, texts: int = 1) -> list[str]:
    """Return texts of exactly this many tokens, [CLS] and [SEP] included."""
    each = tokens - 2
    found = words(tokenizer, each * texts)
    result = [" ".join(found[start : start + each]) for start in range(0, each * texts, each)]
    assert all(tokenizer.count(text) == tokens for text in result)
    return result


def running(tokenizer: WordPiece, tokens: int) -> str:
    """Return one text of running English of exactly this many tokens."""
    lines, counted = [], 0
    for line in english():
        lines.append(line)
        counted += tokenizer.count(line) - 2
        if counted >= tokens - 2:
            break
    text = " ".join(lines)
    _, offsets = tokenizer.encode_with_offsets(text)
    text = text[: offsets[tokens - 2][1]]
    assert tokenizer.count(text) == tokens
    return text


def mixed(
    tokenizer: WordPiece, texts: int, shortest: int = 10, longest: int = 2000, seed: int = 4
) -> list[str]:
    """Return texts whose lengths spread evenly over the orders of magnitude between the two bounds."""
    choose = random.Random(seed)
    lengths = [round(shortest * (longest / shortest) ** choose.random()) for _ in range(texts)]
    found = words(tokenizer, sum(lengths))
    result, start = [], 0
    for length in lengths:
        result.append(" ".join(found[start : start + length - 2]))
        start += length
    return result


def save(texts: list[str], path: Path) -> str:
    """Return the path, as a worker is told it."""
    path.write_text(json.dumps(texts), encoding="utf-8")
    return str(path)
