"""Any text gives a finite vector; any bytes on standard input give vectors or the line and byte that is wrong.

Parity of tokens with `tokenizers` is in tests/runtime/test_tokenizer_parity.py, and for as long as one likes in
tests/fuzz_tokenizer.py.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from runtime import Embedder
from tests.trust.processes import run

HOSTILE = {
    "lone surrogates": "a\ud800b\udc00\udfff \ud83d",
    "surrogates the wrong way round": "\udc00\ud800" * 50,
    "bidi controls": "\u202eabc\u202c \u2066x\u2069 \u200f\u200e\u061c",
    "bidi never closed": "\u202e\u2067\u202b" * 300,
    "a tower of marks": "a" + "\u0301" * 5000 + "b",
    "marks in the wrong order": "q" + "\u0307\u0323\u0345\u05b0" * 800,
    "NULs": "\0a\0b\0" * 100,
    "controls": "".join(map(chr, range(32))) * 20,
    "variation selectors and joiners": "\ufe0f\u200d\u200b\u2060" * 500,
    "family": "\U0001f468\u200d\U0001f469\u200d\U0001f467 " * 100,
    "tags": "".join(chr(0xE0000 + n) for n in range(128)) * 10,
    "private and unassigned": "\ue000\uf8ff\U000f0000\U0010ffff\u0378",
    "hangul fillers and jamo": "\u1100\u1161\u11a8\u3164\uffa0" * 200,
    "expanding under NFKD": "\ufdfa\u3300\u33ff" * 300,
    "casing that grows": "\u0130\u1e9e\ufb03\u0390" * 300,
    "special tokens": "[CLS] [SEP] [MASK] [PAD] [UNK] ##a [unused1]",
    "one word": "x" * 100_000,
    "one letter of one word": "\u00e9" * 100_000,
    "only blanks": " \t\u00a0\u2003\u3000\n" * 2000,
    "only punctuation": "!?.,;:" * 5000,
    "markup": "<script>alert(1)</script> ' OR 1=1 -- \x1b[31m %s %n ${jndi:x}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_every_text_has_a_vector(embedder: Embedder, name: str) -> None:
    text = HOSTILE[name]
    vector = embedder.encode(text, max_length=256)
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-5
    ids, offsets, vectors = embedder.encode_tokens(text, max_length=256)
    assert len(ids) == len(offsets) == len(vectors) <= 256
    assert (offsets[1:-1, 0] < offsets[1:-1, 1]).all()
    assert offsets.max(initial=0) <= len(text)
    for chunk in embedder.encode_chunks(text[:2000], 64):
        assert 0 <= chunk.start <= chunk.end <= len(text)


def test_hostile_texts_do_not_touch_their_batch_mates(embedder: Embedder) -> None:
    texts = [text for name in HOSTILE for text in (HOSTILE[name], "hello world")]
    vectors = embedder.encode(texts, max_length=64)
    assert (vectors[1::2] == embedder.encode("hello world", max_length=64)).all()


characters = st.text(st.characters(codec=None), max_size=60)  # surrogates too


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(characters, max_size=6))
def test_any_strings(tiny: Embedder, texts: list[str]) -> None:
    vectors = tiny.encode(texts)
    assert vectors.shape == (len(texts), tiny.dimension)
    assert np.isfinite(vectors).all()
    for text, vector in zip(texts, vectors, strict=True):
        assert (tiny.encode(text) == vector).all()


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200))
@example(b"\xef\xbb\xbfa\r\n\r\n\n")
@example(b"\xed\xa0\x80")  # a surrogate in UTF-8
@example(b"\xf8\x88\x80\x80\x80\n\xc0\xaf")
def test_any_bytes(data: bytes) -> None:
    """As many texts as lines, or the right line and byte; with `replace`, always texts."""
    from runtime import InputError
    from runtime.cli.sources import ReadOptions, Source

    data = b"a" + data  # else the first bytes may say that it is packed, UTF-16, a PDF ...
    assume(
        0 not in data and b"\r" not in data.replace(b"\r\n", b"")
    )  # UTF-16 without a mark, lines ended by CR

    def texts(errors: str) -> list[str]:
        options = ReadOptions(format="text", errors=errors)
        return list(Source(io.BytesIO(data), "standard input", options).texts("text"))

    count = data.count(b"\n") + (not data.endswith(b"\n"))
    assert len(texts("replace")) == count
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        with pytest.raises(
            InputError, match=rf"line {data[: error.start].count(10) + 1}, byte \d+: not UTF-8"
        ):
            texts("strict")
    else:
        assert len(texts("strict")) == count


def vectors_of(result: object) -> list[list[float]]:
    stdout = getattr(result, "stdout")  # noqa: B009
    return [json.loads(line)["embedding"] for line in stdout.splitlines()]


def test_marks_line_ends_and_empty_lines_on_standard_input(tiny_folder: Path, tiny: Embedder) -> None:
    data = "\ufeffhello\r\n\r\n\nworld\0\r\n\u2028a\u0085b\r c".encode()
    result = run("--model", tiny_folder, data=data)
    assert (result.returncode, result.stderr) == (0, b"")
    expected = tiny.encode(["hello", "", "", "world\0", "\u2028a\u0085b\r c"])
    assert (np.array(vectors_of(result), np.float32) == expected).all()


def test_invalid_utf8_on_standard_input(tiny_folder: Path, tiny: Embedder) -> None:
    data = b"fine\n\xffhello\n"
    refused = run("--model", tiny_folder, data=data)
    assert refused.returncode == 2
    assert refused.stderr.startswith(b"embed: standard input: line 2, byte 1: not UTF-8")
    assert b"--errors replace" in refused.stderr
    replaced = run("--model", tiny_folder, "--errors", "replace", data=data)
    assert (replaced.returncode, replaced.stderr) == (0, b"")
    expected = tiny.encode(["fine", "\ufffdhello"])
    assert (np.array(vectors_of(replaced), np.float32) == expected).all()


@pytest.mark.parametrize("text", ["a ", "x", "\u0301", "\U0001f600", "[SEP]", "\ud800"])
def test_ten_megabytes_in_one_line(tiny: Embedder, text: str) -> None:
    """Quadratic time would take days."""
    line = text * (10_000_000 // len(text.encode("utf-8", "surrogatepass")))
    vector, stats = tiny.encode([line], return_stats=True)
    assert np.isfinite(vector).all()
    assert stats.texts == 1


def test_ten_megabytes_in_one_line_of_standard_input(tiny_folder: Path) -> None:
    result = run("--model", tiny_folder, "--quiet", data=b"hello " * 1_700_000 + b"\n\nworld")
    assert (result.returncode, result.stderr) == (0, b"")
    assert len(result.stdout.splitlines()) == 3


@pytest.mark.slow
def test_a_million_lines(tiny_folder: Path) -> None:
    """In memory that does not grow with them."""
    code = (
        "import resource, sys\n"
        "from runtime import embed\n"
        "status = embed.main()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    arguments = ["--model", tiny_folder, "--format", "text", "--output", "/dev/null", "--quiet"]
    peaks = []
    for lines in (20_000, 1_000_000):
        result = run(*arguments, code=code, data=b"hello\n" * lines)
        assert result.returncode == 0
        peaks.append(int(result.stderr) / 1024)
    assert peaks[1] < peaks[0] + 60
