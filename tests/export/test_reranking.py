"""Cross-encoders: the head is transformers' own, scores are the model's at every length, and no head is no reranker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from export import graph, reranking
from export.checkpoint import load_model
from export.errors import ExportError
from export.folder import save_model
from export.models import EncoderModel
from runtime.tokenization.tokenizer import Tokenizer
from tests.export import reference
from tests.export.conftest import rerank_state, tiny_fields, tiny_state, write_checkpoint

FIELDS = tiny_fields()


class Words(Tokenizer):
    """<s> a </s></s> b </s>, and an id for each word."""

    pad_id, unk_id = 1, None
    prefix, middle, suffix = (0,), (2, 2), (2,)

    def encode(self, text: str) -> list[int]:
        return [0, *(5 + sum(word.encode()) % 59 for word in re.findall(r"\w+", text)), 2]


CORPUS = [" ".join(f"w{(i * 7 + j * j) % 97}" for j in range(1 + i % 40)) for i in range(120)] + [
    " ".join(f"w{j % 89}" for j in range(2000))
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("rerank"), FIELDS, rerank_state(FIELDS))


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> EncoderModel:
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def graphs(model: EncoderModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for precision in ("fp32", "int8"):
        folder = tmp_path_factory.mktemp(precision)
        made[precision] = save_model(graph.build(model.export_weights(), precision=precision), folder)[0]
    return made


def librarys_score(folder: Path, ids: list[int]) -> float:
    """Transformers' head on the hidden states of a forward pass that the exporter has no part in."""
    library = BertForSequenceClassification(
        BertConfig(
            num_labels=1, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128
        )
    ).eval()
    state = rerank_state(FIELDS)
    library.bert.pooler.dense.load_state_dict(
        {k: state[f"bert.pooler.dense.{k}"] for k in ("weight", "bias")}
    )
    library.classifier.load_state_dict({k: state[f"classifier.{k}"] for k in ("weight", "bias")})
    hidden = torch.from_numpy(reference.hidden_states(folder, ids)).float()[None]
    with torch.no_grad():
        return float(library.classifier(library.bert.pooler(hidden)))


@pytest.mark.parametrize("length", [3, 10, 150])
def test_scores_are_the_librarys(
    checkpoint: Path, model: EncoderModel, graphs: dict[str, Path], length: int
) -> None:
    ids = [0, *np.random.default_rng(length).integers(5, 60, length - 2).tolist(), 2]
    expected = librarys_score(checkpoint, ids)
    assert reranking.torch_score(model, ids) == pytest.approx(expected, abs=1e-4)
    session = reranking.open_session(graphs["fp32"], 1)
    found = reranking.score(session, model.head, [ids, ids[:2]])
    assert found[0] == pytest.approx(expected, abs=1e-4)
    assert found[0] == reranking.score(session, model.head, [ids])[0]


def test_the_proof(model: EncoderModel, graphs: dict[str, Path]) -> None:
    figures: Any = reranking.verify_scores(
        model, Words(), CORPUS, graphs["fp32"], graphs["int8"], longest=2048, max_dense_tokens=1024
    )
    assert list(figures["fp32"]) == ["3", "8", "100", "513", "2048"]
    assert max(figures["fp32"].values()) < 1e-4
    assert figures["int8"]["lists"] == 1000
    assert figures["int8"]["tau"] > 0.9


def test_another_graph_is_refused(model: EncoderModel, graphs: dict[str, Path], tmp_path: Path) -> None:
    other = load_model(write_checkpoint(tmp_path / "other", FIELDS, rerank_state(FIELDS, seed=9)))
    with pytest.raises(ExportError, match="does not score as the model"):
        reranking.verify_scores(
            other, Words(), CORPUS, graphs["fp32"], None, longest=100, max_dense_tokens=1024
        )


def test_another_order_in_int8_is_refused(
    model: EncoderModel, graphs: dict[str, Path], tmp_path: Path
) -> None:
    other = load_model(write_checkpoint(tmp_path / "other", FIELDS, rerank_state(FIELDS, seed=9)))
    (wrong, *_) = save_model(graph.build(other.export_weights(), precision="int8"), tmp_path)
    with pytest.raises(ExportError, match="Kendall's tau"):
        reranking.verify_scores(
            model, Words(), CORPUS, graphs["fp32"], wrong, longest=3, max_dense_tokens=1024
        )


def test_kendall_tau() -> None:
    one = np.array([0.1, 0.2, 0.3, 0.4])
    assert reranking.kendall_tau(one, one * 3) == 1
    assert reranking.kendall_tau(one, -one) == -1
    assert reranking.kendall_tau(one, one[[1, 0, 2, 3]]) == pytest.approx(4 / 6)
    assert reranking.kendall_tau(one[:1], one[:1]) == 1


def refusal(tmp_path: Path, state: dict[str, Any], **options: bool) -> str:
    with pytest.raises(ExportError) as caught:
        load_model(write_checkpoint(tmp_path / "refused", FIELDS, state), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_encoder_without_a_head_is_no_reranker(tmp_path: Path) -> None:
    assert "no trained head" in refusal(tmp_path, tiny_state(FIELDS), rerank=True)
    pooled = {key: value for key, value in rerank_state(FIELDS).items() if "classifier" not in key}
    assert "no trained head" in refusal(tmp_path, pooled, rerank=True)


@pytest.mark.parametrize("missing", ["bert.pooler.dense.weight", "classifier.bias"])
def test_half_a_head_is_refused(tmp_path: Path, missing: str) -> None:
    state = rerank_state(FIELDS)
    del state[missing]
    assert f"{missing.removeprefix('bert.')} is missing" in refusal(tmp_path, state)


def test_a_classifier_of_several_labels_is_refused(tmp_path: Path) -> None:
    several = {"classifier.weight": torch.ones(3, 64), "classifier.bias": torch.ones(3)}
    message = refusal(tmp_path, rerank_state(FIELDS) | several)
    assert "a head for another task" in message
    assert "--without-head" in message


def test_the_encoder_alone(checkpoint: Path) -> None:
    assert load_model(checkpoint, without_head=True).head == ()
