"""Byte-pair and Unigram tokenizers against `tokenizers` itself: ids, offsets and counts, no difference anywhere."""

from __future__ import annotations

import itertools
import json
import sysconfig
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile_texts import kind_texts
from tests.make_tokenizer_golden import EXAMPLES, blocks, telling_codes
from tests.paths import SHARED
from tests.tokenizer_kinds import ASSETS, SHARED_KINDS, TINY, Pair, load_pair
from tests.wordpiece import FILES, UNICODE, code_texts, documentation_texts, mismatches

pytest.importorskip("tokenizers")

needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason="needs ../shared/data/tokenizers")
every_kind = pytest.mark.parametrize(
    "kind", [*TINY, *(pytest.param(name, marks=needs_assets) for name in SHARED_KINDS)]
)
_pairs: dict[str, Pair] = {}


@pytest.fixture
def pair(kind: str, tmp_path: Path) -> Pair:
    if kind not in _pairs:
        _pairs[kind] = load_pair(tmp_path, kind)
    return _pairs[kind]


@every_kind
def test_examples_and_random_texts(pair: Pair) -> None:
    assert not mismatches(*pair, [*EXAMPLES, *itertools.islice(kind_texts(1), 2000)])


@every_kind
def test_code_points(pair: Pair) -> None:
    for texts in blocks(telling_codes()[:: 1 if len(pair.ours) < 1000 else 31]):
        assert not mismatches(*pair, texts)


@every_kind
@pytest.mark.parametrize("name", FILES)
@pytest.mark.skipif(not UNICODE.is_dir(), reason="needs ../shared/data/unicode")
def test_unicode_files(pair: Pair, name: str) -> None:
    texts = [text[:1000] for text in FILES[name]()]
    assert not mismatches(*pair, texts[:: 1 + len(texts) // 4000])


@every_kind
def test_source_code(pair: Pair) -> None:
    """Python of the standard library, and pieces of twelve languages, whole and line by line."""
    library = Path(sysconfig.get_path("stdlib"))
    names = ("argparse.py", "json/decoder.py", "html/entities.py", "ctypes/util.py", "sqlite3/dump.py")
    texts = [*code_texts(), *((library / name).read_text(encoding="utf-8")[:20_000] for name in names)]
    lines = [line for text in texts for line in text.splitlines(keepends=True)]
    assert not mismatches(*pair, [*texts, *lines, *(text.replace("\n", "\r\n") for text in texts)])


@every_kind
@pytest.mark.skipif(not (SHARED / "data" / "text").is_dir(), reason="needs ../shared/data/text")
def test_documentation_with_code(pair: Pair) -> None:
    texts = documentation_texts()
    assert len(texts) > 600
    assert not mismatches(*pair, texts)


@every_kind
@given(
    text=st.text(
        st.one_of(
            st.characters(),
            st.characters(max_codepoint=0x2FF),
            st.characters(categories=["Mn", "Mc", "Me", "Cf", "Zs", "Lm", "No", "Nl"]),
            st.sampled_from("\u2581\u0120'srelvdm <>/mask\n\t\u0301\u200d\u2122\u0130aA1"),
        )
    )
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text(pair: Pair, text: str) -> None:
    assert not mismatches(*pair, [text])


@needs_assets
@pytest.mark.parametrize("kind", ["T5"])
def test_grapheme_clusters(pair: Pair) -> None:
    """What stands before a mapped character with an accent decides whether the accent is lost with it."""
    before = [
        "",
        "a",
        "\n",
        "\x01",
        "\u200d",
        "☃\u200d",
        "👩\u200d",
        "क्",
        "क",
        "\u0600",
        "\u1100",
        "🇫",
        "\u05c8",
    ]
    before += [
        "\U000e00f5",
        "\U000e0001",
        "\U000e0100",
        "\U00013430",
        "\U0001bca0",
        "\U000110bd",
        "\ufeff",
        "\u2060",
    ]
    mapped = ["\u0341", "\u2122", "\u0958", "ª", "ﬁ", "\u0344", "e\u0302", "D\u0307", "\r", "\x02"]
    after = ["", "\u0301", "\u0337", "\u0301\u0337", "\u0903", "\n"]
    texts = ["".join(parts) for parts in itertools.product(before, mapped, after)]
    assert not mismatches(*pair, [*texts, *(f"x{text}y" for text in texts)])


@every_kind
@pytest.mark.parametrize(
    "text",
    [
        "a" * 20_000,
        "ab" * 10_000,
        " " * 20_000,
        "日本" * 5_000,
        "\u0301" * 20_000,
        "<mask> " * 3_000,
        "hello " * 20_000,
    ],
    ids=["one letter", "letters", "blanks", "ideographs", "marks", "masks", "words"],
)
def test_long_texts(pair: Pair, text: str) -> None:
    assert not mismatches(*pair, [text])


@every_kind
def test_pairs_of_texts(pair: Pair) -> None:
    texts = list(itertools.islice(kind_texts(2), 400))
    for first, second in itertools.pairwise(texts):
        if any("\ud800" <= character <= "\udfff" for character in first + second):
            continue
        expected = pair.judge.encode(first, second)
        assert pair.ours.encode_pair(first, second) == (expected.ids, expected.type_ids, 0)


@needs_assets
@pytest.mark.parametrize(
    ("kind", "cases"),
    [
        ("self-trained byte-level", "selftrained/bytelevel_cases.json"),
        ("self-trained characters", "selftrained/characters_cases.json"),
    ],
)
def test_stored_cases(pair: Pair, cases: str) -> None:
    found = json.loads((ASSETS / cases).read_text(encoding="utf-8"))
    assert len(found) > 50
    for case in found:
        second = case.get("pair")
        ids = (
            pair.ours.encode(case["text"])
            if second is None
            else pair.ours.encode_pair(case["text"], second)[0]
        )
        assert ids == case["ids"], case
