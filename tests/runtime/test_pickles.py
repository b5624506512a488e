"""Pickles and copies hold the folder and options of a model; what is made of them loads it at first use."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from runtime import Embedder, ModelError

TEXTS = ["hello world", "a b c", ""]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_pickle_or_copy_loads_the_folder_at_first_use(tiny_folder: Path, again: object) -> None:
    with Embedder(tiny_folder, threads=1, verify=True) as embedder:
        expected = embedder.encode(TEXTS)
        made = again(embedder)  # type: ignore[operator]
    assert "loaded at first use" in repr(made)
    assert np.array_equal(made.encode(TEXTS), expected)  # the other one is closed
    assert made.threads == 1
    assert "loaded at first use" not in repr(made)
    made.close()


def test_a_pickle_is_small_and_holds_what_subclasses_add(tiny: Embedder) -> None:
    assert len(pickle.dumps(tiny)) < 1000
    named = copy.deepcopy(Named(tiny.model.folder, threads=1))
    assert (named.label, named.encode("a").shape) == ("mine", (16,))


class Named(Embedder):
    label = ""

    def __init__(self, model: str, threads: int) -> None:
        super().__init__(model, threads=threads)
        self.label = "mine"


def test_a_relative_folder_travels_as_an_absolute_one(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    pickled = pickle.dumps(Embedder(tiny_folder.name, threads=1))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(pickled).encode("a").shape == (16,)


def test_a_folder_that_is_not_there_is_named_at_first_use(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    made = copy.deepcopy(Embedder(tmp_path / "model", threads=1))
    shutil.rmtree(tmp_path / "model")
    made.close()  # nothing is loaded, so that nothing fails
    with pytest.raises(ModelError, match="does not exist"):
        made.encode("a")


def test_methods_go_to_the_workers_of_a_spawn_pool(tiny: Embedder) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.map(tiny.encode, [TEXTS, TEXTS[:1]])
    assert np.array_equal(found[0], tiny.encode(TEXTS))
    assert len(found[1]) == 1
