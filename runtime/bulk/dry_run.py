"""--dry-run: what a job would read, and about how long it would take."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from tqdm import tqdm

from .embedding import load
from .rows import Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from .arrow import ArrowEmbedder
    from .layout import Layout
    from .rows import Reading

SAMPLE_ROWS = 1000  # that are read
SAMPLE_TEXTS = 64  # that are embedded
MOST_SHOWN = 70  # characters of a text


def sample(
    reading: Reading, embedder: ArrowEmbedder, layout: Layout, say: Callable[[str], None]
) -> tuple[int, int]:
    """Read the first rows and tell of them; nothing is written.

    :return: rows, and how many of them would be rejected.
    """
    texts: list[str] = []
    problems: list[str] = []
    consumed = 0
    for unit in reading._replace(shard_rows=SAMPLE_ROWS).units(Place(), 0):
        texts += unit.texts
        problems += [bad["reason"] for bad in unit.rejects] + unit.failed
        consumed = unit.bytes
        if len(texts) + len(problems) >= SAMPLE_ROWS:
            break
    files, rows = reading.files, len(texts) + len(problems)
    say(f"{len(files.files):,} file(s), {files.bytes:,} bytes; columns of the output:")
    made = [field for field in embedder.schema if field.name != embedder.error_column]
    for field in [*reading.schema, *made]:
        say(f"  {field.name}: {field.type}")
    for text in texts[:3]:
        words = " ".join(text[: 2 * MOST_SHOWN].split())
        say(
            f"  text: {json.dumps(words[:MOST_SHOWN], ensure_ascii=False)}{'...' if len(text) > MOST_SHOWN else ''}"
        )
    for problem in problems[:3]:
        say(f"  rejected: {problem}")
    if texts:
        counts = sorted(load(embedder.model, embedder.threads).count_tokens(texts))
        some = texts[:: max(1, len(texts) // SAMPLE_TEXTS)]
        embedder.embed(some[:2])
        start = time.perf_counter()
        rate = embedder.embed(some).tokens / (time.perf_counter() - start) * layout.processes
        times = max(1.0, files.bytes / max(1, consumed))
        tokens = sum(min(count, embedder.max_length or count) for count in counts) * times
        say(
            f"tokens of a text, in the first {len(texts):,}: median {counts[len(counts) // 2]:,}, 99 % at most "
            f"{counts[len(counts) * 99 // 100]:,}, longest {counts[-1]:,}"
        )
        say(
            f"about {round(rows * times):,} rows, {round(tokens):,} tokens; at {rate:,.0f} tokens/s with "
            f"{layout.processes} x {layout.threads} threads about {tqdm.format_interval(tokens / rate)} (h:m:s)"
        )
    say("dry run: nothing was written")
    return rows, len(problems)
