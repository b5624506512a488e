"""What an input is by its first bytes, and the rows of each kind, as the command line and the bulk jobs read them."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import InputError
from runtime.cli import reading
from runtime.cli.sources import ReadOptions, Source, text_of
from tests.paths import SHARED

CASES = SHARED / "cases" / "bulk"


def source(data: bytes, name: str = "in.txt", **options: object) -> Source:
    return Source(io.BytesIO(data), name, ReadOptions(**options))  # type: ignore[arg-type]


def texts(data: bytes, name: str = "in.txt", **options: object) -> list[str]:
    opened = source(data, name, **options)
    return list(opened.texts(opened.options.key))


def rows(data: bytes, name: str, **options: object) -> list[tuple[int, str | None, str | None]]:
    """Line, text and problem of each row."""
    opened = source(data, name, **options)
    found = []
    for row in opened.rows():
        text, problem = text_of(row, opened.options.key)
        found.append((row.line, None if problem else text, problem))
    return found


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
        (b"\xef\xbb\xbf\r\n", [""]),
        (b"a\xef\xbb\xbf\n", ["a\ufeff"]),
        (b"a\rb\n", ["a\rb"]),  # not a line end: a lone CR stays in the text
        (b"a\rb\rc", ["a", "b", "c"]),  # but where there is no LF at all
        ("a\u2028b\x0bc\x85\n".encode(), ["a\u2028b\x0bc\x85"]),  # nor are what str.splitlines also splits at
        (b" a \t\n", [" a \t"]),
        (b"a\0b\n", ["a\0b"]),
        ("\ufeffa\r\nb".encode("utf-16-le"), ["a", "b"]),
        ("\ufeffé\n\n".encode("utf-16-be"), ["é", ""]),
        ("\ufeff\U0001f600\n".encode("utf-32-le"), ["\U0001f600"]),
    ],
)
def test_lines_of_text(data: bytes, expected: list[str]) -> None:
    assert texts(data) == expected


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")), min_size=1))
def test_there_are_as_many_texts_as_lines(lines: list[str]) -> None:
    data = "".join(f"{text}\n" for text in lines).encode()
    expected = [text.removesuffix("\r") for text in lines]
    expected[0] = expected[0].removeprefix("\ufeff")
    assert texts(data, format="text") == expected


def test_invalid_utf8_is_named_by_line_and_byte() -> None:
    with pytest.raises(InputError, match=r"in\.txt: line 2, byte 3: not UTF-8.*--errors replace"):
        texts(b"fine\r\nab\xffc\n")
    assert texts(b"fine\nab\xffc\xc3\n", errors="replace") == ["fine", "ab\ufffdc\ufffd"]
    with pytest.raises(InputError, match=r"line 2: not cp1252"):
        texts(b"fine\nab\x81\n", encoding="cp1252")
    assert texts(b"caf\xe9\n", encoding="cp1252") == ["café"]
    with pytest.raises(InputError, match="--encoding 'klingon': no such encoding"):
        ReadOptions(encoding="klingon")
    with pytest.raises(InputError, match="looks like UTF-16 without a mark: say --encoding utf-16-le"):
        texts("hello world\n".encode("utf-16-le"))
    assert texts(b"a\nb\n" + bytes(100)) == ["a", "b", "\0" * 100]  # what a crash leaves; no UTF-16


PACKED = {"gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("packed", [*PACKED, "zstd", "lz4"])
@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz", "in"])
def test_what_is_packed_is_known_by_its_first_bytes(packed: str, name: str) -> None:
    data = b"".join(
        json.dumps({"text": f"text {n}", "pad": "x" * (n % 50)}).encode() + b"\n" for n in range(5000)
    )
    if packed in PACKED:
        small = PACKED[packed](data)
    else:
        pa = pytest.importorskip("pyarrow", reason='needs pip install "jinabert-runtime[bulk]"')
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, packed) as stream:
            stream.write(data)
        small = sink.getvalue().to_pybytes()
    opened = source(small, name)
    assert (opened.format, opened.packed) == ("jsonl", [packed])
    assert list(opened.texts("text")) == [f"text {n}" for n in range(5000)]
    assert texts(gzip.compress(small), name)[:2] == ["text 0", "text 1"]
    cut = source(small[: len(small) // 2], name)
    kept = []
    with pytest.raises(InputError, match=f"cannot be read after line .*{packed} data is cut off or damaged"):
        kept.extend(row.value["text"] for row in cut.rows())
    assert kept == [f"text {n}" for n in range(len(kept))]  # what came before is good, and no half a row
    if packed == "gzip":
        assert len(kept) > 1000


@pytest.mark.parametrize("packed", ["gzip", "bz2", "xz", "zstd", "lz4"])
def test_packed_files_of_several_pieces_are_read_whole_or_end_in_an_error(packed: str) -> None:
    def pack(first: int) -> bytes:
        data = b"".join(b"%d\n" % number for number in range(first, first + 1000))
        if packed in PACKED:
            return PACKED[packed](data)
        pa = pytest.importorskip("pyarrow", reason='needs pip install "jinabert-runtime[bulk]"')
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, packed) as stream:
            stream.write(data)
        whole: bytes = sink.getvalue().to_pybytes()
        return whole

    expected = [str(number) for number in range(2000)]
    assert texts(pack(0) + pack(1000)) == expected
    between = {"xz": bytes(8), "zstd": b"\x50\x2a\x4d\x18\x02\0\0\0ab", "lz4": b"\x5f\x2a\x4d\x18\0\0\0\0"}
    filling = between.get(packed, b"")
    assert texts(pack(0) + filling + pack(1000)) == expected
    if packed in ("zstd", "lz4"):  # pzstd begins its files so
        assert texts(filling + pack(0)) == expected[:1000]
    for damage in (b"no such data", b"X" + pack(1000)):
        opened, kept = source(pack(0) + damage), []
        with pytest.raises(InputError, match=f"{packed} data is cut off or damaged"):
            kept.extend(row.value for row in opened.rows())
        assert kept == expected[: len(kept)]
        assert len(kept) > 900


@pytest.mark.parametrize("packed", [b"\x28\xb5\x2f\xfd....", b"\x04\x22\x4d\x18....", b"PAR1\0...PAR1"])
def test_what_needs_pyarrow_says_so(packed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r'needs pyarrow: pip install "jinabert-runtime\[bulk\]"'):
        texts(packed)


@pytest.mark.parametrize("name", ["in.json", "in.jsonl", "in.txt", "standard input"])
@pytest.mark.parametrize(
    "data",
    [
        b'[{"text": "a"}, {"text": "b"}]',
        b'\xef\xbb\xbf[\n {"text": "a"},\n {"text": "b"}\n]\n',
        b'{"text": "a"}\n\n{"text": "b"}\n   \n',
        b'{\n "text": "a"\n}\n{\n "text": "b"\n}\n',
        b'["a", "b"]',
    ],
)
def test_json_is_known_by_its_first_bytes(name: str, data: bytes) -> None:
    assert texts(data, name) == ["a", "b"]


def test_a_text_that_looks_a_little_like_json_is_text() -> None:
    for data in (
        b"BZhang\n",
        b"ORCHESTRA\n",
        b"PAR1S\n",
        b"[1] A citation\n",
        b"{braces}\n",
        b'["Hello," she said]\n',
        b"[SEP]\n",
        b"{}{\n",
    ):
        assert texts(data) == [data.decode().removesuffix("\n")]
    data = b'{"text": "a"}\n'
    assert texts(data, format="text") == ['{"text": "a"}']


def test_a_large_json_array_is_read_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.cli import sources

    monkeypatch.setattr(sources, "DOCUMENT_CHARACTERS", 1000)
    documents = [{"text": "é" * (n % 3000), "n": n} for n in range(200)]
    data = json.dumps(documents, ensure_ascii=False, indent=1).encode()
    opened = source(data)
    assert [row.value for row in opened.rows()] == documents
    assert [row.value for row in source(data).rows((150, 1))] == documents[150:]
    found = []
    with pytest.raises(
        InputError, match=r"in\.txt: line \d+: the array does not end; 2 rows before are good"
    ):
        found.extend(row.value for row in source(b'[{"text": "a"},\n{"text": "b"},').rows())
    assert len(found) == 2
    with pytest.raises(InputError, match=r"line 2: not JSON .*; 1 rows before are good"):
        list(source(b'[{"text": "a"},\n{"text": b}]').rows())
    with pytest.raises(InputError, match="text after the end of the array"):
        list(source(b'[{"text": "a"}]\nx').rows())


def test_values_that_are_no_objects_are_named() -> None:
    found = rows(b'{"text": "a"}\n5\n["x"]\n"s"\nnull\ntrue\n{"text": 5}\n{}\n', "in.jsonl")
    assert [problem for _, _, problem in found] == [
        None,
        *(
            f"{what}, not a JSON object"
            for what in ("a number", "a list", "a string", "null", "true or false")
        ),
        "field 'text' is a number, not a string",
        "no field 'text' (it has: none)",
    ]
    assert [problem for *_, problem in rows(b'[{"text": "a"}, 5, null]', "in.json")][1:] == [
        "a number, not a JSON object",
        "null, not a JSON object",
    ]


def test_a_key_that_is_there_twice_is_told() -> None:
    twice = b'{"text": "a", "text": "b"}'
    for data, name in (
        (twice + b'\n{"text": "c", "n": 1, "n": 2}\n', "in.jsonl"),
        (b"[" + twice + b"]", "in.json"),
    ):
        assert rows(data, name)[0][2] == "the key 'text' is there twice"
        assert [problem for *_, problem in rows(data, name)[1:]] in (
            [],
            [None],
        )  # of others the last one counts
    nested = b'{"doc": {"text": "a", "text": "b"}}\n'
    assert rows(nested, "in.jsonl", field="doc.text")[0][2] == "the key 'text' is there twice"
    assert rows(b'{"text": "a", "m": [{"text": "b"}, {"text": "c"}]}\n', "in.jsonl")[0][1] == "a"


def test_a_header_of_csv_that_is_none() -> None:
    with pytest.raises(InputError, match=r"in\.csv: the header has a quote that does not close well"):
        texts(b'"i\nd","text"\n1,a\n', "in.csv")
    with pytest.raises(InputError, match=r"no field 'text' \(it has: id, ' text'\)"):
        texts(b"id, text\n1, a\n", "in.csv")


def test_blank_lines_are_skipped_and_counted() -> None:
    opened = source(b'{"text": "a"}\n\n{"text": "b"}\n \n\n', "in.jsonl")
    assert list(opened.texts("text")) == ["a", "b"]
    assert opened.blank == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("plain text", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("[1]", "line 2: a list, not a JSON object"),
        ('{"body": "x", "title": "y"}', r"line 2: no field 'text' \(it has: body, title\): name another"),
        ("{}", r"it has: none"),
        ('{"text": 5}', "line 2: field 'text' is a number, not a string"),
        ('{"text": null}', "line 2: field 'text' is null, not a string"),
        ('{"text": {"a": "b"}}', "line 2: field 'text' is an object, not a string"),
    ],
)
def test_a_line_without_a_text_is_named(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        texts(f'{{"text": "a"}}\n{line}\n'.encode(), "in.jsonl")


def test_a_dot_reaches_into_an_object_and_a_field_of_that_very_name_comes_first() -> None:
    data = b'{"doc": {"text": "a"}}\n{"doc.text": "b", "doc": {"text": "c"}}\n'
    assert texts(data, "in.jsonl", field="doc.text") == ["a", "b"]
    with pytest.raises(InputError, match=r"no field 'doc\.body'"):
        texts(data, "in.jsonl", field="doc.body")


@pytest.mark.parametrize(
    ("data", "name", "options", "expected"),
    [
        (b"id,text\n1,a\n2,b\n", "in.csv", {}, ["a", "b"]),
        (b"id\ttext\n1\ta,b\n", "in.tsv", {}, ["a,b"]),
        (b"id;text\n1;a,b\n", "in.csv", {}, ["a,b"]),
        (b"sep=;\nid;text\n1;a\n", "in.csv", {}, ["a"]),
        ("\ufeffid\ttext\r\n1\té\r\n".encode("utf-16"), "in.csv", {}, ["é"]),
        (b"id,text\r1,a\r2,b", "in.csv", {}, ["a", "b"]),
        (b"id,body\n1,a\n", "standard input", {"field": "body"}, ["a"]),
        (b"id|text\n1|a\n", "in.csv", {"delimiter": "|"}, ["a"]),
        (b'id,text\n1,"a ""b"", c"\n', "in.csv", {}, ['a "b", c']),
        (b'text,id\n"a\n\nb",1\n', "in.csv", {"quoting": "multiline"}, ["a\n\nb"]),
        (b'id,text\n1,"a\nb, c"\n2,d\n3,e\n', "in.csv", {}, ["a\nb, c", "d", "e"]),  # b is no number
        (b'id,text\n1,"a\n', "in.csv", {"quoting": "none"}, ['"a']),
        (b"id,text\n", "in.csv", {}, []),
        (b"", "in.csv", {}, []),
    ],
)
def test_csv(data: bytes, name: str, options: dict[str, str], expected: list[str]) -> None:
    assert texts(data, name, **options) == expected


AMBIGUOUS = (
    "lines 3 to 5 are one row by their quotes, or as many rows: say --quoting multiline, or --quoting none"
)


@pytest.mark.parametrize("mark", [",", "\t"])
def test_a_quote_never_makes_one_row_of_several(mark: str) -> None:
    def table(*lines: str) -> bytes:
        return "".join(line.replace("|", mark) + "\n" for line in lines).encode()

    name = "in.csv" if mark == "," else "in.tsv"
    closed_later = table("id|text", "1|a", '2|"open', "3|b", '4|c"', "5|d")
    assert rows(closed_later, name) == [
        (2, "a", None),
        (3, None, AMBIGUOUS),
        (4, None, AMBIGUOUS),
        (5, None, AMBIGUOUS),
        (6, "d", None),
    ]
    assert texts(closed_later, name, quoting="none") == ["a", '"open', "b", 'c"', "d"]
    assert texts(closed_later, name, quoting="multiline") == ["a", f"open\n3{mark}b\n4{mark}c", "d"]
    never = table("id|text", "1|a", '2|"open', "3|b", "4|c")
    assert [(line, text) for line, text, _ in rows(never, name)] == [(2, "a"), (3, None), (4, "b"), (5, "c")]
    assert "never closed" in str(rows(never, name)[1][2])
    badly = table("id|text", '1|"a" b', '2|5" pipe', "3|x|y", "4")
    assert [(line, text) for line, text, _ in rows(badly, name)] == [
        (2, None),
        (3, '5" pipe'),
        (4, None),
        (5, None),
    ]


fields = st.text(st.characters(codec="utf-8", exclude_characters="\r\0\ufeff"), max_size=8)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), fields), min_size=1, max_size=20))
def test_every_row_of_csv_is_a_text_or_a_problem(records: list[tuple[int, str]]) -> None:
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerows([("id", "text"), *records])
    data = target.getvalue().encode()
    assert texts(data, "in.csv", quoting="multiline") == [text for _, text in records]
    for _, text, problem in rows(data, "in.csv"):
        assert (text is None) == (problem is not None)
        assert text is None or text in {text for _, text in records} or "\n" in target.getvalue()


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from('a",\n'), max_size=6), min_size=1, max_size=12), st.data())
def test_reading_goes_on_where_it_stopped(lines: list[str], data: st.DataObject) -> None:
    content = ("id,text\n" + "\n".join(lines) + "\n").encode()
    opened = source(content, "in.csv")
    every = [(row.line, row.after, row.end, row.value, row.problem) for row in opened.rows()]
    places = [n for n, row in enumerate(every) if row[2] >= 0]
    if places:
        stop = data.draw(st.sampled_from(places))
        rest = source(content, "in.csv").rows((every[stop][2], every[stop][1]))
        assert [(row.line, row.after, row.end, row.value, row.problem) for row in rest] == every[stop + 1 :]


def test_a_column_that_is_missing_or_an_input_that_is_none() -> None:
    with pytest.raises(InputError, match=r"no field 'text' \(it has: id, body\): name another with --field"):
        texts(b"id,body\n1,a\n", "in.csv")
    with pytest.raises(InputError, match="a zip archive or an Office document"):
        texts(b"PK\x03\x04\0...")
    with pytest.raises(InputError, match="a PDF"):
        texts(b"%PDF-1.7")


def test_a_stream_that_fails_is_an_input_error() -> None:
    class Broken(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError(5, "Input/output error")
            return self.read(10)

    opened = Source(Broken(b"one\ntwo\nthree\n"), "in.txt", ReadOptions())
    kept = []
    with pytest.raises(InputError, match=r"in\.txt: cannot be read after line 2 \(Input/output error\)"):
        kept.extend(row.value for row in opened.rows())
    assert kept == ["one", "two"]


def test_a_row_that_is_too_large_is_not_held() -> None:
    data = b"a\n" + b"x" * 5000 + b"\nb\n"
    assert rows(data, "in.txt", most_bytes=1000)[1][1] is None
    assert [text for _, text, _ in rows(data, "in.txt", most_bytes=1000)] == ["a", None, "b"]


@pytest.mark.skipif(not CASES.exists(), reason="needs ../shared")
@pytest.mark.parametrize(
    ("name", "count", "options"),
    [
        ("c.jsonl.gz", 20, {}),
        ("c.json", 20, {}),
        ("a.json", 5, {}),
        ("x[1].jsonl", 20, {}),
        ("cp1252.csv", 3, {"encoding": "cp1252"}),
        ("utf16.csv", 2, {}),
        ("cr.csv", 2, {}),
        ("sep.csv", 1, {}),
        ("trail.jsonl", 5, {}),
        ("u16.txt", 2, {}),
        ("cr.txt", 3, {}),
        ("marco.tsv", 20, {"quoting": "none"}),
        ("dotted.parquet", 1, {"field": "body.text"}),
    ],
)
def test_files_that_people_have(name: str, count: int, options: dict[str, str]) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason='needs pip install "jinabert-runtime[bulk]"')
    path: Path = CASES / name
    with path.open("rb") as stream:
        opened = Source(stream, str(path), ReadOptions(**options))  # type: ignore[arg-type]
        assert len(list(opened.texts(opened.options.key))) == count


def test_windows_are_bounded_in_texts_and_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "WINDOW_TEXTS", 3)
    monkeypatch.setattr(reading, "WINDOW_CHARACTERS", 10)
    given_texts = ["a", "b", "c", "d" * 50, "e", "f" * 8, "g"]
    windows = list(reading.in_windows(iter(given_texts)))
    assert windows == [["a", "b", "c"], ["d" * 50], ["e", "f" * 8, "g"]]
    assert list(reading.in_windows([])) == []
