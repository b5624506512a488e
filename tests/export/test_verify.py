"""Verification passes what is right and refuses what is wrong: graphs, texts, published numbers."""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from export import report, texts, verify
from export.checkpoint import load_model
from export.errors import ExportError
from export.models.jinabert import JinaBertModel
from export.trace import trace

STREAM = [2, *range(5, 20), 3]  # ids of the tiny vocabulary


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> JinaBertModel:
    return load_model(tiny_checkpoint)


@pytest.fixture(scope="module")
def plain(model: JinaBertModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    trace(model, path)
    return path


def changed(plain: Path, target: Path, change: float, weight: str = "encoder.layer.0.mlp.wo.bias") -> Path:
    """A copy of the graph in which one number of a weight is another."""
    graph = onnx.load(plain)
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == weight)
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] += change
    tensor.CopyFrom(numpy_helper.from_array(array, weight))
    onnx.save(graph, target)
    return target


def random_texts(count: int, longest: int = 40) -> list[list[int]]:
    chance = np.random.default_rng(1)
    return [[2, *chance.integers(5, 60, length).tolist(), 3] for length in chance.integers(0, longest, count)]


def reference(path: Path, texts: list[list[int]]) -> verify.Reference:
    return verify.fp32_reference(path, texts, None, threads=1)


def test_the_traced_graph_is_the_model_alone_and_in_padded_batches(model: JinaBertModel, plain: Path) -> None:
    figures = verify.verify_fp32(model, plain, STREAM, longest=513)
    assert list(figures["alone"]) == ["1", "2", "3", "8", "100", "513"]
    assert max(figures["alone"].values()) <= 1e-6
    assert figures["padded"] <= 1e-6
    assert max(max(batch) for batch in figures["batches"]) == 513


def test_a_graph_that_is_not_the_model_is_refused(model: JinaBertModel, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match="fp32 graph is not the model: the unit vector of a text of 1 token"
    ):
        verify.verify_fp32(model, changed(plain, tmp_path / "wrong.onnx", 0.01), STREAM, longest=8)


def test_a_graph_whose_padding_leaks_is_refused(model: JinaBertModel, plain: Path, tmp_path: Path) -> None:
    graph = onnx.load(plain)
    # Every token counts: the mask is replaced by ones of its shape.
    ones = [
        onnx.helper.make_node("Equal", ["attention_mask", "attention_mask"], ["all_true"]),
        onnx.helper.make_node("Cast", ["all_true"], ["all_ones"], to=onnx.TensorProto.INT64),
    ]
    for node in graph.graph.node:
        for index, name in enumerate(node.input):
            if name == "attention_mask":
                node.input[index] = "all_ones"
    for node in reversed(ones):
        graph.graph.node.insert(0, node)
    onnx.save(graph, tmp_path / "leaks.onnx")
    with pytest.raises(ExportError, match="in a batch padded to"):
        verify.verify_fp32(model, tmp_path / "leaks.onnx", STREAM, longest=8)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_graph_that_gives_nan_is_refused(
    model: JinaBertModel, plain: Path, tmp_path: Path, value: float
) -> None:
    broken = changed(plain, tmp_path / "nan.onnx", value)
    with pytest.raises(ExportError, match="not finite"):
        verify.verify_fp32(model, broken, STREAM, longest=8)
    with pytest.raises(ExportError, match="not finite"):
        verify.verify_int8(
            broken, reference(plain, random_texts(10)), random_texts(10), max_dense_tokens=None, minimum=1
        )


def test_a_file_that_is_no_graph_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ExportError, match="cannot load the exported graph") as caught:
        verify.open_session(tmp_path / "model.onnx", 1)
    assert "\n" not in str(caught.value)


def test_int8_figures_of_the_same_graph_are_perfect(plain: Path) -> None:
    batch = random_texts(1000)
    figures, cosines = verify.verify_int8(plain, reference(plain, batch), batch, max_dense_tokens=20)
    assert cosines.shape == (1000,)
    assert (figures["texts"], figures["tokens"]) == (1000, sum(map(len, batch)))
    assert figures["worst"] >= 0.999999
    assert figures["longest_tokens"] == max(map(len, batch))


def test_int8_too_far_from_fp32_is_measured_as_it_is(plain: Path, tmp_path: Path) -> None:
    far = changed(plain, tmp_path / "far.onnx", 30.0)
    exact = reference(plain, random_texts(50))
    figures, cosines = verify.verify_int8(far, exact, random_texts(50), max_dense_tokens=None, minimum=50)
    assert figures["worst"] == round(cosines.min(), 7) < 0.99
    assert figures["worst"] <= figures["percentile_1"] <= figures["mean"]


def test_int8_is_never_judged_on_too_few_texts(plain: Path) -> None:
    with pytest.raises(ExportError, match="999 texts are too few"):
        verify.verify_int8(plain, reference(plain, random_texts(1)), random_texts(999), max_dense_tokens=None)


@given(st.lists(st.integers(1, 3000), max_size=60), st.none() | st.integers(1, 2000), st.integers(1, 5000))
def test_batches_hold_every_text_once_within_the_budget(
    lengths: list[int], alone: int | None, budget: int
) -> None:
    batches = list(verify.batches_by_length(lengths, alone, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
        assert len(batch) == 1 or alone is None or longest <= alone


def test_shipped_texts_are_many_and_of_all_lengths() -> None:
    shipped = texts.load()
    words = [len(text.split()) for text in shipped]
    assert len(shipped) == len(set(shipped)) >= 1000
    assert min(words) == 1
    assert max(words) > 6000
    assert sum(200 <= count <= 1600 for count in words) >= 30
    assert texts.SHIPPED.stat().st_size < 250_000
    assert f"{len(shipped):,} English texts" in texts.SHIPPED.with_name("verification_texts.md").read_text()


def test_texts_in_the_languages_of_a_tokenizer() -> None:
    assert texts.of_tokenizer("wordpiece") == texts.of_tokenizer("unigram") == []
    chinese, others = texts.of_tokenizer("character-bpe"), texts.of_tokenizer("byte-level-bpe")
    assert "喝咖啡还是喝茶？" in chinese
    for word in ("Straßenbahn", "¿Café o té?"):
        assert word in others
        assert word not in chinese
    assert any("\tdefer" in text for text in others)
    assert len({*chinese, *others}) == len(chinese) + len(others)
    assert max(map(len, others)) > 2000
    rows = [json.loads(line) for line in texts.LANGUAGES.read_text(encoding="utf-8").splitlines()]
    kinds = {row["kind"] for row in rows if row["language"] == "code"}
    assert len(kinds) >= 10
    described = texts.SHIPPED.with_name("verification_texts.md").read_text(encoding="utf-8")
    code = sum(row["language"] == "code" for row in rows)
    assert (
        f"{len(rows) - code} sentences in German, Spanish and Chinese and {code} pieces of code" in described
    )


def test_texts_of_the_caller(tmp_path: Path) -> None:
    lines = [f"text {number} \u2028 still the same" for number in range(1000)]
    (tmp_path / "mine.txt").write_text("\ufeff" + "\r\n\n".join(lines), encoding="utf-8", newline="")
    assert texts.load(tmp_path / "mine.txt") == lines
    (tmp_path / "mine.txt.xz").write_bytes(lzma.compress("\n".join(lines).encode()))
    assert texts.load(tmp_path / "mine.txt.xz") == lines


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("few.txt", b"one\ntwo\n", "holds 2 texts, and accuracy is judged on at least 1,000"),
        ("latin.txt", b"caf\xe9\n" * 1000, "is not a file of UTF-8 texts"),
        ("broken.txt.xz", b"not xz", "is not a file of UTF-8 texts"),
        ("absent.txt", None, "No such file"),
    ],
)
def test_unusable_texts_are_one_line(tmp_path: Path, name: str, data: bytes | None, reason: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ExportError, match=reason) as caught:
        texts.load(tmp_path / name)
    assert name in str(caught.value)


SMALL = "jinaai/jina-embeddings-v2-small-en"


def test_report_names_the_figures() -> None:
    manifest = {
        "name": "tiny", "architecture": "t5", "layers": 2, "dimension": 64, "heads": 4, "precision": "int8",
        "scheme": "per-token",
        "modules": [], "prompts": {}, "notes": [], "pooling": {"modes": ["mean"]}, "normalize": True,
        "max_tokens": 512, "default_prompt_name": None,
        "files": {"model.onnx": {"size": 1_500_000}, "vocab.txt": {"size": 500_000}},
        "verification": {
            "fp32": {"alone": {"1": 5e-8, "8192": 3e-7}, "padded": 2e-7, "tolerance": 1e-5},
            "official": {
                "name": "jinaai/jina-embeddings-v2-small-en",
                "gates": [{"source": "fastembed", "what": "a vector", "figure": "2e-5 away", "allowed": "1e-3"}],
            },
            "int8": {
                "texts": 1078, "tokens": 100_000, "longest_tokens": 8192, "worst": 0.9987, "percentile_1": 0.9991,
                "mean": 0.99965, "least_allowed": 0.99,
                "alone_against_batch": {"texts": 32, "worst": 0.9999999},
                "tokens_per_second": 9_000, "times_fp32_speed": 3.2,
            },
            "layers": {"encoder.layer.2.mlp.wo": {"mean": 0.9998, "worst": 0.9992}},
        },
    }  # fmt: skip
    text = "\n".join(report.lines(manifest))
    for shown in (
        "2.00 MB",
        "8192: 3e-07",
        "1,078 texts",
        "worst 0.99870",
        "0.99910",
        "0.999650",
        "mlp.wo",
        "a vector: 2e-5 away (1e-3; fastembed)",
    ):
        assert shown in text


def test_encode_pools_as_declared(plain: Path) -> None:
    from runtime.modules import Module

    session = verify.open_session(plain, 1)
    text = [2, 5, 6, 7, 3]
    hidden = verify.onnx_tokens(session, text).astype(np.float64)
    with verify.pooled_as(("cls", "max"), [Module("normalize", 128, 128)]):
        (found,) = verify.encode(session, [text], None)
    expected = np.concatenate([hidden[0], hidden.max(axis=0)])
    assert np.allclose(found, expected / np.linalg.norm(expected), rtol=0, atol=1e-6)
    (mean,) = verify.encode(session, [text], None)
    assert np.allclose(mean, hidden.mean(axis=0) / np.linalg.norm(hidden.mean(axis=0)), rtol=0, atol=1e-6)
