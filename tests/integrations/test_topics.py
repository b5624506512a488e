"""Libraries that ask for an instance of sentence-transformers' class take the surface: KeyBERT; BERTopic asks alike."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import sentence_transformers

from runtime.integrations.sentence_transformers import SentenceTransformer

TEXT = "Penguins keep their eggs warm on their feet through the Antarctic winter. Bread rises in the oven."


@pytest.mark.filterwarnings("default")  # KeyBERT's own
def test_keybert_finds_words() -> None:
    from keybert import KeyBERT

    found = KeyBERT(SentenceTransformer()).extract_keywords(TEXT, top_n=3)
    assert found[0][0] in ("penguins", "antarctic")
    assert all(0 < score <= 1 for _, score in found)


def test_it_is_an_instance_for_who_asks_and_itself_otherwise(tiny_folder: Path) -> None:
    model = SentenceTransformer(tiny_folder)
    assert isinstance(model, sentence_transformers.SentenceTransformer)
    assert isinstance(model, SentenceTransformer)
    assert type(model) is SentenceTransformer
    for made in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(made) is SentenceTransformer
        assert np.array_equal(made.encode("a"), model.encode("a"))
