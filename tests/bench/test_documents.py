"""Whole documents: the text is fetched once and is the text meant; passages, TF-IDF and the sets are as described."""

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests.bench import documents, sources
from tests.bench.settings import SettingsError

BOOK = "THE BOOK\r\n\r\nI. ONE\r\n\r\nA story.\r\n"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    """A server that holds one file, in the form of GitHub's."""
    file = tmp_path / "served" / "owner" / "name" / "c0ffee" / "data" / "book.txt"
    file.parent.mkdir(parents=True)
    file.write_bytes(BOOK.encode())
    handler = partial(Quiet, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def source(sha256: str, path: str = "data/book.txt") -> dict[str, sources.Source]:
    return {"The Book": sources.Source("owner/name", "c0ffee", path, sha256, "free")}


def test_a_file_is_fetched_once_and_again_when_it_is_damaged(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = source(hashlib.sha256(BOOK.encode()).hexdigest())
    monkeypatch.setattr(sources, "SOURCES", book)
    folder, lines = tmp_path / "data", list[str]()
    sources.fetch(folder, host=host, report=lines.append)
    assert sources.read("The Book", folder) == BOOK.replace("\r\n", "\n")
    sources.fetch(folder, host="http://127.0.0.1:9", report=lines.append)
    assert [line.split(": ")[1][:13] for line in lines] == ["32 bytes from", "there already"]
    (file,) = folder.iterdir()
    file.write_text("cut off")
    sources.fetch(folder, host=host, report=lines.append)
    assert file.read_bytes() == BOOK.encode()


def test_another_file_or_none_is_refused_in_a_line(host: str, tmp_path: Path) -> None:
    with pytest.raises(sources.SourceError, match="is not the file meant: its SHA-256 is"):
        sources.fetch(tmp_path / "data", host=host, sources=source("0" * 64))
    assert not list(tmp_path.glob("data/*"))
    with pytest.raises(sources.SourceError, match="cannot be fetched: HTTP Error 404"):
        sources.fetch(tmp_path / "data", host=host, sources=source("0" * 64, "absent.txt"))


def test_what_was_not_fetched_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(sources.SourceError, match="python -m tests.bench data fetches it"):
        documents.stories(tmp_path)
    monkeypatch.setitem(documents.SETS, "stories", partial(documents.stories, tmp_path))
    with pytest.raises(SettingsError, match="is missing"):
        documents.load("stories")
    with pytest.raises(SettingsError, match="there is no set 'storys'"):
        documents.load("storys")


def test_every_book_of_the_questions_has_a_source() -> None:
    import tomllib

    books = tomllib.loads(documents.QUESTIONS.read_text(encoding="utf-8"))["books"]
    questions = [question for book in books for own in book["questions"].values() for question in own]
    assert {book["title"] for book in books} | {"QMSum"} == set(sources.SOURCES)
    assert sum(len(book["questions"]) for book in books) == 55
    assert len(set(questions)) == len(questions) == 165


def test_meetings_with_the_same_question_both_answer_it(tmp_path: Path) -> None:
    file = tmp_path / "Yale-LILY_QMSum_test.jsonl"
    turns = [{"speaker": "A", "content": "Hello."}, {"speaker": "B", "content": "Bye."}]
    lines = [
        json.dumps(
            {"meeting_transcripts": turns, "specific_query_list": [{"query": query} for query in asked]}
        )
        for asked in (["What?"], ["What?", "Who?"])
    ]
    file.write_text("\n".join(lines) + "\n")
    found = documents.meetings(tmp_path)
    assert found.documents == ["A: Hello.\nB: Bye."] * 2
    assert found.queries == ["What?", "Who?"]
    assert found.relevant == [{0: 1.0, 1: 1.0}, {1: 1.0}]


def test_passages_cover_what_is_read_and_no_more() -> None:
    ids = [101, *range(1000, 1600), 102]
    parts = documents.passages(ids, 512)
    assert [len(part) for part in parts] == [256, 256, 4]
    assert [i for part in parts for i in part[1:-1]] == ids[1:511]
    assert all(part[0] == 101 and part[-1] == 102 for part in parts)
    assert documents.passages([101, 102], 512) == [[101, 102]]


def test_tf_idf_finds_the_rare_word() -> None:
    scores = documents.tf_idf(["The Snake"], ["the dog the dog", "the snake", "the cat"])
    assert scores.argmax() == 1
    assert scores[0, 1] == pytest.approx(1)
    assert np.allclose(scores[0, [0, 2]], 0)
