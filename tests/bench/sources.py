"""Public text that benchmarks read and the repository does not hold: ``python -m tests.bench data`` fetches it.

Every file is named by repository and commit on GitHub and by its SHA-256, so that a figure is always of the same text.
None of it is trained on (the recipe's sources are in export/distill/recipe.toml).
"""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.bench.environments import CACHE

__all__ = ["DATA", "SOURCES", "Source", "SourceError", "fetch", "read"]

DATA = CACHE / "data"
HOST = "https://raw.githubusercontent.com"
SECONDS = 60.0  # without an answer
PUBLIC_DOMAIN = "public domain in the United States (Project Gutenberg)"


class SourceError(OSError):
    """One line: which file could not be had, and what to do."""


class Source(NamedTuple):
    """A file of a repository on GitHub."""

    repository: str
    commit: str
    path: str
    sha256: str
    terms: str


SOURCES = {
    "The Adventures of Sherlock Holmes": Source(
        "GITenberg/The-Adventures-of-Sherlock-Holmes_1661",
        "7e5dd2703fbf503c004063e96ab7c61262375e5f",
        "1661.txt",
        "2a0ce5568625a304f54fbb6bfdeeadf527a1437254b5f0e06b5a9e233d4784a2",
        PUBLIC_DOMAIN,
    ),
    "Memoirs of Sherlock Holmes": Source(
        "GITenberg/The-Memoirs-of-Sherlock-Holmes_834",
        "6a4b3489ac34fb2b01bb5f8e8097134b2e954d5c",
        "834.txt",
        "ce431578214ff174df0958b0277d9f3fc2c27bd06c6862d51777c2a04a3d752e",
        PUBLIC_DOMAIN,
    ),
    "The Return of Sherlock Holmes": Source(
        "GITenberg/The-Return-of-Sherlock-Holmes_108",
        "723d6d49bca7b22e3b33e68af4df88ea6c12b459",
        "108.txt",
        "ae6a89aa626af682045e873a3a6d171c706f6fc5c0a0388d1027788aebe4ab5d",
        PUBLIC_DOMAIN,
    ),
    "The Innocence of Father Brown": Source(
        "GITenberg/The-Innocence-of-Father-Brown_204",
        "64ff41e02cd79bdc2df51f494a98e71fb39e27f3",
        "204.txt",
        "7a4b3b346404746fd5236047c493a7a2ea6fa9b31c5d6d78f7dff6f5bf669c94",
        PUBLIC_DOMAIN,
    ),
    "The Jungle Book": Source(
        "GITenberg/The-Jungle-Book_236",
        "4176c01078ec4c3db938df1245bca1cd81db86d0",
        "236.txt",
        "e78970f1aa6734f575b0721616424b7253060df1d81f82c513f34ae07cca0282",
        PUBLIC_DOMAIN,
    ),
    "QMSum": Source(
        "Yale-LILY/QMSum",
        "83d7768c1f2b4dfeb091385d3dc7e239b8e5bb7e",
        "data/ALL/jsonl/test.jsonl",
        "6bcd428211260ad2efae3af76cbaf6a7f5ae4bb5e1e59c45a4b8e89539cb9208",
        "MIT",
    ),
}


def fetch(
    folder: Path = DATA,
    *,
    host: str = HOST,
    sources: dict[str, Source] | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Fetch what is not there yet. A file that was cut off or changed is fetched again.

    :param folder: where to; made if need be.
    :param host: where from.
    :param sources: title -> what to fetch; None for SOURCES.
    :param report: takes a line for each file.
    :raises SourceError: a file cannot be had, or is not the one meant.
    """
    for title, source in (SOURCES if sources is None else sources).items():
        file = _file(folder, source)
        if file.exists() and _sha256(file.read_bytes()) == source.sha256:
            report(f"{title}: there already, {source.terms}")
            continue
        url = f"{host}/{source.repository}/{source.commit}/{source.path}"
        try:
            with urllib.request.urlopen(url, timeout=SECONDS) as answer:
                data: bytes = answer.read()
        except (OSError, ValueError) as error:
            raise SourceError(f"{url} cannot be fetched: {error}") from None
        if (found := _sha256(data)) != source.sha256:
            raise SourceError(f"{url} is not the file meant: its SHA-256 is {found}, not {source.sha256}")
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(file.name + ".part")
        part.write_bytes(data)
        part.replace(file)
        report(f"{title}: {len(data):,} bytes from {url}, {source.terms}")


def read(title: str, folder: Path = DATA) -> str:
    """Read a text that was fetched.

    :param title: a key of SOURCES.
    :param folder: that ``fetch`` filled.
    :return: the text, with line ends as "\n".
    :raises SourceError: it was not fetched.
    """
    try:
        return _file(folder, SOURCES[title]).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SourceError(f"{error.filename} is missing: python -m tests.bench data fetches it") from None


def _file(folder: Path, source: Source) -> Path:
    return folder / f"{source.repository.replace('/', '_')}_{Path(source.path).name}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
