"""T5 encoders: ours is transformers' own, in torch and as a graph, whatever the length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import T5Config, T5EncoderModel
from transformers.models.t5.modeling_t5 import T5Attention

from export.checkpoint import load_model
from export.errors import ExportError
from export.graph import build
from export.models import load_config
from export.models.t5 import bucket
from tests.export.conftest import t5_fields, t5_state, write_checkpoint

LENGTHS = [1, 2, 7, 90, 129, 300, 513, 1100, 1300]


def oracle(folder: Path) -> T5EncoderModel:
    """The library's own model of the checkpoint."""
    model, report = T5EncoderModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


def tokens(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, 60, (1, length), generator=torch.Generator().manual_seed(seed + length))


def hidden(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> np.ndarray:
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids) if mask is None else mask)
    return output.last_hidden_state.numpy()


@pytest.mark.parametrize(("buckets", "most"), [(32, 128), (16, 64), (32, 256), (64, 128), (8, 20), (4, 3)])
def test_buckets_are_the_librarys(buckets: int, most: int) -> None:
    distances = torch.arange(-3 * most, 3 * most + 1)
    expected = T5Attention._relative_position_bucket(distances, True, buckets, most)
    assert [bucket(int(n), buckets, most) for n in distances] == expected.tolist()


@pytest.mark.parametrize("length", LENGTHS)
def test_torch_is_the_library(t5_checkpoint: Path, length: int) -> None:
    ids = tokens(length)
    expected = hidden(oracle(t5_checkpoint), ids)
    model = load_model(t5_checkpoint)
    assert np.abs(hidden(model, ids) - expected).max() < 2e-5
    model.block_rows = 100
    assert np.abs(hidden(model, ids) - expected).max() < 2e-5


@pytest.mark.parametrize(
    "changes", [{}, {"d_kv": 8, "num_heads": 8}, {"num_heads": 3, "d_kv": 64, "num_layers": 3}]
)
def test_the_graph_is_the_library(tmp_path: Path, changes: dict[str, int]) -> None:
    fields = t5_fields(**changes)
    folder = write_checkpoint(tmp_path, fields, t5_state(fields))
    library = oracle(folder)
    graph = build(load_model(folder).export_weights(), precision="fp32").SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for length in LENGTHS:
        ids = tokens(length)
        feed = {"input_ids": ids.numpy(), "attention_mask": np.ones((1, length), np.int64)}
        (found,) = session.run(None, feed)
        np.testing.assert_allclose(found, hidden(library, ids), atol=5e-5, err_msg=f"{length} tokens")


def test_padding(t5_checkpoint: Path) -> None:
    ids = torch.cat([tokens(20, seed=1), tokens(20, seed=2)])
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    expected = hidden(oracle(t5_checkpoint), ids, mask)
    found = hidden(load_model(t5_checkpoint), ids, mask)
    assert np.abs(found - expected)[0].max() < 2e-5
    assert np.abs(found - expected)[1, :12].max() < 2e-5


@pytest.mark.parametrize(
    "names", [["encoder.embed_tokens.weight"], ["shared.weight", "encoder.embed_tokens.weight"]]
)
def test_either_name_of_the_table(t5_checkpoint: Path, tmp_path: Path, names: list[str]) -> None:
    state = t5_state(t5_fields())
    table = state.pop("shared.weight")
    folder = write_checkpoint(tmp_path, t5_fields(), state | {name: table.clone() for name in names})
    assert np.array_equal(hidden(load_model(folder), tokens(9)), hidden(load_model(t5_checkpoint), tokens(9)))


def refusal(tmp_path: Path, fields: dict[str, Any], state: dict[str, Any]) -> str:
    with pytest.raises(ExportError) as caught:
        load_model(write_checkpoint(tmp_path, fields, state))
    return str(caught.value)


def test_two_tables_are_refused(tmp_path: Path) -> None:
    state = t5_state(t5_fields())
    state["encoder.embed_tokens.weight"] = state["shared.weight"] + 1
    assert "differ" in refusal(tmp_path, t5_fields(), state)


def test_a_decoder_is_refused(tmp_path: Path) -> None:
    state = t5_state(t5_fields())
    decoder = {
        key.replace("encoder.", "decoder."): value.clone() for key, value in state.items() if "encoder" in key
    }
    message = refusal(tmp_path, t5_fields(), state | decoder)
    assert "not used by a T5 encoder: decoder.block.0" in message


def test_a_gated_feed_forward_is_refused(tmp_path: Path) -> None:
    assert "gated-gelu" in refusal(tmp_path, t5_fields(feed_forward_proj="gated-gelu"), t5_state(t5_fields()))
    state = {key.replace(".wi.", ".wi_0."): value for key, value in t5_state(t5_fields()).items()}
    assert "of no architecture" in refusal(tmp_path, t5_fields(), state)


def test_the_librarys_own_config_file(tmp_path: Path) -> None:
    T5Config(d_model=512, num_layers=6, num_heads=8, vocab_size=32128).save_pretrained(tmp_path)
    config = load_config(tmp_path)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (512, 6, 8)
    assert (config.intermediate_size, config.head_width, config.max_position_embeddings) == (2048, 64, 512)


@pytest.mark.parametrize(
    ("field", "value"),
    [("d_model", 0), ("num_layers", "6"), ("relative_attention_num_buckets", 30), ("layer_norm_epsilon", 2)],
)
def test_a_field_that_cannot_be(tmp_path: Path, field: str, value: object) -> None:
    message = refusal(tmp_path, t5_fields(**{field: value}), {})
    assert field in message
    assert str(value) in message
