"""Lines and JSON lines from bytes."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import InputError
from runtime.cli import reading


def lines(data: bytes, errors: str = "strict") -> list[str]:
    return list(reading.lines(io.BytesIO(data), "in.txt", errors))


def fields(data: bytes, key: str = "text") -> list[str]:
    return list(reading.field(reading.lines(io.BytesIO(data), "in.jsonl", "strict"), "in.jsonl", key))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"a\r\n\r\nb\r\n", ["a", "", "b"]),
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),
        (b"\xef\xbb\xbf", [""]),
        (b"\xef\xbb\xbf\r\n", [""]),
        (b"a\xef\xbb\xbf\n", ["a\ufeff"]),
        (b"a\rb\n", ["a\rb"]),  # not a line end: a lone CR stays in the text
        ("a\u2028b\x0bc\x85\n".encode(), ["a\u2028b\x0bc\x85"]),  # nor are what str.splitlines also splits at
        (b" a \t\n", [" a \t"]),
        (b"a\0b\n", ["a\0b"]),
    ],
)
def test_a_line_ends_with_lf_or_crlf_only(data: bytes, expected: list[str]) -> None:
    assert lines(data) == expected


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")), min_size=1))
def test_there_are_as_many_texts_as_lines(texts: list[str]) -> None:
    data = "".join(f"{text}\n" for text in texts).encode()
    expected = [text.removesuffix("\r") for text in texts]
    expected[0] = expected[0].removeprefix("\ufeff")
    assert lines(data) == expected


def test_invalid_utf8_is_named_by_line_and_byte() -> None:
    with pytest.raises(InputError, match=r"in\.txt: line 2, byte 3 \(offset 8\).*--errors replace"):
        lines(b"fine\r\nab\xffc\n")
    with pytest.raises(InputError, match=r"line 1, byte 4 \(offset 3\)"):
        lines(b"\xef\xbb\xbf\xff")
    assert lines(b"fine\nab\xffc\xc3\n", "replace") == ["fine", "ab\ufffdc\ufffd"]


def test_an_unreadable_stream_is_an_input_error() -> None:
    class Broken(io.BytesIO):
        def readline(self, *_: object) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(InputError, match="Input/output error"):
        list(reading.lines(Broken(), "in.txt", "strict"))


def test_a_field_of_json_lines() -> None:
    documents = [{"text": "a", "body": "\u2028é\n"}, {"body": "", "text": "b"}]
    data = "\n".join(json.dumps(document) for document in documents).encode()
    assert fields(data) == ["a", "b"]
    assert fields(data, "body") == ["\u2028é\n", ""]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "line 2: not JSON"),
        ("plain text", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("[1]", "line 2: list, not a JSON object"),
        ('{"body": "x", "title": "y"}', r"line 2: no field 'text' \(it has: body, title\)"),
        ("{}", r"it has: none"),
        ('{"text": 5}', "line 2: field 'text' is int"),
        ('{"text": null}', "line 2: field 'text' is NoneType"),
    ],
)
def test_a_line_that_is_no_such_object_is_named(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fields(f'{{"text": "a"}}\n{line}\n'.encode())


def test_windows_are_bounded_in_texts_and_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "WINDOW_TEXTS", 3)
    monkeypatch.setattr(reading, "WINDOW_CHARACTERS", 10)
    texts = ["a", "b", "c", "d" * 50, "e", "f" * 8, "g"]
    windows = list(reading.in_windows(iter(texts)))
    assert windows == [["a", "b", "c"], ["d" * 50], ["e", "f" * 8, "g"]]
    assert list(reading.in_windows([])) == []
