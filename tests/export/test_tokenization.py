"""The converter of BPE and Unigram tokenizers: files it reads, settings it overrides, steps it refuses by name."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from export.errors import ExportError
from export.tokenization import convert_tokenizer, model_kind, reference_tokenizer
from export.tokenization.fields import library_float
from export.tokenization.sentencepiece import read_model
from runtime.tokenization.loading import load_tokenizer
from runtime.tokenization.tables import TABLES, read_tables
from tests.tokenizer_kinds import ASSETS, TINY, load, tiny_tokenizer, write_checkpoint

needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason="needs ../shared/data/tokenizers")
BYTES, CHARACTERS, UNIGRAM = TINY


def write(folder: Path, name: str, **changes: Any) -> Path:
    """Write a tokenizer.json with some fields changed: a__b is field b of a."""
    document = tiny_tokenizer(name)
    for path, value in changes.items():
        *outer, last = path.split("__")
        part = document
        for field in outer:
            part = part[int(field)] if isinstance(part, list) else part[field]
        part[last] = value
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", TINY)
def test_what_training_left_is_overridden(tmp_path: Path, name: str) -> None:
    padding = {"strategy": {"Fixed": 128}, "direction": "Right", "pad_id": 1, "pad_token": "<pad>"}
    write(tmp_path, name, padding=padding)
    ids = load(tmp_path / "plain", name).encode("hello there world and more")
    assert len(ids) > 4  # the truncation of tiny_tokenizer
    converted = convert_tokenizer(tmp_path)
    for file, content in converted.files.items():
        (tmp_path / file).write_bytes(content)
    assert load_tokenizer(str(tmp_path), converted.description).encode("hello there world and more") == ids


def test_merges_may_be_texts_or_lists(tmp_path: Path) -> None:
    merges = tiny_tokenizer(BYTES)["model"]["merges"]
    as_lists = convert_tokenizer(write(tmp_path, BYTES))
    as_texts = convert_tokenizer(write(tmp_path, BYTES, model__merges=[" ".join(pair) for pair in merges]))
    assert as_lists == as_texts


def test_the_description_has_the_special_tokens(tmp_path: Path) -> None:
    converted = convert_tokenizer(write(tmp_path, BYTES))
    found = converted.description
    assert found["type"] == BYTES
    assert (found["pad_id"], found["unk_id"], found["prefix"], found["suffix"]) == (1, None, [0], [2])
    assert (found["middle"], found["second_type_id"], found["trim_offsets"]) == ([2, 2], 0, True)
    assert {"id": 4, "content": "<mask>", "lstrip": True, "special": True} in found["added_tokens"]
    assert converted.size == found["size"]
    unigram = convert_tokenizer(write(tmp_path, UNIGRAM)).description
    assert (unigram["pad_id"], unigram["unk_id"], unigram["prefix"], unigram["suffix"]) == (0, 2, [], [1])


def test_the_pad_token_of_the_settings_counts(tmp_path: Path) -> None:
    write(tmp_path, BYTES)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "</s>"}}))
    assert convert_tokenizer(tmp_path).description["pad_id"] == 2


def test_other_post_processors(tmp_path: Path) -> None:
    one, two = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    first, last, other = (
        {"SpecialToken": {"id": name, "type_id": kind}}
        for name, kind in (("<s>", 0), ("</s>", 0), ("</s>", 1))
    )
    template = {
        "type": "TemplateProcessing",
        "single": [first, one, last],
        "pair": [first, one, last, two, other],
        "special_tokens": {
            name: {"id": name, "ids": [number], "tokens": [name]}
            for name, number in (("<s>", 0), ("</s>", 2))
        },
    }
    found = convert_tokenizer(write(tmp_path, BYTES, post_processor=template)).description
    assert [found[name] for name in ("prefix", "middle", "suffix", "second_type_id")] == [[0], [2], [2], 1]
    sequence = {
        "type": "Sequence",
        "processors": [{"type": "ByteLevel", "add_prefix_space": False}, template],
    }
    found = convert_tokenizer(write(tmp_path, BYTES, post_processor=sequence)).description
    assert (found["prefix"], found["trim_offsets"]) == ([0], True)
    bert = {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}
    found = convert_tokenizer(write(tmp_path, BYTES, post_processor=bert)).description
    assert (found["middle"], found["second_type_id"]) == ([2], 1)
    found = convert_tokenizer(write(tmp_path, BYTES, post_processor=None)).description
    assert (found["prefix"], found["suffix"], found["second_type_id"]) == ([], [], 1)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (BYTES, {"normalizer": {"type": "NFC"}}, "the normalizer is NFC; only Lowercase"),
        (
            BYTES,
            {"pre_tokenizer": {"type": "Digits"}},
            "the pre_tokenizer is Digits; only ByteLevel or Whitespace",
        ),
        (BYTES, {"pre_tokenizer": None}, "the pre_tokenizer is missing; only ByteLevel"),
        (BYTES, {"pre_tokenizer__add_prefix_space": True}, "add_prefix_space is True; only False"),
        (BYTES, {"pre_tokenizer__use_regex": False}, "use_regex is False; only True"),
        (BYTES, {"pre_tokenizer__behavior": "x"}, "the setting 'behavior', which is not implemented"),
        (BYTES, {"post_processor": {"type": "Other"}}, "the post_processor is Other; only RobertaProcessing"),
        (BYTES, {"post_processor__add_prefix_space": True}, "add_prefix_space is true; only false"),
        (BYTES, {"post_processor__cls": ["<x>", 0]}, "is not a token of the vocabulary with its id"),
        (BYTES, {"model__dropout": 0.1}, "model.dropout is 0.1"),
        (BYTES, {"model__byte_fallback": True}, "model.byte_fallback is True"),
        (BYTES, {"model__ignore_merges": True}, "model.ignore_merges is True"),
        (CHARACTERS, {"model__fuse_unk": True}, "model.fuse_unk is True"),
        (CHARACTERS, {"model__end_of_word_suffix": "</w>"}, "model.end_of_word_suffix is '</w>'"),
        (CHARACTERS, {"model__unk_token": None}, "model.unk_token is None, which is not in the vocabulary"),
        (CHARACTERS, {"model__merges": ["a zzz"]}, "merge 0, 'a zzz', is not of two tokens"),
        (CHARACTERS, {"model__merges": ["a b", "a b"]}, "a merge is listed twice"),
        (CHARACTERS, {"model__merges": None}, "model.merges is None"),
        (CHARACTERS, {"model__vocab": {"a": 0, "b": 2}}, "the ids of the vocabulary are not 0, 1, 2"),
        (CHARACTERS, {"model__type": "WordLevel"}, "the tokenizer is WordLevel; expected BPE or Unigram"),
        (CHARACTERS, {"added_tokens__0__id": 3}, "'<s>' has id 3, and `tokenizers` gives it 0"),
        (CHARACTERS, {"added_tokens__0__strip": True}, "only id, content, single_word, lstrip"),
        (CHARACTERS, {"added_tokens__1__content": "<s>"}, "'<s>' is listed twice"),
        (CHARACTERS, {"model": None}, "model is None, expected an object"),
        (UNIGRAM, {"normalizer": {"type": "Nmt"}}, "the normalizer is Nmt; only Precompiled"),
        (UNIGRAM, {"normalizer__precompiled_charsmap": "!"}, "precompiled_charsmap is broken"),
        (
            UNIGRAM,
            {"pre_tokenizer": {"type": "Metaspace"}},
            "the pre_tokenizer is Metaspace; only WhitespaceSplit and",
        ),
        (
            UNIGRAM,
            {"pre_tokenizer__pretokenizers__1__prepend_scheme": "first"},
            "prepend_scheme is 'first'; only",
        ),
        (UNIGRAM, {"model__byte_fallback": True}, "model.byte_fallback is true"),
        (UNIGRAM, {"model__unk_id": None}, "model.unk_id is None"),
        (UNIGRAM, {"model__vocab": [["a", 0], ["a", 1]]}, "lists a piece twice"),
        (UNIGRAM, {"model__vocab": [["a", 0], 7]}, "the vocabulary is broken"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError) as caught:
        convert_tokenizer(write(tmp_path, name, **changes))
    assert message in str(caught.value)
    assert str(tmp_path / "tokenizer.json") in str(caught.value)


def test_an_incomplete_byte_alphabet_is_refused(tmp_path: Path) -> None:
    vocabulary = dict(tiny_tokenizer(BYTES)["model"]["vocab"])
    vocabulary["other"] = vocabulary.pop("!")
    with pytest.raises(ExportError, match="lacks the byte 0x21; all 256 are needed"):
        convert_tokenizer(write(tmp_path, BYTES, model__vocab=vocabulary))


def test_the_kind_of_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="has no tokenizer"):
        model_kind(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    assert model_kind(tmp_path) == "WordPiece"
    assert model_kind(write(tmp_path, UNIGRAM)) == "Unigram"
    assert model_kind(write(tmp_path, BYTES)) == "BPE"


def older_files(folder: Path) -> Path:
    """Write vocab.json and merges.txt of the tiny byte-level tokenizer."""
    model = tiny_tokenizer(BYTES)["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = "".join(" ".join(pair) + "\n" for pair in model["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    return folder


def test_vocab_json_and_merges_txt_are_read_as_robertas(tmp_path: Path) -> None:
    older_files(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<new>": 400, "<newer>": 401}), encoding="utf-8")
    size = len(tiny_tokenizer(BYTES)["model"]["vocab"])
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<newer>": size + 1, "<new>": size}))
    converted = convert_tokenizer(tmp_path)
    expected = convert_tokenizer(write_checkpoint(tmp_path / "other", BYTES))
    assert converted.files == expected.files
    for name in ("type", "prefix", "middle", "suffix", "pad_id", "trim_offsets"):
        assert converted.description[name] == expected.description[name]
    for file, content in converted.files.items():
        (tmp_path / file).write_bytes(content)
    ours, judge = load_tokenizer(str(tmp_path), converted.description), reference_tokenizer(tmp_path)
    for text in ("hello  <mask> there</s>", "a<new><newer> b", "<s>hello"):
        found = judge.encode(text)
        assert ours.encode_with_offsets(text) == (found.ids, found.offsets)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer_class": "CLIPTokenizer"}, "tokenizer_class is 'CLIPTokenizer'"),
        ({"add_prefix_space": True}, "add_prefix_space is True; only false"),
    ],
)
def test_other_settings_of_older_files_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    older_files(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ExportError, match=message):
        convert_tokenizer(tmp_path)


@needs_assets
def test_spiece_model_gives_what_the_published_tokenizer_json_gives(tmp_path: Path) -> None:
    from_json = convert_tokenizer(write_checkpoint(tmp_path / "json", "T5"))
    from_model = convert_tokenizer(write_checkpoint(tmp_path / "model", "T5 from spiece.model"))
    tables = []
    for converted in (from_json, from_model):
        (tmp_path / TABLES).write_bytes(converted.files[TABLES])
        tables.append(read_tables(str(tmp_path)))
    scores = [table.pop("scores") for table in tables]
    assert tables[0] == tables[1]
    # The library reads numbers of JSON to the last bit but one.
    assert scores[0] == pytest.approx(scores[1], rel=1e-15)
    assert scores[0] != scores[1]
    assert from_json.description == from_model.description
    assert from_json.size == 32_100


@needs_assets
def test_a_broken_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    data = (ASSETS / "t5" / "spiece.model").read_bytes()
    file = tmp_path / "spiece.model"
    for broken in (b"", b"\xff" * 50, data[:-3], b"not a model"):
        file.write_bytes(broken)
        with pytest.raises(ExportError, match="is not a sentencepiece model"):
            read_model(file)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLNetTokenizer"}))
    with pytest.raises(ExportError, match="tokenizer_class is 'XLNetTokenizer'"):
        convert_tokenizer(tmp_path)


@needs_assets
def test_llama_cpp_hash_of_gpt2(tmp_path: Path) -> None:
    """One text that llama.cpp tells tokenizers apart by: the SHA-256 of its ids."""
    check = json.loads((ASSETS / "golden" / "llamacpp_check.json").read_text(encoding="utf-8"))
    ids = load(tmp_path, "GPT-2").encode(check["text"])
    assert sha256(str(ids).encode()).hexdigest() == check["hash"]["openai-community/gpt2"]


def test_a_charsmap_of_sentencepiece_is_kept_as_it_is(tmp_path: Path) -> None:
    coded = tiny_tokenizer(UNIGRAM)["normalizer"]["precompiled_charsmap"]
    (content,) = convert_tokenizer(write(tmp_path, UNIGRAM)).files.values()
    assert content.endswith(base64.b64decode(coded))


@given(
    numbers=st.lists(
        st.one_of(
            st.floats(-40, 40).map(repr),
            st.floats(-40, 40, width=32).map(repr),
            st.from_regex(r"-?(0|[1-9][0-9]{0,24})\.[0-9]{1,25}(e-?[0-9]{1,2})?", fullmatch=True),
        ).filter(lambda text: "." in text or "e" in text),
        min_size=1,
        max_size=20,
    )
)
@settings(max_examples=100, deadline=None)
def test_scores_are_read_as_the_library_reads_them(numbers: list[str]) -> None:
    pieces = ",".join(f'["{number}", {text}]' for number, text in enumerate(numbers))
    model = f'{{"type": "Unigram", "unk_id": 0, "vocab": [{pieces}]}}'
    judge = Tokenizer.from_str(f'{{"version": "1.0", "added_tokens": [], "model": {model}}}')
    found = [score for _, score in json.loads(judge.to_str())["model"]["vocab"]]
    assert [library_float(text) for text in numbers] == found


def test_the_last_bit_of_scores_decides_between_paths() -> None:
    assert library_float("-2.0122928619384766") == -2.012292861938477 != float("-2.0122928619384766")
