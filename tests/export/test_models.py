"""Which architecture a checkpoint is of: told by its parameter names, never guessed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from export.checkpoint import load_model
from export.errors import ExportError
from tests.export.conftest import code_state, es_state, tiny_fields, tiny_state, write_checkpoint

PLAIN, ES, CODE = "jinabert", "jinabert-qk-devlin-norm", "jinabert-qk-post-norm"
REPOSITORIES = {
    PLAIN: "jinaai/jina-bert-implementation",
    ES: "jinaai/jina-bert-v2-qk-devlin-norm-1e-2",
    CODE: "jinaai/jina-bert-v2-qk-post-norm",
}
STATES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    PLAIN: tiny_state,
    ES: es_state,
    CODE: code_state,
}


def refusal(folder: Path) -> str:
    with pytest.raises(ExportError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def stated(name: str) -> dict[str, Any]:
    """config.json as the hub has it."""
    code = REPOSITORIES[name]
    return {"_name_or_path": code, "auto_map": {"AutoModel": f"{code}--modeling_bert.JinaBertModel"}}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("says_so", [True, False])
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_each_is_told(tmp_path: Path, name: str, says_so: bool, prefix: str) -> None:
    fields = tiny_fields() | (stated(name) if says_so else {})
    state = {prefix + key: value for key, value in STATES[name](fields).items()}
    folder = write_checkpoint(tmp_path, fields, state | {"cls.predictions.bias": torch.zeros(3)})
    model = load_model(folder)
    assert model.architecture.name == name
    assert {prefix + key for key, _ in model.named_parameters()} == state.keys()


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("other", STATES)
def test_a_config_of_another_is_refused(tmp_path: Path, name: str, other: str) -> None:
    if name == other:
        return
    fields = tiny_fields() | stated(other)
    message = refusal(write_checkpoint(tmp_path, fields, STATES[name](fields)))
    assert "names the code of" in message


def test_an_unknown_repository_is_left_to_the_names(tmp_path: Path) -> None:
    fields = tiny_fields() | {"auto_map": {"AutoModel": "someone/mine--modeling_bert.JinaBertModel"}}
    assert load_model(write_checkpoint(tmp_path, fields, code_state(fields))).architecture.name == CODE


@pytest.mark.parametrize("dropped", ["layer_norm_q", "layer_norm_k", "layer_norm_1", "down_layer"])
def test_a_mix_is_refused(tmp_path: Path, dropped: str) -> None:
    state = {key: value for key, value in code_state(tiny_fields()).items() if dropped not in key}
    assert "of no architecture" in refusal(write_checkpoint(tmp_path, tiny_fields(), state))


def test_plain_names_beside_those_of_code_are_refused(tmp_path: Path) -> None:
    state = tiny_state(tiny_fields()) | code_state(tiny_fields())
    message = refusal(write_checkpoint(tmp_path, tiny_fields(), state))
    assert "mlp.gated_layers.weight" in message
    assert "mlp.up_gated_layer.weight" in message


def test_norms_in_one_layer_only_are_missing_in_the_other(tmp_path: Path) -> None:
    state = es_state(tiny_fields())
    del state["encoder.layer.1.attention.self.layer_norm_q.weight"]
    message = refusal(write_checkpoint(tmp_path, tiny_fields(), state))
    assert "missing: encoder.layer.1.attention.self.layer_norm_q.weight" in message


def test_another_model_type_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, tiny_fields(model_type="jina_bert_qk_post_norm"))
    message = refusal(folder)
    assert "model_type is 'jina_bert_qk_post_norm'" in message
    assert json.loads((folder / "config.json").read_text())["model_type"] in message
