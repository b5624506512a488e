"""The verification texts: at least a thousand real texts of all lengths, shipped in this package.

``of_tokenizer`` adds German, Spanish, Chinese and source code for the models of these.
``load(None)`` reads the shipped set, ``load(path)`` a file of the caller's. The shipped file was made by
``python -m export.texts FOLDER``, FOLDER holding the three sources named in ``verification_texts.md`` (which also has
their terms) as xz-compressed files of one text unit a line. The draw is seeded: the same sources give the same file.
"""

import json
import lzma
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from export.errors import ExportError

SHIPPED = Path(__file__).with_name("verification_texts.txt.xz")
LANGUAGES = Path(__file__).with_name("verification_languages.jsonl")
MINIMUM_TEXTS = 1000

# Kind of tokenizer -> the languages of the family's models that have it.
_READ_BY = {"byte-level-bpe": ("de", "es", "code"), "character-bpe": ("zh",)}
_JOINED = 10  # texts of a language that are joined to a longer one

# Long texts are runs of consecutive lines joined by a space, up to this many words each.
LONG_WORDS = [*range(160, 1540, 40), 2000, 3500, 7200]


def load(path: Path | None = None, *, minimum: int = MINIMUM_TEXTS) -> list[str]:
    """Read the verification texts.

    :param path: a UTF-8 file of one text a line, plain or ``.xz``; None is the shipped set.
    :param minimum: how many non-empty lines there must be.
    :return: the non-empty lines, stripped, in file order.
    :raises ExportError: the file cannot be read, is not UTF-8, or holds too few texts.
    """
    path = SHIPPED if path is None else path
    try:
        data = path.read_bytes()
        text = (lzma.decompress(data) if path.suffix == ".xz" else data).decode("utf-8-sig")
    except OSError as error:
        raise ExportError(f"cannot read the verification texts {path}: {error.strerror or error}") from None
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} is not a file of UTF-8 texts, one a line: {error}") from None
    # Not splitlines(): U+2028, form feeds and the like are part of a text.
    texts = [line.strip() for line in text.split("\n") if line.strip()]
    if len(texts) < minimum:
        raise ExportError(
            f"{path} holds {len(texts):,} texts, and accuracy is judged on at least {minimum:,}: "
            "add texts, one a line, or leave out --texts to use the shipped set"
        )
    return texts


def of_tokenizer(kind: str) -> list[str]:
    """Read the texts in the languages that a kind of tokenizer is for besides English.

    :param kind: its type in the manifest.
    :return: sentences, or pieces of code with their line breaks; after those of each language longer texts made of
        some of them, and one made of all.
    """
    rows = [json.loads(line) for line in LANGUAGES.read_text(encoding="utf-8").splitlines()]
    found: list[str] = []
    for language in _READ_BY.get(kind, ()):
        own = [str(row["text"]) for row in rows if row["language"] == language]
        starts = range(0, len(own), _JOINED)
        found += [*own, *("\n".join(own[start : start + _JOINED]) for start in starts), "\n".join(own)]
    return found


def draw(folder: Path) -> list[str]:
    """Choose the shipped verification texts.

    :param folder: holds ``openstax_ccby.txt.xz``, ``wordnet_glosses.txt.xz`` and ``scitldr_train.txt.xz``.
    :return: the shipped set: single words, glosses, sentences, paragraphs, abstracts and joined pages.
    """
    chance = random.Random(2310_19923)
    books, glosses, abstracts = (
        lzma.decompress((folder / f"{name}.txt.xz").read_bytes()).decode("utf-8").split("\n")[:-1]
        for name in ("openstax_ccby", "wordnet_glosses", "scitldr_train")
    )
    lemmas = [gloss.partition(": ")[0] for gloss in glosses if ": " in gloss]
    texts = chance.sample([lemma for lemma in lemmas if len(lemma.split()) <= 2], 100)
    texts += chance.sample(glosses, 480)
    texts += chance.sample(books, 380)
    texts += chance.sample(abstracts, 80)
    starts = (chance.randrange(len(books) - 400) for _ in iter(int, None))
    texts += list(_joined(books, starts))
    return list(dict.fromkeys(" ".join(text.split()) for text in texts))


def _joined(lines: list[str], starts: Iterator[int]) -> Iterator[str]:
    for words in LONG_WORDS:
        start = next(starts)
        joined: list[str] = []
        for line in lines[start:]:
            joined += line.split()
            if len(joined) >= words:
                break
        yield " ".join(joined[:words])


def main() -> int:
    """Run the command line."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m export.texts FOLDER   (remakes the shipped verification texts)\n")
        return 2
    texts = draw(Path(sys.argv[1]))
    data = lzma.compress("".join(f"{text}\n" for text in texts).encode(), preset=9 | lzma.PRESET_EXTREME)
    SHIPPED.write_bytes(data)
    words = sum(len(text.split()) for text in texts)
    sys.stderr.write(f"{SHIPPED.name}: {len(texts):,} texts, {words:,} words, {len(data):,} bytes\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
