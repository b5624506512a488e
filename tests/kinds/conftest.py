"""A tiny model of each kind in the family: architecture and tokenizer as the real one has them, seeded weights."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from runtime import Embedder
from tests.serverless.conftest import wheels

__all__ = ["wheels"]

# Name -> which weights, which tokenizer
KINDS = {
    "base-en": ("plain", "wordpiece"),
    "base-de": ("plain", "byte-level-bpe"),
    "base-zh": ("plain", "character-bpe"),
    "base-es": ("es", "byte-level-bpe"),
    "base-code": ("code", "byte-level-bpe"),
    "v1": ("t5", "unigram"),
}


class Kind(NamedTuple):
    """One of the family."""

    name: str
    checkpoint: Path
    folder: Path
    embedder: Embedder


@pytest.fixture(scope="package", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kind]:
    """A tiny fp32 model folder, loaded with one thread."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs the `export` extra")
    from tests.unverified import make_folder

    place = tmp_path_factory.mktemp(request.param)
    checkpoint = make_checkpoint(place / f"tiny-{request.param}", *KINDS[request.param])
    folder = make_folder(checkpoint, place / "model", "fp32")
    with Embedder(folder, threads=1) as embedder:
        yield Kind(request.param, checkpoint, folder, embedder)


def make_checkpoint(folder: Path, weights: str, tokenizer: str) -> Path:
    """Write a checkpoint in Hugging Face layout.

    :param folder: created.
    :param weights: "plain", "es", "code", "t5", or "rerank", which is plain with a head.
    :param tokenizer: "wordpiece", or one of tests.tokenizer_kinds.TINY.
    :return: folder.
    """
    from export.tokenization import convert_tokenizer
    from tests import tokenizer_kinds
    from tests.export import conftest as export

    size = 64
    if tokenizer != "wordpiece":
        tokenizer_kinds.write_checkpoint(folder, tokenizer)
        size = convert_tokenizer(folder).size + 3  # the embedding table may have rows that no token has
    if weights == "t5":
        fields = export.t5_fields(vocab_size=size)
        state = export.t5_state(fields)
    else:
        fields = export.tiny_fields(vocab_size=size)
        make = {
            "plain": export.tiny_state,
            "es": export.es_state,
            "code": export.code_state,
            "rerank": export.rerank_state,
        }
        state = make[weights](fields)
    export.write_checkpoint(folder, fields, state)
    if tokenizer != "wordpiece":
        (folder / "vocab.txt").unlink()
        settings = {"model_max_length": 512 if weights == "t5" else 8192}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
