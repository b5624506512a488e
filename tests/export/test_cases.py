"""Folders that people have (../shared/cases/export), and the checks that every export ends with: ids and vectors
against the checkpoint's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export import texts
from export.checkpoint import load_model
from export.declared import Declared, read_declared
from export.errors import ExportError
from export.verify_tokenizer import hostile_texts, verify_tokenizer
from export.verify_vectors import verify_vectors
from export.vocabulary import load_vocabulary
from runtime import Embedder
from runtime.manifest import content_checksum, file_facts
from runtime.model import load_model as load_folder
from runtime.tokenization.wordpiece import WordPiece
from tests.export.test_declared import save_dense, save_sentence_transformer, write_json
from tests.paths import SHARED
from tests.unverified import make_folder

CASES = SHARED / "cases" / "export"
CORPUS = ["the weather is cold today", "rain, sun", "a b cd", "", "sun " * 50]

WORK = {
    "added_both": {},
    "added_json": {},
    "added_slow": {},
    "cfg_bom": {},
    "pre__orig_mod_": {},
    "shardbin": {},
    "st_cls": {"pooling": ("cls",), "normalize": False, "max_tokens": 512},
    "st_max": {"pooling": ("max",), "normalize": False, "max_tokens": 512},
    "st_old": {"normalize": False},
    "st_seq": {"max_tokens": 128},
}
REFUSED = {
    "head": r"head for another task.*classifier\.bias, classifier\.weight.*--without-head",
    "lfs": r"Git LFS pointer.*git lfs pull",
    "lora": r"LoRA adapter.*merge",
}


def check(folder: Path, output: Path, **options: Any) -> tuple[Declared, dict[str, Any]]:
    """The checks of an export on the fp32 model folder of a checkpoint."""
    stated = read_declared(folder)
    made = make_folder(folder, output, "fp32")
    verify_tokenizer(stated.backbone, load_folder(made, threads=1).tokenizer, CORPUS)
    return stated, verify_vectors(load_model(stated.backbone), stated, made, CORPUS, threads=1, **options)


@pytest.mark.parametrize("case", WORK)
def test_cases_that_work(case: str, tmp_path: Path) -> None:
    if not CASES.is_dir():
        pytest.skip("needs ../shared/cases")
    stated, figures = check(CASES / case, tmp_path / "model")
    for name, value in WORK[case].items():
        assert getattr(stated, name) == value
    assert figures["difference"] <= 1e-5
    with Embedder(tmp_path / "model", threads=1) as embedder:
        assert embedder.max_tokens == WORK[case].get("max_tokens", 8192)
        assert embedder.manifest.normalize == stated.normalize


@pytest.mark.parametrize("case", ["added_both", "added_json", "added_slow"])
def test_added_tokens_have_the_ids_of_the_checkpoint(case: str, tmp_path: Path) -> None:
    if not CASES.is_dir():
        pytest.skip("needs ../shared/cases")
    made = make_folder(CASES / case, tmp_path / "model", "fp32")
    assert len((made / "vocab.txt").read_text(encoding="utf-8").splitlines()) == 62
    with Embedder(made, threads=1) as embedder:
        assert embedder.tokenizer.encode("the ticket-id, Jina Sun.") == [2, 5, 62, 12, 63, 13, 3]
        ids, offsets = embedder.tokenizer.encode_with_offsets("TICKET-ID sun")
        assert (ids, offsets) == ([2, 62, 19, 3], [(0, 0), (0, 9), (10, 13), (0, 0)])


@pytest.mark.parametrize("case", REFUSED)
def test_cases_that_are_refused_by_what_they_are(case: str) -> None:
    if not CASES.is_dir():
        pytest.skip("needs ../shared/cases")
    with pytest.raises(ExportError, match=REFUSED[case]) as caught:
        load_model(read_declared(CASES / case).backbone)
    assert "\n" not in str(caught.value)


def test_a_head_is_left_out_when_asked(tmp_path: Path) -> None:
    if not CASES.is_dir():
        pytest.skip("needs ../shared/cases")
    notes: list[str] = []
    load_model(read_declared(CASES / "head").backbone, without_head=True, notes=notes)
    assert "classifier.weight" in notes[-1]


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def own_json(folder: Path, change: Callable[[dict[str, Any]], object] = lambda document: None) -> Path:
    """Write a tokenizer.json of vocab.txt, changed."""
    from tokenizers.implementations import BertWordPieceTokenizer

    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = BertWordPieceTokenizer({token: number for number, token in enumerate(tokens)})
    document = json.loads(tokenizer.to_str())
    change(document)
    write_json(folder / "tokenizer.json", document)
    return folder


def runtime_tokenizer(folder: Path, **options: Any) -> WordPiece:
    vocabulary = load_vocabulary(folder, **options)
    return WordPiece(vocabulary.tokens[: vocabulary.pieces or None], lower_case=vocabulary.lower_case)


def test_hostile_texts_are_thousands_and_the_same_each_time() -> None:
    drawn = list(hostile_texts(["jina", "##ing"]))
    assert drawn == list(hostile_texts(["jina", "##ing"]))
    assert len(drawn) == 4000
    assert len(set(drawn)) > 3500
    assert any("JINA" in text for text in drawn)


@pytest.mark.parametrize("choice", [None, "vocab.txt", "tokenizer.json"])
def test_the_tokenizer_is_the_checkpoints(checkpoint: Path, choice: str | None) -> None:
    own_json(checkpoint)
    figures = verify_tokenizer(
        checkpoint, runtime_tokenizer(checkpoint, choice=choice), texts.load()[:50], choice
    )
    assert figures["texts"] == 50
    assert figures["hostile"] == 4000


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("post_processor", None),
        ("normalizer", {"type": "Lowercase"}),
        ("pre_tokenizer", {"type": "Whitespace"}),
    ],
)
def test_another_pipeline_is_found_by_its_ids(checkpoint: Path, part: str, value: object) -> None:
    tokenizer = runtime_tokenizer(checkpoint)
    own_json(checkpoint, lambda document: document.update({part: value}))
    with pytest.raises(ExportError, match=r"its own ids are .*, ours .*token \d+ is") as caught:
        verify_tokenizer(checkpoint, tokenizer, CORPUS)
    assert "\n" not in str(caught.value)


def test_one_token_more_is_found(checkpoint: Path) -> None:
    tokenizer = runtime_tokenizer(checkpoint)
    own_json(
        checkpoint,
        lambda document: document["added_tokens"].append(
            {
                **document["added_tokens"][0],
                "id": 63,
                "content": "Zürich",
                "normalized": True,
                "special": False,
            }
        ),
    )
    with pytest.raises(ExportError, match="the text holds the added token 'Zürich'"):
        verify_tokenizer(checkpoint, tokenizer, CORPUS)


def swap(document: dict[str, Any]) -> None:
    ids = document["model"]["vocab"]
    ids["rain"], ids["sun"] = ids["sun"], ids["rain"]


def test_files_that_disagree_are_refused_and_can_be_chosen(checkpoint: Path) -> None:
    own_json(checkpoint, swap)
    with pytest.raises(
        ExportError,
        match=r"tokenizer\.json and vocab\.txt .*id 18 is 'sun' .* 'rain' .*--tokenizer tokenizer\.json",
    ):
        load_vocabulary(checkpoint)
    for choice, word in (("tokenizer.json", "sun"), ("vocab.txt", "rain")):
        notes: list[str] = []
        assert load_vocabulary(checkpoint, choice=choice, notes=notes).tokens[18] == word
        assert choice in notes[0]
        verify_tokenizer(checkpoint, runtime_tokenizer(checkpoint, choice=choice), CORPUS, choice)
    (checkpoint / "vocab.txt").unlink()
    with pytest.raises(ExportError, match=r"no vocab\.txt to choose"):
        load_vocabulary(checkpoint, choice="vocab.txt")


def test_settings_that_disagree_are_decided_as_transformers_does_and_noted(checkpoint: Path) -> None:
    own_json(checkpoint)
    (checkpoint / "vocab.txt").unlink()
    for settings, lower_case in (
        ({"do_lower_case": False, "tokenizer_class": "BertTokenizer"}, False),
        ({"do_lower_case": False, "tokenizer_class": "PreTrainedTokenizerFast"}, True),
    ):
        write_json(checkpoint / "tokenizer_config.json", settings)
        notes: list[str] = []
        vocabulary = load_vocabulary(checkpoint, notes=notes)
        assert vocabulary.lower_case == lower_case
        assert "do_lower_case is True in tokenizer.json and False in tokenizer_config.json" in notes[0]
        verify_tokenizer(checkpoint, runtime_tokenizer(checkpoint), CORPUS)


@pytest.mark.parametrize(
    ("added", "words"),
    [
        ({"sky": 64}, "has no such token|does not have it"),
        ({"rain": 3}, "the id 18"),
    ],
)
def test_added_tokens_that_disagree_with_tokenizer_json(
    checkpoint: Path, added: dict[str, int], words: str
) -> None:
    own_json(checkpoint)
    write_json(checkpoint / "added_tokens.json", added)
    with pytest.raises(ExportError, match=words):
        load_vocabulary(checkpoint)


def test_a_byte_order_mark_in_vocab_txt(checkpoint: Path) -> None:
    tokens = load_vocabulary(checkpoint).tokens
    path = checkpoint / "vocab.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_vocabulary(checkpoint).tokens == tokens
    verify_tokenizer(checkpoint, runtime_tokenizer(checkpoint), CORPUS)


def test_a_truncation_side_is_refused(checkpoint: Path) -> None:
    write_json(checkpoint / "tokenizer_config.json", {"truncation_side": "left"})
    with pytest.raises(ExportError, match="truncation_side is left"):
        load_vocabulary(checkpoint)


def declared(folder: Path) -> Path:
    dense = save_dense(folder / "2_Dense", 128, 20, activation_function="torch.nn.modules.activation.Tanh")
    modes = {"pooling_mode": ["cls", "weightedmean"], "include_prompt": False}
    save_sentence_transformer(folder, [("Pooling", modes), ("Dense", dense), ("Normalize", None)])
    settings = {"prompts": {"query": "the rain ", "none": ""}, "default_prompt_name": "query"}
    write_json(folder / "config_sentence_transformers.json", settings)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 20})
    return folder


def test_end_vectors_with_prompts_and_modules(checkpoint: Path, tmp_path: Path) -> None:
    _, figures = check(declared(checkpoint), tmp_path / "model")
    assert figures["prompts"] == 3
    assert figures["texts"] > 12
    assert figures["worst"] > 0.9999999


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8")) | changes
    document["files"] = {name: file_facts(folder / name)._asdict() for name in document["files"]}
    path.write_text(json.dumps(document | {"checksum": content_checksum(document)}), encoding="utf-8")


@pytest.mark.parametrize("damage", ["pooling", "normalize", "prompts", "modules", "graph"])
def test_a_folder_that_gives_other_vectors_is_refused(checkpoint: Path, tmp_path: Path, damage: str) -> None:
    stated = read_declared(declared(checkpoint))
    made = make_folder(checkpoint, tmp_path / "model", "fp32")
    model = load_model(stated.backbone)
    if damage == "pooling":
        edit(made, pooling={"modes": ["cls", "mean"], "include_prompt": False})
    elif damage == "normalize":
        edit(made, normalize=False)
        stated = read_declared(checkpoint)
    elif damage == "prompts":
        edit(made, prompts={"query": "the sun ", "none": ""})
    elif damage == "modules":
        numbers = np.fromfile(made / "modules.bin", "<f4")
        numbers[7] += 0.01
        numbers.tofile(made / "modules.bin")
        edit(made)
    else:
        with torch.no_grad():
            model.encoder.layer[1].mlp.wo.bias[3] += 0.01
    if damage == "normalize":
        with Embedder(made, threads=1) as embedder:
            assert not np.allclose(np.linalg.norm(embedder.encode("rain")), 1)
        return
    with pytest.raises(ExportError, match="does not give what the checkpoint declares") as caught:
        verify_vectors(model, stated, made, CORPUS, threads=1)
    assert "\n" not in str(caught.value)
    if damage != "prompts":
        with pytest.raises(ExportError, match="at least 0.9999999999 is needed"):
            verify_vectors(model, stated, made, CORPUS, least_cosine=0.9999999999, threads=1)
