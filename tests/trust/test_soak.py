"""A long run of mixed work, bounded by count: memory and file descriptors flat, vectors identical at the end.

The suite has a short one. `python -m tests.trust.test_soak ROUNDS` does as many as asked (30 minutes: about 2,500 on
two CPU cores) and prints what it saw.
"""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime import Embedder, ModelError, TextTooLongError
from tests.trust.texts import long_text, short_texts

SETTLING = 4  # rounds until buffers and caches have their size


def rss() -> float:
    """Megabytes of this process in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def descriptors() -> int:
    """Open files of this process."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def threads() -> int:
    """Threads of this process, onnxruntime's among them."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def work(embedded: Path, embedder: Embedder, rounds: int) -> Iterator[tuple[float, int, int]]:
    """Do mixed work, some of it wrong.

    :return: megabytes, file descriptors and threads after each round.
    """
    chance = random.Random(11)
    tokenizer = embedder.tokenizer
    short = short_texts(tokenizer, 60)
    middle = [long_text(tokenizer, length) for length in (200, 700)]
    long = long_text(tokenizer, 2600)
    checked = [*short[:20], *middle]
    before, before_long = embedder.encode(checked), embedder.encode(long)
    for number in range(rounds):
        texts = (
            chance.sample(short, 20) + chance.sample(middle, 1) + ["\ud800" + "x" * chance.randrange(9999)]
        )
        chance.shuffle(texts)
        embedder.encode(texts, batch_tokens=chance.choice([100, 1000, 4096]), show_progress=None)
        embedder.encode_tokens(chance.choice(short))
        embedder.encode_chunks(middle[1], chance.randrange(20, 300), 5)
        embedder.count_tokens(["".join(chr(chance.randrange(0x110000)) for _ in range(50))])
        with pytest.raises(TextTooLongError):
            embedder.encode(middle, max_length=10, overflow="error")
        with pytest.raises(TypeError):
            embedder.encode(["a", None])  # type: ignore[list-item]
        with pytest.raises(ModelError):
            Embedder(embedded.parent / "nothing")
        if number % 5 == 0:
            assert (embedder.encode(long) == before_long).all()
        if number % 20 == 0:
            with Embedder(embedded, threads=1) as other:
                other.encode("hello")
            del other
        gc.collect()
        yield rss(), descriptors(), threads()
    assert (embedder.encode(checked) == before).all()
    assert (embedder.encode(long) == before_long).all()


def check(seen: list[tuple[float, int, int]]) -> None:
    settled, end = seen[SETTLING:], seen[-1]
    tail = [memory for memory, _, _ in settled[len(settled) // 2 :]]
    assert max(tail) <= max(memory for memory, _, _ in settled[: len(settled) // 2]) + 30, tail
    assert {files for _, files, _ in settled} == {end[1]}
    assert {count for _, _, count in settled} == {end[2]}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.slow
def test_a_short_soak(embedded: Path) -> None:
    with Embedder(embedded, threads=2) as embedder:
        check(list(work(embedded, embedder, 14)))


def main(rounds: int, say: Callable[[str], object] = print) -> None:
    """Soak, and say every so often what memory, descriptors and threads are."""
    with Embedder(threads=2) as embedder:
        seen = []
        for number, facts in enumerate(work(Path(embedder.model.folder), embedder, rounds), 1):
            seen.append(facts)
            if number % max(1, rounds // 20) == 0:
                say("round {}: {:.0f} MB, {} descriptors, {} threads".format(number, *facts))
        check(seen)
        memory = np.array([facts[0] for facts in seen[SETTLING:]])
        say(f"{rounds} rounds: {memory.min():.0f} to {memory.max():.0f} MB; vectors identical")


if __name__ == "__main__":
    main(int(sys.argv[1]))
