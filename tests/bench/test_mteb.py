"""The MTEB wrapper: texts in mteb's batches to vectors, and real tasks of mteb on data made here."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from runtime import Embedder
from tests.bench.mteb import MTEBModel, main

PAIRS = [(5.0, "hello world", "hello world"), (2.0, "hello world", "hello"), (0.5, "world", "hello the")]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> MTEBModel:
    return MTEBModel(str(tiny_folder), device="cpu", threads=1)


def test_batches_of_texts_become_vectors_in_order(model: MTEBModel, tiny_folder: Path) -> None:
    texts = ["hello world", "hello", "the world", "world hello the hello"]
    batches = [{"text": texts[:3], "id": ["a", "b", "c"]}, {"text": texts[3:], "id": ["d"]}]
    vectors = model.encode(batches, task_metadata=None, hf_split="test", hf_subset="default", batch_size=2)
    with Embedder(tiny_folder) as embedder:
        assert np.allclose(vectors, embedder.encode(texts), atol=1e-6)


def test_without_mteb_one_line_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    assert main(["--tasks", "STSBenchmark"]) == 2
    assert 'pip install "mteb>=2"' in capsys.readouterr().err


class TestWithMTEB:
    """The real library, offline."""

    @pytest.fixture(autouse=True)
    def _library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        pytest.importorskip("mteb")

    @pytest.fixture
    def sts(self):
        from datasets import Dataset, DatasetDict
        from mteb import TaskMetadata
        from mteb.abstasks import AbsTaskSTS

        class TinySTS(AbsTaskSTS):
            metadata = TaskMetadata(type="STS", name="TinySTS", main_score="cosine_spearman", **ABOUT)

            def load_data(self, num_proc: int | None = None, **_: object) -> None:
                scores, first, second = zip(*PAIRS, strict=True)
                rows = {"score": list(scores), "sentence1": list(first), "sentence2": list(second)}
                self.dataset = DatasetDict({"test": Dataset.from_dict(rows)})
                self.data_loaded = True

        return TinySTS()

    @pytest.fixture
    def retrieval(self):
        from datasets import Dataset
        from mteb import TaskMetadata
        from mteb.abstasks import AbsTaskRetrieval
        from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

        class TinyRetrieval(AbsTaskRetrieval):
            metadata = TaskMetadata(type="Retrieval", name="TinyRetrieval", main_score="ndcg_at_10", **ABOUT)

            def load_data(self, num_proc: int | None = None, **_: object) -> None:
                texts = {"d0": "hello", "d1": "world", "d2": "hello world the"}
                split = RetrievalSplitData(
                    queries=Dataset.from_list([{"id": "q0", "text": "hello"}, {"id": "q1", "text": "world"}]),
                    corpus=Dataset.from_list(
                        [{"id": key, "title": "", "text": text} for key, text in texts.items()]
                    ),
                    relevant_docs={"q0": {"d0": 1}, "q1": {"d1": 1}},
                    top_ranked=None,
                )
                self.dataset = {"default": {"test": split}}
                self.data_loaded = True

        return TinyRetrieval()

    def test_the_wrapper_is_an_encoder_of_mteb(self, model: MTEBModel) -> None:
        from mteb.models.models_protocols import EncoderProtocol

        assert isinstance(model, EncoderProtocol)
        assert model.mteb_model_meta.embed_dim == 16

    def test_a_similarity_task(self, model: MTEBModel, sts, tmp_path: Path) -> None:
        import mteb

        result = mteb.evaluate(
            model, sts, cache=mteb.ResultCache(tmp_path), co2_tracker=False, show_progress_bar=False
        )
        vectors = {text: model.encode([{"text": [text]}])[0] for _, *pair in PAIRS for text in pair}
        ours = [float(vectors[first] @ vectors[second]) for _, first, second in PAIRS]
        order = np.argsort(np.argsort(ours))
        expected = np.corrcoef(order, [2, 1, 0])[0, 1]
        assert result.task_results[0].get_score() == pytest.approx(expected)
        assert list(tmp_path.rglob("TinySTS.json"))

    def test_a_retrieval_task_finds_the_same_words(self, model: MTEBModel, retrieval) -> None:
        import mteb

        result = mteb.evaluate(model, retrieval, cache=None, co2_tracker=False, show_progress_bar=False)
        assert result.task_results[0].get_score() == pytest.approx(1.0)

    def test_the_command_line_prints_scores_and_goes_on_after_a_failure(
        self,
        tiny_folder: Path,
        sts,
        retrieval,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        import mteb

        def broken(**_: object) -> None:
            raise ConnectionError("no network\nat all")

        monkeypatch.setattr(sts, "load_data", broken)
        monkeypatch.setattr(mteb, "get_tasks", lambda **_: [sts, retrieval])
        arguments = [str(tiny_folder), "--tasks", "TinySTS", "TinyRetrieval", "--output", str(tmp_path)]
        assert main(arguments) == 1
        captured = capsys.readouterr()
        assert "TinyRetrieval  100.00" in captured.out
        assert "TinySTS: ConnectionError: no network at all\n" in captured.err

    def test_an_unknown_task_is_one_line(self, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(tiny_folder), "--tasks", "NoSuchTask"]) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("python -m tests.bench.mteb: ")
        assert "NoSuchTask" in last

    def test_no_task_is_one_line(self, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(tiny_folder)]) == 2
        assert "name some with --tasks" in capsys.readouterr().err


ABOUT = {
    "description": "Made for a test.",
    "reference": None,
    "dataset": {"path": "none/none", "revision": "none"},
    "category": "t2t",
    "modalities": ["text"],
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "date": ("2020-01-01", "2020-01-01"),
    "domains": [],
    "task_subtypes": [],
    "license": "cc0-1.0",
    "annotations_creators": "derived",
    "dialect": [],
    "sample_creation": "created",
    "bibtex_citation": "",
}
