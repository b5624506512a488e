"""WordPiece against what `tokenizers` gave, stored in tests/data: neither it nor Python's unicodedata is asked.

The comparison with `tokenizers` itself is in test_tokenizer_parity.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from runtime.errors import ModelError
from runtime.tokenization import word_cache
from runtime.tokenization import wordpiece as tokenizer_module
from runtime.tokenization.characters import CharacterTable
from runtime.tokenization.vocabulary import Vocabulary
from runtime.tokenization.wordpiece import WordPiece
from tests.make_tokenizer_golden import (
    all_codes,
    batches,
    checksum,
    file_texts,
    first_difference,
    telling_codes,
)
from tests.paths import ROOT
from tests.wordpiece import FILES, UNICODE, code_texts, random_texts, vocabulary

DATA = ROOT / "tests" / "data"
TOKENS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "##a",
    "b",
    "##b",
    "##bc",
    "!",
    "é",
    "e",
    "A",
    "aaa",
]


@pytest.fixture(scope="module")
def vocabulary_file() -> Path:
    path = vocabulary()
    if path is None:
        pytest.skip("needs vocab.txt in models/NAME or ../shared/data")
    return path


@pytest.fixture(scope="module")
def wordpiece(vocabulary_file: Path, golden: dict[str, Any]) -> WordPiece:
    assert crc32(vocabulary_file.read_bytes()) == golden["vocabulary"], (
        "another vocabulary than the stored ids are of"
    )
    return WordPiece.from_file(vocabulary_file)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "tokenizer_golden.json").read_text(encoding="ascii"))
    return found


@pytest.fixture
def small() -> WordPiece:
    return WordPiece(TOKENS)


@pytest.mark.parametrize("case", ["uncased", "cased"])
def test_every_code_point_is_normalised_as_stored(golden: dict[str, Any], case: str) -> None:
    table = CharacterTable(lower_case=case == "uncased")

    def of_block(texts: list[str]) -> int:
        return checksum(table.normalize(text).split() for text in texts[1::2])  # between letters

    assert not first_difference(all_codes(), golden["words"][case], of_block)


def test_code_points_have_the_stored_ids_and_offsets(wordpiece: WordPiece, golden: dict[str, Any]) -> None:
    def of_block(texts: list[str]) -> int:
        return checksum(map(wordpiece.encode_with_offsets, texts))

    assert not first_difference(telling_codes(), golden["ids"], of_block)


def test_random_texts_have_the_stored_ids_and_offsets(wordpiece: WordPiece, golden: dict[str, Any]) -> None:
    found = [checksum(map(wordpiece.encode_with_offsets, texts)) for texts in batches()]
    assert found == golden["random"]


def test_code_has_the_stored_ids_and_offsets(wordpiece: WordPiece, golden: dict[str, Any]) -> None:
    assert checksum(map(wordpiece.encode_with_offsets, code_texts())) == golden["code"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.skipif(not UNICODE.is_dir(), reason="needs ../shared/data/unicode")
def test_unicode_files_have_the_stored_ids_and_offsets(
    wordpiece: WordPiece, golden: dict[str, Any], name: str
) -> None:
    assert checksum(map(wordpiece.encode_with_offsets, file_texts(name))) == golden["files"][name]


def test_examples(wordpiece: WordPiece) -> None:
    for example in json.loads((DATA / "tokenizer_examples.json").read_text(encoding="ascii")):
        ids, offsets = wordpiece.encode_with_offsets(example["text"])
        assert ids == example["ids"], example["text"]
        assert [list(pair) for pair in offsets] == example["offsets"], example["text"]
        assert [wordpiece.decode(ids, special=special) for special in (False, True)] == example["decoded"]


def test_the_three_ways_to_encode_agree(wordpiece: WordPiece) -> None:
    texts = random_texts(3)
    for _ in range(3000):
        text = next(texts)
        ids = wordpiece.encode(text)
        assert wordpiece.encode(text) == ids  # from the cache
        assert wordpiece.encode_with_offsets(text)[0] == ids
        assert wordpiece.count(text) == len(ids)


def test_properties(wordpiece: WordPiece) -> None:
    assert (wordpiece.pad_id, wordpiece.unk_id, wordpiece.cls_id, wordpiece.sep_id) == (0, 100, 101, 102)
    assert len(wordpiece) == 30528
    assert repr(wordpiece) == "WordPiece(30528 tokens, lower_case=True)"


def test_longest_match_first(small: WordPiece) -> None:
    assert small.encode("abca") == [2, 5, 9, 6, 3]
    assert small.encode("aaa aaaa") == [2, 14, 14, 6, 3]
    assert small.encode("ax") == [2, 1, 3]  # one part that matches nothing makes the whole word [UNK]


def test_case_is_kept_where_asked() -> None:
    assert WordPiece(TOKENS).encode("A é") == [2, 5, 12, 3]
    assert WordPiece(TOKENS, lower_case=False).encode("A é") == [2, 13, 11, 3]
    assert WordPiece(TOKENS, lower_case=False).encode_with_offsets("A")[0] == [2, 13, 3]


def test_offsets_point_into_the_original(wordpiece: WordPiece) -> None:
    text = "Ünaffâble\u0301  ﬁne [SEP]日本"
    _, offsets = wordpiece.encode_with_offsets(text)
    assert "".join(text[start:stop] for start, stop in offsets) == "Ünaffâbleﬁne[SEP]日本"
    assert offsets[0] == offsets[-1] == (0, 0)


def test_special_tokens_that_are_not_in_the_vocabulary_are_ordinary_text() -> None:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[", "]", "mask"]
    assert WordPiece(tokens).encode("[MASK][SEP]") == [2, 4, 6, 5, 3, 3]


def test_special_tokens_next_to_each_other_and_broken(small: WordPiece) -> None:
    assert small.encode("[SEP]" * 1000) == [2, *[3] * 1001]
    assert small.encode("[CL[SEP]S]") == [2, 1, 1, 3, 1, 1, 3]
    assert small.encode("[" * 30_000 + "[SEP]" + "]" * 30_000) == [2, *[1] * 30_000, 3, *[1] * 30_000, 3]


def test_lone_surrogates_nul_and_replacement_characters_are_dropped(small: WordPiece) -> None:
    for dropped in (
        "\ud800",
        "\udfff",
        "\udc00\ud800",
        "\ud83d\ude00",
        "\0",
        "\ufffd",
        "\u200b",
        "\x85",
        "\x1c",
    ):
        assert small.encode(f"a{dropped}b") == [2, 5, 8, 3], ascii(dropped)
        assert small.encode_with_offsets(f"a{dropped}b")[1][2] == (1 + len(dropped), 2 + len(dropped))
        assert small.encode(dropped) == [2, 3]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a " * 5_000_000, 5_000_000),
        ("a" * 10_000_000, 1),
        ("a\n" * 500_000, 500_000),
        ("!" * 1_000_000, 1_000_000),
        ("\u4e00" * 300_000, 300_000),
        (("b" * 10_000 + " ") * 100, 100),
        ("a" + "\u0301" * 1_000_000 + " a", 2),
        ("a" + "\u302e\u0301" * 100_000, 1),
        ("\ud800" * 1_000_000, 0),
    ],
    ids=[
        "10 MB line",
        "10 MB word",
        "lines",
        "!",
        "ideographs",
        "long words",
        "accents",
        "kept marks",
        "surrogates",
    ],
)
def test_huge_texts(small: WordPiece, text: str, ids: int) -> None:
    assert small.count(text) == ids + 2
    if len(text) <= 1_000_001:
        assert len(small.encode(text)) == ids + 2
        assert len(small.encode_with_offsets(text)[0]) == ids + 2


def test_long_texts_are_cut_at_blanks_alone(wordpiece: WordPiece, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = random_texts(4)
    text = " ".join(next(texts) for _ in range(300))
    whole = wordpiece.encode_with_offsets(text)
    for size in (1, 2, 7, 100, 1000):
        monkeypatch.setattr(tokenizer_module, "_BLOCK", size)
        fresh = WordPiece(list(tokens_of(wordpiece)))
        assert fresh.encode_with_offsets(text) == whole
        assert fresh.encode(text) == whole[0]
        assert fresh.count(text) == len(whole[0])


def tokens_of(wordpiece: WordPiece) -> list[str]:
    path = vocabulary()
    assert path is not None
    tokens = path.read_text(encoding="utf-8").split("\n")[: len(wordpiece)]
    assert len(tokens) == len(wordpiece)
    return tokens


def test_a_full_cache_starts_again(vocabulary_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = random_texts(5)
    some = [next(texts) for _ in range(300)]
    expected = [WordPiece.from_file(vocabulary_file).encode(text) for text in some[:20]]
    monkeypatch.setattr(word_cache, "MAX_WORDS", 10)
    monkeypatch.setattr("runtime.tokenization.characters._MOST_CHARACTERS", 10)
    wordpiece = WordPiece.from_file(vocabulary_file)
    for text in some:
        wordpiece.encode(text)
    assert [wordpiece.encode(text) for text in some[:20]] == expected


def test_threads_give_what_one_gives(vocabulary_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = random_texts(6)
    some = [next(texts) for _ in range(400)]
    expected = [WordPiece.from_file(vocabulary_file).encode_with_offsets(text) for text in some]
    monkeypatch.setattr(word_cache, "MAX_WORDS", 50)
    shared = WordPiece.from_file(vocabulary_file)

    def work(_: int) -> bool:
        return all(
            (shared.encode(text), shared.encode_with_offsets(text)[1]) == one
            for text, one in zip(some, expected, strict=True)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_a_vocabulary_that_is_searched_gives_what_one_that_is_built_gives(vocabulary_file: Path) -> None:
    tokens = vocabulary_file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    for token in [
        tokens[0],
        tokens[1],
        tokens[1996],
        tokens[-1],
        "##s",
        "",
        "\n",
        "[pad]\n",
        "zzzzzz",
        "é",
        "人",
    ]:
        searched, built = Vocabulary.from_file(vocabulary_file), Vocabulary(tokens)
        assert searched.get(token) == built.get(token), token
        for _ in range(50):
            searched.get("zzzzzz")
        assert searched.get(token) == built.get(token), token


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_vocabulary_files(tmp_path: Path, end: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(((end or "\n").join([*TOKENS, "a"]) + end).encode())
    wordpiece = WordPiece.from_file(path)
    assert len(wordpiece) == len(TOKENS) + 1
    for _ in range(60):  # searched at first, then built
        assert wordpiece.encode("a") == [2, len(TOKENS), 3]  # of two equal tokens the last counts
        assert wordpiece._vocabulary.get("aaa") == 14


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[PAD]\n[UNK]\nhello\n", r"vocab\.txt: vocabulary of 3 tokens lacks \[SEP\], \[CLS\]"),
        (b"", r"vocabulary of 0 tokens lacks \[UNK\], \[SEP\], \[PAD\], \[CLS\]"),
        (b"[PAD]\n\xff\n", r"vocab\.txt: not UTF-8 at byte 6"),
        (None, r"vocab\.txt: cannot read the vocabulary: No such file"),
    ],
)
def test_vocabularies_that_cannot_be_used_are_named(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        WordPiece.from_file(path)
    assert "\n" not in str(caught.value)


def test_ascii_needs_neither_tables_nor_other_packages(vocabulary_file: Path) -> None:
    code = (
        "import sys\n"
        "from runtime.tokenization.wordpiece import WordPiece\n"
        "wordpiece = WordPiece.from_file(sys.argv[1])\n"
        "wordpiece.encode_with_offsets('What [SEP] does unaffable mean? \\x00\\x1f')\n"
        "tables = 'runtime.tokenization.unicode_tables'\n"
        "print([name for name in (tables, 'numpy', 'onnxruntime', 're') if name in sys.modules])\n"
        "wordpiece.encode('caf\\xe9')\n"
        "print(tables in sys.modules, 'unicodedata' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(vocabulary_file)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["[]", "True False"], done.stderr
