"""Keeps evaluation text out of training text.

``build(evaluation_texts(folder))`` makes an index, ``index.match(text)`` says why a training text must go, and
``clean(texts, index, counts)`` filters a stream and counts the reasons for the model card. Texts are compared as
words: NFKC, lower case, runs of letters and digits; punctuation and white space do not count. The reasons, tried
in this order:

- ``exact``: the same words as an evaluation text.
- ``ngram``: 8 words in a row in common with an evaluation text. In running text 8 words are hardly ever shared by
  chance, while a copy keeps such a run even if every tenth word was changed. It finds copies inside longer texts on
  either side.
- ``contains``: the whole of an evaluation text of 5 to 7 words, which has no run of 8. Below 5 words such a run is
  an ordinary phrase ("a man is playing"), so those texts are only compared as wholes.
- ``near``: Jaccard similarity of at least 0.8 with an evaluation text, for texts of up to 40 words, where a changed
  word in each run of 8 is still likely. The shingles are the letter trigrams of each word with its borders, as in
  PostgreSQL's pg_trgm: word n-grams of a short sentence change all at once with one word (one of ten words replaced
  leaves 7 of 11 bigrams), and trigrams across words change with word order, while these keep 0.8 when one word of
  ten is replaced, when words are inflected or misspelt, and when they change places.

What it does not find: paraphrases and translations, and a changed copy of a short text inside a longer one.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from export.errors import ExportError

__all__ = ["REASONS", "EvaluationIndex", "build", "clean", "evaluation_texts", "words"]

REASONS = ("exact", "ngram", "contains", "near")
NGRAM = 8  # words in a row
CONTAINED = range(5, NGRAM)  # words of an evaluation text that is looked for inside others
SIMILARITY = 0.8  # Jaccard, of the sets of trigrams
NEAR_WORDS = 40  # longer texts leave nothing to `near` that `ngram` does not find
COMMON = 3  # shingles that two prefixes must share, see EvaluationIndex._near

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Split a text into words.

    :param text: any text.
    :return: its runs of letters and digits after NFKC, in lower case.
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


class EvaluationIndex:
    """What must not be trained on. Made by ``build``; about 100 bytes of memory a word of evaluation text.

    N-grams are kept as 64-bit hashes: the chance that any of 10^8 n-grams meets one of 10^7 by accident is 5e-5.
    """

    def __init__(self) -> None:
        self.texts = 0  # different evaluation texts, after normalisation
        self._wholes: set[int] = set()
        self._runs: set[int] = set()  # of 8 words
        self._short: dict[int, set[int]] = {length: set() for length in CONTAINED}
        self._trigrams: dict[str, int] = {}  # -> number
        self._of_word: dict[str, tuple[int, ...]] = {}  # trigrams of a word met before
        self._sets: list[frozenset[int]] = []
        self._order: list[int] = []  # trigram -> place from rare to frequent
        self._texts_with: dict[int, list[int]] = {}  # trigram -> texts that have it in their prefix

    def match(self, text: str) -> str | None:
        """Tell whether a training text overlaps with an evaluation text.

        :param text: a training text.
        :return: why it must go, one of REASONS; None if it may stay.
        """
        sequence = words(text)
        if not sequence:
            return None
        if hash(" ".join(sequence)) in self._wholes:
            return "exact"
        if _any_run(sequence, NGRAM, self._runs):
            return "ngram"
        if any(_any_run(sequence, length, self._short[length]) for length in CONTAINED):
            return "contains"
        if len(sequence) <= NEAR_WORDS and self._near(sequence):
            return "near"
        return None

    def _add(self, sequence: list[str]) -> None:
        whole = hash(" ".join(sequence))
        if not sequence or whole in self._wholes:
            return
        self.texts += 1
        self._wholes.add(whole)
        self._runs.update(_runs(sequence, NGRAM))
        if len(sequence) in CONTAINED:
            self._short[len(sequence)].add(whole)
        if len(sequence) <= NEAR_WORDS:
            for word in sequence:
                if word not in self._of_word:
                    self._of_word[word] = tuple(
                        self._trigrams.setdefault(trigram, len(self._trigrams)) for trigram in _trigrams(word)
                    )
            self._sets.append(frozenset(chain.from_iterable(map(self._of_word.__getitem__, sequence))))

    def _finish(self) -> None:
        frequency = Counter(chain.from_iterable(self._sets))
        self._order = [0] * len(self._trigrams)
        for place, number in enumerate(sorted(frequency, key=lambda number: (frequency[number], number))):
            self._order[number] = place
        for text, numbers in enumerate(self._sets):
            for number in sorted(numbers, key=self._order.__getitem__)[: _prefix(len(numbers))]:
                self._texts_with.setdefault(number, []).append(text)

    def _near(self, sequence: list[str]) -> bool:
        """Index trigrams for a prefix filter (Chaudhuri et al., Bayardo et al.).

        Order all sets from rare to frequent elements. Sets with a Jaccard of at least s share s times the larger one's
        elements; all but the last COMMON - 1 of what they share then begins within the first n - ceil(s n) + COMMON
        elements of each. Only pairs that meet COMMON times there are compared. Trigrams that no evaluation text has
        are the rarest, and most texts have too many.
        """
        known: set[int] = set()
        unknown: set[str] = set()
        for word in sequence:
            numbers = self._of_word.get(word)
            if numbers is not None:
                known.update(numbers)
                continue
            for trigram in _trigrams(word):
                number = self._trigrams.get(trigram)
                if number is None:
                    unknown.add(trigram)
                else:
                    known.add(number)
        size = len(known) + len(unknown)
        least = math.ceil(SIMILARITY * size)
        if len(known) < least:
            return False
        prefix = sorted(known, key=self._order.__getitem__)[: _prefix(size) - len(unknown)]
        met = Counter(chain.from_iterable(self._texts_with.get(number, ()) for number in prefix))
        for text, times in met.items():
            if times >= min(COMMON, least):
                other = self._sets[text]
                common = len(known & other)
                if common >= SIMILARITY * (size + len(other) - common):
                    return True
        return False


def build(evaluation_texts: Iterable[str]) -> EvaluationIndex:
    """Index evaluation texts.

    :param evaluation_texts: all that must not be trained on.
    :return: the index that training texts are matched against.
    """
    index = EvaluationIndex()
    for text in evaluation_texts:
        index._add(words(text))
    index._finish()
    return index


def clean(texts: Iterable[str], index: EvaluationIndex, counts: Counter[str]) -> Iterator[str]:
    """Drop training texts that overlap with evaluation texts.

    :param texts: training texts, any number of them: they are streamed.
    :param index: of ``build``.
    :param counts: ``texts`` seen, ``kept``, and each of REASONS are added to it, for the model card.
    :return: the texts that may stay, as they were, in order.
    """
    for text in texts:
        counts["texts"] += 1
        reason = index.match(text)
        counts[reason or "kept"] += 1
        if reason is None:
            yield text


def evaluation_texts(folder: Path) -> Iterator[str]:
    """Read all evaluation texts of a folder.

    :param folder: holds ``sts/*.tsv`` (score, sentence, sentence, perhaps more columns) and
        ``retrieval/NAME/corpus.jsonl`` and ``queries.jsonl`` (``text``, perhaps ``title``). All of them count as
        evaluation text, the training parts of STS sets too.
    :return: each sentence, document (after its title, where it has one) and query.
    :raises ExportError: a file is missing or not of its form.
    """
    pairs = sorted((folder / "sts").glob("*.tsv"))
    sets = sorted(path for path in (folder / "retrieval").glob("*") if path.is_dir())
    if not pairs or not sets:
        raise ExportError(f"{folder} has no sts/*.tsv or no retrieval/NAME: name the folder that holds both")
    for path in pairs:
        for number, line in _lines(path):
            columns = line.split("\t")
            if len(columns) < 3:
                raise ExportError(
                    f"{path} line {number} is not score, sentence, sentence with tabs between them"
                )
            yield from columns[1:3]
    for path in (part / name for part in sets for name in ("corpus.jsonl", "queries.jsonl")):
        for number, line in _lines(path):
            try:
                row = json.loads(line)
                yield " ".join(filter(None, (row.get("title"), row["text"])))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise ExportError(f'{path} line {number} is not a JSON object with a "text"') from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        # Not splitlines(): U+2028 and the like are part of a text.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"cannot read {path}: {error}") from None
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _trigrams(word: str) -> list[str]:
    bordered = f" {word} "
    return [bordered[start : start + 3] for start in range(len(word))]


def _prefix(size: int) -> int:
    return size - math.ceil(SIMILARITY * size) + COMMON


def _runs(sequence: list[str], length: int) -> Iterator[int]:
    return (hash(" ".join(sequence[start : start + length])) for start in range(len(sequence) - length + 1))


def _any_run(sequence: list[str], length: int, among: set[int]) -> bool:
    return bool(among) and any(run in among for run in _runs(sequence, length))
