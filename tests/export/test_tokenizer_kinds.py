"""Byte-pair and Unigram tokenizers without `tokenizers`: stored results, published cases, properties, bad folders."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from export.tokenization import convert_tokenizer
from export.tokenization.learned import byte_signs
from runtime.errors import ModelError
from runtime.tokenization import byte_pair, word_cache
from runtime.tokenization.byte_pair import ByteLevelBytePair, BytePair
from runtime.tokenization.loading import load_tokenizer
from runtime.tokenization.tables import TABLES, read_tables, write_tables
from runtime.tokenization.tokenizer import Tokenizer
from runtime.tokenization.wordpiece import WordPiece
from tests.make_tokenizer_golden import checksum, first_difference, kind_batches, telling_codes
from tests.paths import ROOT
from tests.tokenizer_kinds import ASSETS, SPECIAL, TINY, kind_texts, load, write_checkpoint

GOLDEN: dict[str, Any] = json.loads((ROOT / "tests" / "data" / "tokenizer_kinds_golden.json").read_text())
needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason="needs ../shared/data/tokenizers")
tiny = pytest.mark.parametrize("kind", TINY)
_loaded: dict[str, Tokenizer] = {}


@pytest.fixture
def tokenizer(kind: str, tmp_path: Path) -> Tokenizer:
    if kind not in _loaded:
        _loaded[kind] = load(tmp_path, kind)
    return _loaded[kind]


@tiny
def test_code_points_have_the_stored_ids_and_offsets(tokenizer: Tokenizer, kind: str) -> None:
    def of_block(texts: list[str]) -> int:
        return checksum(map(tokenizer.encode_with_offsets, texts))

    assert not first_difference(telling_codes(), GOLDEN[kind]["codes"], of_block)


@tiny
def test_random_texts_have_the_stored_ids_and_offsets(tokenizer: Tokenizer, kind: str) -> None:
    found = [checksum(map(tokenizer.encode_with_offsets, texts)) for texts in kind_batches()]
    assert found == GOLDEN[kind]["random"]


@tiny
def test_examples(tokenizer: Tokenizer, kind: str) -> None:
    for example in GOLDEN[kind]["examples"]:
        ids, offsets = tokenizer.encode_with_offsets(example["text"])
        assert ids == example["ids"], example["text"]
        assert [list(pair) for pair in offsets] == example["offsets"], example["text"]


@tiny
def test_the_three_ways_to_encode_agree(tokenizer: Tokenizer) -> None:
    for text in itertools.islice(kind_texts(3), 1500):
        ids = tokenizer.encode(text)
        assert tokenizer.encode(text) == ids  # from the cache
        assert tokenizer.encode_with_offsets(text)[0] == ids
        assert tokenizer.count(text) == len(ids)
        assert max(ids) < len(tokenizer)


@tiny
def test_a_lone_surrogate_counts_as_a_replacement_character(tokenizer: Tokenizer) -> None:
    for text in ("\ud800", "a\udfffb", "\udc00\ud800", "x \ud83d\ude00 y", "<mask>\ud800"):
        expected = "".join("\ufffd" if "\ud800" <= one <= "\udfff" else one for one in text)
        assert tokenizer.encode(text) == tokenizer.encode(expected)
        assert tokenizer.encode_with_offsets(text) == tokenizer.encode_with_offsets(expected)
        assert tokenizer.count(text) == tokenizer.count(expected)


@pytest.mark.parametrize(("kind", "empty"), [(TINY[0], [0, 2]), (TINY[1], [0, 2]), (TINY[2], [1])])
def test_empty_and_blank_texts(tokenizer: Tokenizer, kind: str, empty: list[int]) -> None:
    assert tokenizer.encode("") == empty
    assert tokenizer.encode_with_offsets("") == (empty, [(0, 0)] * len(empty))
    if kind != TINY[0]:
        assert tokenizer.encode(" \n\u3000") == empty


@pytest.mark.parametrize("kind", TINY[:2])
def test_special_tokens_in_a_text(tokenizer: Tokenizer, kind: str) -> None:
    a, b = tokenizer.encode("a")[1], tokenizer.encode("b")[1]
    assert tokenizer.encode("a<s>b</s>") == [0, a, 0, b, 2, 2]
    assert tokenizer.encode("a \n<mask>b")[1:4] == [a, 4, b]  # takes the blanks before it
    assert tokenizer.encode_with_offsets("a  <mask>")[1] == [(0, 0), (0, 1), (3, 9), (0, 0)]
    assert 0 not in tokenizer.encode("<S>")[1:]


@pytest.mark.parametrize("kind", [TINY[1]])
def test_normalised_tokens_are_found_in_lower_case(tokenizer: Tokenizer) -> None:
    new = len(tokenizer) - 1
    assert tokenizer.encode("new NEW <NEW WORD> x")[1:4] == [new, new, new - 1]


@tiny
def test_long_texts_are_cut_where_words_end(
    tokenizer: Tokenizer, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(itertools.islice(kind_texts(4), 200)) + "  end "
    ids = tokenizer.encode(text)
    for size in (1, 7, 100, 1000):
        monkeypatch.setattr(byte_pair, "_BLOCK", size)
        fresh = load(tmp_path / str(size), kind)
        assert fresh.encode(text) == ids
        assert fresh.count(text) == len(ids)


@pytest.mark.parametrize("kind", TINY[:2])
def test_long_words_are_merged_as_short_ones(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, heap = load(tmp_path / "scan", kind), load(tmp_path / "heap", kind)
    assert isinstance(scan, BytePair)
    assert isinstance(heap, BytePair)
    words = ["aaa" * 7, "ab" * 9, "aab" * 5, "hellohello", "thethenthere", "日本語日本", "über" * 4]
    words += [text.replace(" ", "") for text in itertools.islice(kind_texts(6), 300)]
    expected = [scan.encode(word) for word in words]
    monkeypatch.setattr(byte_pair, "_MOST_SCANNED", 1)
    assert [heap.encode(word) for word in words] == expected


@tiny
def test_a_full_cache_starts_again(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load(tmp_path, kind)
    texts = list(itertools.islice(kind_texts(5), 200))
    expected = [tokenizer.encode(text) for text in texts]
    monkeypatch.setattr(word_cache, "MAX_WORDS", 10)
    monkeypatch.setattr("runtime.tokenization.charsmap._MOST_REMEMBERED", 10)
    small = load(tmp_path, kind)
    assert [small.encode(text) for text in texts] == expected
    assert isinstance(small._word_ids.__self__, word_cache.WordCache)  # type: ignore[attr-defined]
    assert len(small._word_ids.__self__) <= 10  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "least"),
    [("a" * 1_000_000, 1000), ("ab" * 300_000, 1000), (" " * 1_000_000, 1), ("<mask>" * 100_000, 100_000)],
    ids=["one word", "pairs", "blanks", "masks"],
)
@tiny
def test_huge_texts(tokenizer: Tokenizer, kind: str, text: str, least: int) -> None:
    ids = tokenizer.encode(text)
    assert len(ids) >= (1 if text.isspace() or kind == "unigram" else least)
    assert tokenizer.count(text) == len(ids)


PUBLISHED = "golden/token_ids.json"


@needs_assets
@pytest.mark.parametrize(
    ("kind", "model"), [("GPT-2", "Xenova/gpt2"), ("T5", "t5-small"), ("T5 from spiece.model", "t5-small")]
)
def test_published_ids(tokenizer: Tokenizer, model: str) -> None:
    cases = json.loads((ASSETS / PUBLISHED).read_text(encoding="utf-8"))["cases"]
    name = next(one for one in cases if one.endswith(model.rpartition("/")[2]))
    assert len(cases[name]) > 20
    for case in cases[name].values():
        if case.keys() <= {"text", "tokens", "ids"}:
            assert tokenizer.encode(case["text"]) == case["ids"], case["text"]


@needs_assets
@pytest.mark.parametrize("kind", [TINY[0]])
def test_words_end_where_published_tokens_end(tokenizer: Tokenizer) -> None:
    """The merges of base-de cannot be had, but no token of it reaches over an end of our words."""
    found = json.loads((ASSETS / PUBLISHED).read_text(encoding="utf-8"))
    cases = found["cases"]["jinaai/jina-embeddings-v2-base-de"]
    signs = byte_signs()
    assert isinstance(tokenizer, ByteLevelBytePair)
    for case in cases.values():
        if case.keys() != {"text", "tokens", "ids"} or any(token in case["text"] for token in SPECIAL):
            continue
        ends = set(itertools.accumulate(map(len, case["tokens"])))
        words = ["".join(signs[byte] for byte in word.encode()) for word in tokenizer.split(case["text"])]
        assert "".join(words) == "".join(case["tokens"])
        assert set(itertools.accumulate(map(len, words))) <= ends


def test_only_the_kind_that_is_asked_for_is_imported(tmp_path: Path) -> None:
    names = ("wordpiece", "byte_pair", "unigram", "charsmap", "added_tokens", "tables", "character_classes")
    load(tmp_path, TINY[0])
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    description = convert_tokenizer(tmp_path / "checkpoint").description
    code = (
        "import sys; from runtime.tokenization.loading import load_tokenizer\n"
        f"load_tokenizer({str(tmp_path)!r}, {{'type': 'wordpiece', 'lower_case': True}}).encode('a b')\n"
        f"print([n for n in {names} if f'runtime.tokenization.{{n}}' in sys.modules])\n"
        f"load_tokenizer({str(tmp_path / 'model')!r}, {description}).encode('a b')\n"
        f"print([n for n in {names} if f'runtime.tokenization.{{n}}' in sys.modules])\n"
        "print({'regex', 'unicodedata', 'tokenizers'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True)
    found = done.stdout.splitlines()
    assert found[0] == "['wordpiece']", done.stderr
    assert found[1] == "['wordpiece', 'byte_pair', 'added_tokens', 'tables', 'character_classes']", (
        done.stderr
    )
    assert found[2] == "set()"


def test_wordpiece_is_loaded_from_its_description(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nA\n")
    tokenizer = load_tokenizer(str(tmp_path), {"type": "wordpiece", "lower_case": False})
    assert isinstance(tokenizer, WordPiece)
    assert tokenizer.encode("A") == [2, 5, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "bpe2"}, "tokenizer.type is 'bpe2', not one of wordpiece"),
        ({"size": 0}, "tokenizer.pad_id is 1, not an integer from 0 to -1"),
        ({"size": "many"}, "tokenizer.size is 'many'"),
        ({"prefix": [10_000]}, r"tokenizer.prefix is \[10000\], not a list of integers"),
        ({"suffix": 2}, "tokenizer.suffix is 2, not a list"),
        ({"lower_case": 1}, "tokenizer.lower_case is 1, not true or false"),
        ({"unk_id": -1}, "tokenizer.unk_id is -1"),
        ({"added_tokens": [{"id": 0}]}, r"added_tokens\[0\].content is None"),
        ({"second_type_id": 2}, "tokenizer.second_type_id is 2, not an integer from 0 to 1"),
        ({"type": "unigram"}, "tokenizer.bin: not the tables of unigram"),
        ({"type": "character-bpe"}, "tokenizer.bin: not the tables of character-bpe"),  # unk_id is missing
    ],
)
def test_a_wrong_description_is_refused_by_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    load(tmp_path, TINY[0])
    description = convert_tokenizer(tmp_path / "checkpoint").description
    with pytest.raises(ModelError, match=message):
        load_tokenizer(str(tmp_path / "model"), description | change)


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    load(tmp_path, TINY[1])
    description = convert_tokenizer(tmp_path / "checkpoint").description
    model = tmp_path / "model"
    whole = (model / TABLES).read_bytes()
    for damaged in (b"", b"x" * 100, whole[:-1], whole.replace(b'"I"', b'"?"'), b'{"format": 1}\n', b"[]\n"):
        (model / TABLES).write_bytes(damaged)
        with pytest.raises(ModelError, match=r"tokenizer\.bin: damaged"):
            load_tokenizer(str(model), description)
    (model / TABLES).write_bytes(whole.replace(b'"format": 1', b'"format": 9'))
    with pytest.raises(ModelError, match=r"format 9, expected 1"):
        load_tokenizer(str(model), description)
    tables = read_tables_of(whole, tmp_path)
    (model / TABLES).write_bytes(write_tables({**tables, "merged": tables["merged"][:-1]}))
    with pytest.raises(ModelError, match="not the tables of character-bpe"):
        load_tokenizer(str(model), description)
    (model / TABLES).unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        load_tokenizer(str(model), description)


def read_tables_of(content: bytes, folder: Path) -> dict[str, Any]:
    (folder / TABLES).write_bytes(content)
    return read_tables(str(folder))


@needs_assets
def test_a_large_vocabulary_is_stored_compactly(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "GPT-2")
    converted = convert_tokenizer(tmp_path)
    assert converted.size == 50_257
    assert sum(map(len, converted.files.values())) < 750_000


@tiny
def test_special_tokens_have_a_text(tokenizer: Tokenizer, kind: str) -> None:
    added = [tokenizer.special_text(number) for number in (*tokenizer.prefix, *tokenizer.suffix)]
    assert added
    assert all(added)
    assert tokenizer.special_text(len(tokenizer) + 1) == ""
