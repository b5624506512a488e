"""Training text: read, thinned out, kept free of evaluation text, tokenised; batches in a fixed order.

Everything follows from the files, the recipe and the seed, so that a resumed run sees what an undisturbed one
would have seen.
"""

from __future__ import annotations

import hashlib
import lzma
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.distill.decontaminate import build, evaluation_texts, words
from export.distill.recipe import Recipe, Source
from export.errors import ExportError
from runtime.files import replacing
from runtime.tokenization.wordpiece import WordPiece

__all__ = [
    "CLS",
    "SEP",
    "Batch",
    "Corpus",
    "batches",
    "load_corpus",
    "read_texts",
    "second_texts",
    "sentence_end",
    "split_sentence",
]

CLS, SEP = 101, 102
# Texts are shuffled in pools of so many, and sorted by length inside a pool: batches are even and still random.
POOL = 8192
FULL_STOP = 1012  # of BERT's vocabulary
FIRST_SENTENCE = range(8, 41)  # tokens of the first sentence of a pair, [CLS] and full stop included
REST_TOKENS = 24  # of what follows it, at least


@dataclass(frozen=True)
class Corpus:
    """Tokenised texts, one after the other."""

    texts: list[str]
    ids: NDArray[np.uint16]  # [CLS] and [SEP] included
    offsets: NDArray[np.int64]  # [texts + 1]
    prose: list[list[int]]  # runs of neighbouring texts, for documents
    counts: dict[str, dict[str, int]]  # file -> what became of its lines
    held_out: list[str]  # for a retrieval score: not among the texts

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def tokens(self, text: int, longest: int) -> NDArray[np.int64]:
        """Return the ids, int64, cut at ``longest`` with [SEP] kept."""
        ids = self.ids[self.offsets[text] : self.offsets[text + 1]].astype(np.int64)
        return ids if len(ids) <= longest else np.append(ids[: longest - 1], SEP)


@dataclass(frozen=True)
class Batch:
    """What one step is made of."""

    texts: list[int]  # of a batch of short texts, or the needles of one of documents
    documents: list[NDArray[np.int64]]  # ids of long documents; empty in a batch of short texts
    second: bool = False  # the second teacher's vectors are there for all texts
    pairs: bool = False  # each text is split into its first sentence and the rest


def load_corpus(
    folder: Path,
    recipe: Recipe,
    tokenizer: WordPiece,
    evaluation: Path | None,
    cache: Path,
    report: Callable[[str], None],
) -> Corpus:
    """Read, choose and tokenise the training texts.

    :param folder: holds the files that the recipe name.
    :param tokenizer: of the student.
    :param evaluation: folder of evaluation text to stay clear of (see decontaminate.py), or None.
    :param cache: file for the texts that were chosen; made once, then read.
    :param report: takes lines of progress.
    :return: the corpus.
    :raises ExportError: a file is missing or unreadable, or nothing is left of the text.
    """
    counts: dict[str, dict[str, int]] = {}
    texts: list[str] = []
    prose: list[list[int]] = []
    held_out: list[str] = []
    run: list[int] = []
    last: tuple[str, int] | None = None
    for kind, name, number, text in read_texts(folder, recipe, evaluation, cache, report):
        if kind == "count":
            counts.setdefault(name, {})[text] = number
            continue
        if kind == "held out":
            held_out.append(text)
            continue
        place = (name, number)
        if kind == "prose":
            if last is None or place != (last[0], last[1] + 1):
                run = []
                prose.append(run)
            run.append(len(texts))
            last = place
        texts.append(text)
    # In the order of the files up to here, for the runs; the batches shuffle.
    encoded = [tokenizer.encode(text) for text in texts]
    offsets = np.cumsum([0, *(len(ids) for ids in encoded)], dtype=np.int64)
    ids = np.fromiter((i for text in encoded for i in text), dtype=np.uint16, count=int(offsets[-1]))
    report(f"{len(texts):,} texts, {len(ids):,} tokens")
    return Corpus(texts, ids, offsets, [run for run in prose if len(run) > 3], counts, held_out)


def read_texts(
    folder: Path, recipe: Recipe, evaluation: Path | None, cache: Path, report: Callable[[str], None]
) -> Iterator[tuple[str, str, int, str]]:
    """Read and choose the training texts; see load_corpus.

    :return: "text", "prose" or "held out", file, number of the line, text; or "count", file, how many lines, and what
        became of them.
    :raises ExportError: a file is missing or unreadable, or nothing is left of the text.
    """
    if not cache.exists():
        _choose(folder, recipe, evaluation, cache, report)
    with lzma.open(cache, "rt", encoding="utf-8", newline="\n") as lines:
        for line in lines:
            kind, name, number, text = line.rstrip("\n").split("\t", 3)
            yield kind, name, int(number), text


def _choose(
    folder: Path, recipe: Recipe, evaluation: Path | None, cache: Path, report: Callable[[str], None]
) -> None:
    index = None if evaluation is None else build(evaluation_texts(evaluation))
    seen: set[bytes] = set()
    kept_in_all = 0
    with (
        replacing(cache) as partial,
        lzma.open(partial, "wt", encoding="utf-8", newline="\n", preset=1) as out,
    ):
        for source in recipe.sources:
            counts: Counter[str] = Counter()
            for number, text in _lines(folder, source, recipe.seed):
                counts["read"] += 1
                if len(text) < recipe.smallest_characters:
                    counts["too short"] += 1
                    continue
                digest = hashlib.blake2b(" ".join(words(text)).encode(), digest_size=12).digest()
                if digest in seen:
                    counts["repeated"] += 1
                    continue
                seen.add(digest)
                if index is not None and (reason := index.match(text)):
                    counts[f"evaluation text: {reason}"] += 1
                    continue
                kind = "prose" if source.prose else "text"
                if source.prose and recipe.held_out_every and number % recipe.held_out_every == 0:
                    kind = "held out"
                counts["held out" if kind == "held out" else "kept"] += 1
                out.write(f"{kind}\t{source.file}\t{number}\t{text}\n")
            for what, count in counts.items():
                out.write(f"count\t{source.file}\t{count}\t{what}\n")
            report(f"{source.file}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
            kept_in_all += counts["kept"]
        if not kept_in_all:
            raise ExportError(f"{folder}: no text is left of the sources: name others in the recipe")


def _lines(folder: Path, source: Source, seed: int) -> Iterator[tuple[int, str]]:
    """Numbered lines of a source, all or as many as wanted at random, in the order of the file."""
    path = folder / source.file
    try:
        data = path.read_bytes()
        text = (lzma.decompress(data) if path.suffix == ".xz" else data).decode("utf-8")
    except OSError as error:
        raise ExportError(
            f"{path} cannot be read ({error.strerror}): the recipe names it as a source"
        ) from None
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} is damaged ({error}): fetch it again") from None
    lines = [" ".join(line.split()) for line in text.split("\n")]
    numbers: Sequence[int] = range(len(lines))
    if source.texts and source.texts < len(lines):
        numbers = sorted(random.Random(f"{seed} {source.file}").sample(numbers, source.texts))
    return ((number, lines[number]) for number in numbers)


def batches(corpus: Corpus, recipe: Recipe, first: int = 0) -> Iterator[Batch]:
    """Make the batches of a training, in a fixed order.

    :param corpus: the texts.
    :param recipe: sizes and seed.
    :param first: number of the first batch wanted; those before it are passed over.
    :return: batches without end. Each pass over the texts has another order.
    """
    number = 0
    short = _short(corpus, recipe)
    splittable = _splittable(corpus) if recipe.pairs_every else []
    while True:
        long = recipe.long_every and number % recipe.long_every == recipe.long_every - 1
        if long and corpus.prose:
            if number >= first:
                yield _documents(corpus, recipe, random.Random(f"{recipe.seed} document {number}"))
        elif splittable and number % recipe.pairs_every == recipe.pairs_every // 2:
            if number >= first:
                count = min(len(splittable), max(2, recipe.batch_tokens // recipe.pair_tokens))
                chosen = random.Random(f"{recipe.seed} pairs {number}").sample(splittable, count)
                yield Batch(chosen, [], pairs=True)
        else:
            batch = next(short)
            if number >= first:
                yield batch
        number += 1


def _short(corpus: Corpus, recipe: Recipe) -> Iterator[Batch]:
    lengths = np.minimum(np.diff(corpus.offsets), recipe.longest_tokens)
    turn = 0
    chosen = second_texts(corpus, recipe)
    others = np.setdiff1d(np.arange(len(corpus)), chosen)
    while True:
        pools = []
        for group, second in ((chosen, True), (others, False)):
            order = np.random.default_rng([recipe.seed, turn, second]).permutation(group)
            pools += [(start, order[start : start + POOL], second) for start in range(0, len(order), POOL)]
        # By turns, so that both kinds are seen from the beginning to the end of a pass.
        pools.sort(key=lambda pool: pool[0] / (len(chosen) if pool[2] else len(others)))
        for start, pool, second in pools:
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            made: list[list[int]] = [[]]
            for text in pool.tolist():
                if made[-1] and (len(made[-1]) + 1) * lengths[text] > recipe.batch_tokens:
                    made.append([])
                made[-1].append(text)
            random.Random(f"{recipe.seed} {turn} {start} {second}").shuffle(made)
            for texts in made:
                yield Batch(texts, [], second)
        turn += 1


def second_texts(corpus: Corpus, recipe: Recipe) -> NDArray[np.int64]:
    """Return the texts that the second teacher is asked about, int64, ascending."""
    candidates = np.flatnonzero(np.diff(corpus.offsets) <= recipe.second_tokens)
    count = min(recipe.second_texts, len(candidates))
    return np.sort(np.random.default_rng([recipe.seed, 2]).choice(candidates, count, replace=False))


def sentence_end(ids: NDArray[np.integer]) -> int | None:
    """Find the end of the first sentence.

    :param ids: of a text, [CLS] and [SEP] included.
    :return: how many of them are [CLS] and the first sentence, if it is of usual length and enough follows it.
    """
    for stop in np.flatnonzero(ids[: FIRST_SENTENCE.stop] == FULL_STOP):
        if stop + 1 in FIRST_SENTENCE and len(ids) - stop - 2 >= REST_TOKENS:
            return int(stop) + 1
    return None


def split_sentence(ids: NDArray[np.int64], longest: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split a text into its first sentence and the rest.

    :param ids: of a text that has a ``sentence_end``.
    :param longest: tokens of the rest.
    :return: ids of the first sentence and of the rest, each between [CLS] and [SEP].
    """
    end = sentence_end(ids)
    assert end is not None
    rest = ids[end:-1][: longest - 2]
    return np.append(ids[:end], SEP), np.concatenate(([CLS], rest, [SEP]))


def _splittable(corpus: Corpus) -> list[int]:
    longer = np.flatnonzero(np.diff(corpus.offsets) >= FIRST_SENTENCE.start + REST_TOKENS).tolist()
    return [
        text
        for text in longer
        if sentence_end(corpus.ids[corpus.offsets[text] : corpus.offsets[text + 1]]) is not None
    ]


def _documents(corpus: Corpus, recipe: Recipe, rng: random.Random) -> Batch:
    """Documents of running prose, each with a short text of its own somewhere inside, its needle.

    Half of the batches give all documents the same prose: only the needle tells them apart then, and a vector that
    is to find it must not drown it in the mean.
    """
    size = rng.choice(recipe.document_tokens)
    count = max(2, recipe.batch_tokens // size)
    needles = _needles(corpus, rng, count)
    same = rng.random() < 0.5
    prose = _prose(corpus, rng, size)
    documents = []
    for needle in needles:
        if not same:
            prose = _prose(corpus, rng, size)
        own = corpus.tokens(needle, size // 2)[1:-1]
        place = rng.randrange(len(prose) + 1)
        pieces = [*prose[:place], own, *prose[place:]]
        ids = np.concatenate(pieces)
        start = sum(len(piece) for piece in pieces[:place])
        earliest = max(0, start + len(own) - (size - 2))
        begin = rng.randint(earliest, max(earliest, min(start, len(ids) - (size - 2))))
        documents.append(np.concatenate(([CLS], ids[begin : begin + size - 2], [SEP])))
    return Batch(needles, documents)


def _needles(corpus: Corpus, rng: random.Random, count: int) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < count:
        text = rng.randrange(len(corpus))
        if corpus.offsets[text + 1] - corpus.offsets[text] <= 48 and text not in chosen:
            chosen.append(text)
    return chosen


def _prose(corpus: Corpus, rng: random.Random, size: int) -> list[NDArray[np.int64]]:
    """Neighbouring texts, without their [CLS] and [SEP], of at least ``size`` tokens together."""
    pieces: list[NDArray[np.int64]] = []
    total = 0
    while total < size:
        run = corpus.prose[rng.randrange(len(corpus.prose))]
        for text in run[rng.randrange(len(run)) :]:
            piece = corpus.tokens(text, size)[1:-1]
            pieces.append(piece)
            total += len(piece)
            if total >= size:
                break
    return pieces
