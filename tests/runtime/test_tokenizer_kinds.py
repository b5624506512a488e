"""Byte-pair and Unigram tokenizers without `tokenizers`: stored results, properties, bad folders."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import InputError, ModelError
from runtime.tokenization import byte_pair, word_cache
from runtime.tokenization.byte_pair import BytePair
from runtime.tokenization.loading import load_tokenizer
from runtime.tokenization.tables import TABLES, read_tables, write_tables
from runtime.tokenization.tokenizer import Tokenizer
from runtime.tokenization.wordpiece import WordPiece
from tests.hostile_texts import kind_texts
from tests.make_tokenizer_golden import checksum, first_difference, kind_batches, telling_codes
from tests.paths import ROOT
from tests.stored_tokenizers import GOLDEN, KINDS, load_stored, write_stored
from tests.wordpiece import code_texts

every_kind = pytest.mark.parametrize("kind", KINDS)
_loaded: dict[str, Tokenizer] = {}


@pytest.fixture
def tokenizer(kind: str, tmp_path: Path) -> Tokenizer:
    if kind not in _loaded:
        _loaded[kind] = load_stored(tmp_path, kind)
    return _loaded[kind]


@every_kind
def test_code_points_have_the_stored_ids_and_offsets(tokenizer: Tokenizer, kind: str) -> None:
    def of_block(texts: list[str]) -> int:
        return checksum(map(tokenizer.encode_with_offsets, texts))

    assert not first_difference(telling_codes(), GOLDEN[kind]["codes"], of_block)


@every_kind
def test_random_texts_have_the_stored_ids_and_offsets(tokenizer: Tokenizer, kind: str) -> None:
    found = [checksum(map(tokenizer.encode_with_offsets, texts)) for texts in kind_batches()]
    assert found == GOLDEN[kind]["random"]


@every_kind
def test_code_has_the_stored_ids_and_offsets(tokenizer: Tokenizer, kind: str) -> None:
    assert checksum(map(tokenizer.encode_with_offsets, code_texts())) == GOLDEN[kind]["code"]


@every_kind
def test_examples(tokenizer: Tokenizer, kind: str) -> None:
    for example in GOLDEN[kind]["examples"]:
        ids, offsets = tokenizer.encode_with_offsets(example["text"])
        assert ids == example["ids"], example["text"]
        assert [list(pair) for pair in offsets] == example["offsets"], example["text"]
        assert [tokenizer.decode(ids, special=special) for special in (False, True)] == example["decoded"]


@every_kind
def test_the_three_ways_to_encode_agree(tokenizer: Tokenizer) -> None:
    for text in itertools.islice(kind_texts(3), 1500):
        ids = tokenizer.encode(text)
        assert tokenizer.encode(text) == ids  # from the cache
        assert tokenizer.encode_with_offsets(text)[0] == ids
        assert tokenizer.count(text) == len(ids)
        assert max(ids) < len(tokenizer)


@every_kind
def test_a_lone_surrogate_counts_as_a_replacement_character(tokenizer: Tokenizer) -> None:
    for text in ("\ud800", "a\udfffb", "\udc00\ud800", "x \ud83d\ude00 y", "<mask>\ud800"):
        expected = "".join("\ufffd" if "\ud800" <= one <= "\udfff" else one for one in text)
        assert tokenizer.encode(text) == tokenizer.encode(expected)
        assert tokenizer.encode_with_offsets(text) == tokenizer.encode_with_offsets(expected)
        assert tokenizer.count(text) == tokenizer.count(expected)


@pytest.mark.parametrize(("kind", "empty"), [(KINDS[0], [0, 2]), (KINDS[1], [0, 2]), (KINDS[2], [1])])
def test_empty_and_blank_texts(tokenizer: Tokenizer, kind: str, empty: list[int]) -> None:
    assert tokenizer.encode("") == empty
    assert tokenizer.encode_with_offsets("") == (empty, [(0, 0)] * len(empty))
    if kind != KINDS[0]:
        assert tokenizer.encode(" \n\u3000") == empty


@pytest.mark.parametrize("kind", KINDS[:2])
def test_special_tokens_in_a_text(tokenizer: Tokenizer, kind: str) -> None:
    a, b = tokenizer.encode("a")[1], tokenizer.encode("b")[1]
    assert tokenizer.encode("a<s>b</s>") == [0, a, 0, b, 2, 2]
    assert tokenizer.encode("a \n<mask>b")[1:4] == [a, 4, b]  # takes the blanks before it
    assert tokenizer.encode_with_offsets("a  <mask>")[1] == [(0, 0), (0, 1), (3, 9), (0, 0)]
    assert 0 not in tokenizer.encode("<S>")[1:]


@pytest.mark.parametrize("kind", [KINDS[1]])
def test_normalised_tokens_are_found_in_lower_case(tokenizer: Tokenizer) -> None:
    new = len(tokenizer) - 1
    assert tokenizer.encode("new NEW <NEW WORD> x")[1:4] == [new, new, new - 1]


@every_kind
def test_long_texts_are_cut_where_words_end(
    tokenizer: Tokenizer, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(itertools.islice(kind_texts(4), 200)) + "  end "
    ids = tokenizer.encode(text)
    for size in (1, 7, 100, 1000):
        monkeypatch.setattr(byte_pair, "_BLOCK", size)
        fresh = load_stored(tmp_path / str(size), kind)
        assert fresh.encode(text) == ids
        assert fresh.count(text) == len(ids)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_long_words_are_merged_as_short_ones(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, heap = load_stored(tmp_path / "scan", kind), load_stored(tmp_path / "heap", kind)
    assert isinstance(scan, BytePair)
    assert isinstance(heap, BytePair)
    words = ["aaa" * 7, "ab" * 9, "aab" * 5, "hellohello", "thethenthere", "日本語日本", "über" * 4]
    words += [text.replace(" ", "") for text in itertools.islice(kind_texts(6), 300)]
    expected = [scan.encode(word) for word in words]
    monkeypatch.setattr(byte_pair, "_MOST_SCANNED", 1)
    assert [heap.encode(word) for word in words] == expected


@every_kind
def test_a_full_cache_starts_again(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_stored(tmp_path, kind)
    texts = list(itertools.islice(kind_texts(5), 200))
    expected = [tokenizer.encode(text) for text in texts]
    monkeypatch.setattr(word_cache, "MAX_WORDS", 10)
    monkeypatch.setattr("runtime.tokenization.charsmap._MOST_REMEMBERED", 10)
    small = load_stored(tmp_path, kind)
    assert [small.encode(text) for text in texts] == expected
    assert isinstance(small._word_ids.__self__, word_cache.WordCache)  # type: ignore[attr-defined]
    assert len(small._word_ids.__self__) <= 10  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "least"),
    [("a" * 1_000_000, 1000), ("ab" * 300_000, 1000), (" " * 1_000_000, 1), ("<mask>" * 100_000, 100_000)],
    ids=["one word", "pairs", "blanks", "masks"],
)
@every_kind
def test_huge_texts(tokenizer: Tokenizer, kind: str, text: str, least: int) -> None:
    ids = tokenizer.encode(text)
    assert len(ids) >= (1 if text.isspace() or kind == "unigram" else least)
    assert tokenizer.count(text) == len(ids)


def test_only_the_kind_that_is_asked_for_is_imported(tmp_path: Path) -> None:
    names = ("wordpiece", "byte_pair", "unigram", "charsmap", "added_tokens", "tables", "character_classes")
    description = write_stored(tmp_path, KINDS[0])
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    code = (
        "import sys; from runtime.tokenization.loading import load_tokenizer\n"
        f"load_tokenizer({str(tmp_path)!r}, {{'type': 'wordpiece', 'lower_case': True}}).encode('a b')\n"
        f"print([n for n in {names} if f'runtime.tokenization.{{n}}' in sys.modules])\n"
        f"load_tokenizer({str(tmp_path)!r}, {description}).encode('a b')\n"
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
        ({"decoder": "Fuse"}, "tokenizer.decoder is 'Fuse', not one of byte-level, metaspace"),
        ({"type": "unigram"}, "tokenizer.bin: not the tables of unigram"),
        ({"type": "character-bpe"}, "tokenizer.bin: not the tables of character-bpe"),  # unk_id is missing
    ],
)
def test_a_wrong_description_is_refused_by_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    description = write_stored(tmp_path, KINDS[0])
    with pytest.raises(ModelError, match=message):
        load_tokenizer(str(tmp_path), description | change)


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    description = write_stored(tmp_path, KINDS[1])
    model = tmp_path
    whole = (model / TABLES).read_bytes()
    for damaged in (b"", b"x" * 100, whole[:-1], whole.replace(b'"H"', b'"?"'), b'{"format": 2}\n', b"[]\n"):
        (model / TABLES).write_bytes(damaged)
        with pytest.raises(ModelError, match=r"tokenizer\.bin: damaged"):
            load_tokenizer(str(model), description)
    (model / TABLES).write_bytes(whole.replace(b'"format": 2', b'"format": 9'))
    with pytest.raises(ModelError, match=r"format 9, expected 2"):
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


@every_kind
def test_special_tokens_have_a_text(tokenizer: Tokenizer, kind: str) -> None:
    added = [tokenizer.special_text(number) for number in (*tokenizer.prefix, *tokenizer.suffix)]
    assert added
    assert all(added)
    assert tokenizer.special_text(len(tokenizer) + 1) == ""


@every_kind
def test_ids_that_no_token_has_give_no_text(tokenizer: Tokenizer, kind: str) -> None:
    ids = tokenizer.encode("ab")
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([*ids, len(tokenizer), 1 << 40]) == tokenizer.decode(ids)
    with pytest.raises(InputError, match="token id -1: must be 0 or higher"):
        tokenizer.decode([*ids, -1])


def test_a_decoder_that_is_not_implemented(tmp_path: Path) -> None:
    description = write_stored(tmp_path, KINDS[0])
    with pytest.raises(NotImplementedError):
        load_tokenizer(str(tmp_path), description | {"decoder": None}).decode([5])
