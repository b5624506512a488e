"""The forward passes against a second one in numpy, written from the descriptions alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from export.checkpoint import load_model
from export.models.jinabert import JinaBertModel, alibi_slopes, attention
from tests.export import reference


def random_ids(*shape: int) -> torch.Tensor:
    return torch.randint(5, 64, shape, generator=torch.Generator().manual_seed(len(shape)))


def run(model: JinaBertModel, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = model(ids, torch.ones_like(ids) if mask is None else mask).last_hidden_state
    return output


@pytest.fixture(params=["tiny_checkpoint", "six_heads_checkpoint", "es_checkpoint", "code_checkpoint"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def model(folder: Path) -> JinaBertModel:
    return load_model(folder)


def test_slopes() -> None:
    assert alibi_slopes(1) == [2**-8]
    assert alibi_slopes(2) == [2**-4, 2**-8]
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(12) == [2.0**-i for i in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    assert alibi_slopes(6) == [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]
    assert all(len(alibi_slopes(n)) == n == len(set(alibi_slopes(n))) for n in range(1, 65))


@pytest.mark.parametrize("length", [1, 2, 3, 17, 150])
def test_against_numpy(folder: Path, model: JinaBertModel, length: int) -> None:
    ids = random_ids(1, length)
    expected = reference.hidden_states(folder, ids[0].tolist())
    assert np.abs(run(model, ids)[0].numpy() - expected).max() < 2e-5


def test_padding_changes_nothing(model: JinaBertModel) -> None:
    ids = random_ids(3, 40)
    lengths = [40, 1, 23]
    mask = (torch.arange(40)[None, :] < torch.tensor(lengths)[:, None]).long()
    together = run(model, ids * mask, mask)
    assert torch.isfinite(together).all()
    for row, length in enumerate(lengths):
        alone = run(model, ids[row : row + 1, :length])[0]
        assert (together[row, :length] - alone).abs().max() < 1e-5


def test_order_matters(model: JinaBertModel) -> None:
    # ALiBi is the only thing that knows about positions.
    ids = random_ids(1, 12)
    assert (run(model, ids).flip(1) - run(model, ids.flip(1))).abs().max() < 1e-5  # symmetric
    swapped = ids[:, [1, 0, *range(2, 12)]]
    assert (run(model, swapped)[:, 2:] - run(model, ids)[:, 2:]).abs().max() > 1e-3


@pytest.mark.parametrize("block_rows", [1, 7, 64, 299, 300, 1000])
def test_row_blocks(model: JinaBertModel, block_rows: int) -> None:
    ids = random_ids(2, 300)
    mask = torch.ones_like(ids)
    mask[1, 200:] = 0
    whole = run(model, ids, mask)
    model.block_rows = block_rows
    blocked = run(model, ids, mask)
    assert (blocked - whole).abs().max() / whole.abs().max() < 1e-6


@pytest.mark.parametrize("block_rows", [64, 100, 512])
def test_attention_in_row_blocks(block_rows: int) -> None:
    q, k, v = torch.randn(3, 2, 4, 513, 64, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 513, dtype=torch.int64)
    mask[0, 100:] = 0
    slopes = torch.tensor(alibi_slopes(4))
    difference = attention(q, k, v, mask, slopes) - attention(q, k, v, mask, slopes, block_rows)
    assert difference.abs().max() < 1e-6


def test_a_text_of_padding_alone_stays_finite(model: JinaBertModel) -> None:
    ids = random_ids(2, 5)
    assert torch.isfinite(run(model, ids, torch.tensor([[1] * 5, [0] * 5]))).all()


def test_forms_of_the_output(model: JinaBertModel) -> None:
    ids = random_ids(1, 4)
    mask = torch.ones_like(ids)
    named = model(ids, mask)
    plain = model(ids, mask, return_dict=False)
    assert list(named.keys()) == ["last_hidden_state"]
    assert len(plain) == 1
    assert torch.equal(named.last_hidden_state, plain[0])
