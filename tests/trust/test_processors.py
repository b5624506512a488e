"""The same vector on every processor: products that cannot saturate, seen on processors not at hand."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import Embedder
from runtime.tokenization.wordpiece import WordPiece
from tests.paths import SHARED
from tests.trust import emulation
from tests.trust.texts import long_text, short_texts
from tests.unverified import make_folder

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
SCRIPTS = Path(__file__).parent
INT16_MAX = 32767
LARGEST_ACTIVATION = 255


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of the rows of two arrays."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    result: NDArray[np.float64] = (x * y).sum(axis=1) / (
        np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    )
    return result


def graphs(graph: Any) -> Iterator[Any]:
    """A graph and all graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def int8_matrices(folder: Path) -> dict[str, NDArray[np.int8]]:
    """Every int8 weight that goes into a product, itself or as a slice of a stack: [..., inputs, outputs]."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    stored, wanted = {}, set()
    for graph in graphs(model.graph):
        stored |= {tensor.name: tensor for tensor in graph.initializer}
        products = {node.input[1] for node in graph.node if node.op_type == "MatMulIntegerToFloat"}
        slices = {n.input[0] for n in graph.node if n.op_type == "Gather" and n.output[0] in products}
        wanted |= products | slices
    return {
        name: onnx.numpy_helper.to_array(stored[name], str(folder)) for name in sorted(wanted & stored.keys())
    }


def test_no_pair_of_products_can_saturate(embedded: Path) -> None:
    """vpmaddubsw adds u8·s8 of inputs 2p and 2p + 1 in 16 bits: its largest and smallest sum over all activations."""
    matrices = int8_matrices(embedded)
    assert len(matrices) >= 7 * 4
    for name, matrix in matrices.items():
        assert matrix.shape[-2] % 2 == 0, name
        first, second = matrix[..., 0::2, :].astype(np.int64), matrix[..., 1::2, :].astype(np.int64)
        most = LARGEST_ACTIVATION * (np.maximum(first, 0) + np.maximum(second, 0))
        least = LARGEST_ACTIVATION * (np.minimum(first, 0) + np.minimum(second, 0))
        assert most.max() <= INT16_MAX, name
        assert least.min() >= -INT16_MAX - 1, name


INPUTS, OUTPUTS = 512, 48
PATTERNS = {
    # At the limit of a pair, in all its forms.
    "limit": [127, 1, 64, 64, -127, -1, 127, -127, 100, 28, -64, -64, 1, 127, -1, -127],
    # Far beyond it if 2p + 1 and 2p + 2 were added, or p and p + 2: that they are not is what the rule rests on.
    "shifted": [-127, 127, 127, -127],
    "strided": [127, -127],
    # Over the limit: shows that the test sees saturation where there is any.
    "naive": [127],
}


def product_models(folder: Path) -> None:
    """MatMulIntegerToFloat with each pattern, constant and as the branch for long texts has it, with activations that
    push hardest; see products.py."""
    from onnx import TensorProto, helper, numpy_helper

    chance = np.random.default_rng(0)
    for name, pattern in PATTERNS.items():
        column = np.resize(np.array(pattern, np.int8), INPUTS)
        matrix = np.ascontiguousarray(column[:, None].repeat(OUTPUTS, 1))
        matrix[:, 1::2] = np.roll(matrix[:, 1::2], 2, axis=0)
        arrays: dict[str, NDArray[Any]] = {}
        for rows in (1, 2, 5, 128):
            shape = (rows, INPUTS)
            activations = [
                *(np.full(shape, value) for value in (0, 1, 255)),
                *(np.resize(pair, shape) for pair in ([255, 1], [1, 255])),
                *(np.broadcast_to(np.where(sign * column > 0, 255, 0), shape) for sign in (1, -1)),
                chance.choice([0, 1, 255], shape),
                chance.integers(0, 256, shape),
            ]
            for number, activation in enumerate(activations):
                key = f"a{rows}_{number}"
                arrays[key] = activation.astype(np.uint8)
                arrays["product_of_" + key] = (activation.astype(np.int64) - 128) @ matrix.astype(np.int64)
        for form in ("constant", "computed"):
            nodes = [helper.make_node("Identity", ["b"], ["b2"])] if form == "computed" else []
            weight = "b2" if nodes else "b"
            nodes.append(
                helper.make_node(
                    "MatMulIntegerToFloat",
                    ["a", weight, "scale", "scales", "zero"],
                    ["y"],
                    domain="com.microsoft",
                )
            )
            constants = {
                "b": matrix,
                "scale": np.float32(1),
                "scales": np.ones(OUTPUTS, np.float32),
                "zero": np.uint8(128),
            }
            graph = helper.make_graph(
                nodes,
                "product",
                [helper.make_tensor_value_info("a", TensorProto.UINT8, ["rows", INPUTS])],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", OUTPUTS])],
                [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
            )
            opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
            onnx.save(
                helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / f"{name}-{form}.onnx"
            )
            np.savez(folder / f"{name}-{form}.npz", **arrays)


@pytest.mark.emulated
@pytest.mark.parametrize("processor", emulation.PROCESSORS)
def test_products_are_exact_on_every_processor(processor: str, tmp_path: Path) -> None:
    if reason := emulation.missing(processor):
        pytest.skip(reason)
    product_models(tmp_path)
    lines = emulation.run(processor, SCRIPTS / "products.py", tmp_path).split("\n")[:-1]
    wrong = {name: int(count) for name, count in (line.split() for line in lines)}
    naive = [wrong.pop("naive-constant"), wrong.pop("naive-computed")]
    assert all(naive) == (processor == "avx2")
    assert len(wrong) == 6
    assert not any(wrong.values()), wrong


@pytest.fixture(scope="module")
def tokenizer(embedded: Path) -> WordPiece:
    return WordPiece.from_file(embedded / "vocab.txt")


def emulated(processor: str, folder: Path, texts: list[str], place: Path) -> NDArray[np.float32]:
    """Vectors of texts by another processor."""
    (place / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    emulation.run(processor, SCRIPTS / "vectors.py", place / "texts.json", place / "vectors.npz", folder)
    vectors: NDArray[np.float32] = np.load(place / "vectors.npz")["0"]
    return vectors


@pytest.mark.emulated
@pytest.mark.parametrize(
    ("processor", "worst", "mean"), [("avx2", 0.9999, 0.99999), ("arm-dot", 0.9998, 0.9999)]
)
def test_int8_vectors_of_another_processor(
    embedded: Path,
    embedder: Embedder,
    tokenizer: WordPiece,
    tmp_path: Path,
    processor: str,
    worst: float,
    mean: float,
) -> None:
    if reason := emulation.missing(processor):
        pytest.skip(reason)
    texts = short_texts(tokenizer, 50, most=24)
    found = cosines(emulated(processor, embedded, texts, tmp_path), embedder.encode(texts))
    print(f"{processor}: worst {found.min():.7f}, mean {found.mean():.7f}")
    assert found.min() >= worst
    assert found.mean() >= mean


@pytest.mark.emulated
@pytest.mark.slow
def test_a_text_in_blocks_on_avx2(
    embedded: Path, embedder: Embedder, tokenizer: WordPiece, tmp_path: Path
) -> None:
    if reason := emulation.missing("avx2"):
        pytest.skip(reason)
    alone = embedder.manifest.max_dense_tokens
    assert alone is not None
    texts = [long_text(tokenizer, alone + 2)]
    found = cosines(emulated("avx2", embedded, texts, tmp_path), embedder.encode(texts))
    assert found.min() >= 0.99999


@pytest.fixture(scope="session")
def fp32_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 graph of a trained checkpoint, unverified: that is the export's."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs the `export` extra")
    source = SHARED / "model" / "jinabert-small-distilled"
    if not source.is_dir():
        pytest.skip("needs the checkpoint in ../shared/model")
    return make_folder(source, tmp_path_factory.mktemp("fp32") / "model", "fp32")


@pytest.mark.emulated
@pytest.mark.parametrize("processor", ["avx2", "arm-dot"])
def test_fp32_vectors_of_another_processor(
    fp32_folder: Path, tokenizer: WordPiece, tmp_path: Path, processor: str
) -> None:
    if reason := emulation.missing(processor):
        pytest.skip(reason)
    texts = short_texts(tokenizer, 4, most=14)
    with Embedder(fp32_folder, threads=1) as native:
        difference = np.abs(emulated(processor, fp32_folder, texts, tmp_path) - native.encode(texts)).max()
    assert difference <= 1e-6


FORMS = ("int8", "wide", "fp32", "wide", "int8")  # by turns, the embedding table first


@pytest.fixture(scope="session")
def mixed_folder(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model's weights in the forms that a repaired int8 model is made of: int8, int8 with 16-bit
    activations, fp32."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs the `export` extra")
    from export import folder, graph
    from export.distill.dequantize import load_model_folder
    from export.remake import with_int8

    encoder = with_int8(load_model_folder(embedded).export_weights(), embedded)
    names = graph.linear_names(encoder)
    forms = {name: FORMS[number % len(FORMS)] for number, name in enumerate(names)}
    place = tmp_path_factory.mktemp("mixed")
    (work := place / "work").mkdir()
    files = folder.save_model(graph.build(encoder, forms=forms), work)
    document = json.loads((embedded / "manifest.json").read_text(encoding="utf-8"))
    manifest = {key: value for key, value in document.items() if key not in ("files", "checksum")}
    manifest |= {"max_dense_tokens": graph.MAX_DENSE_TOKENS}
    folder.write(place / "model", [*files, embedded / "vocab.txt"], manifest)
    return place / "model"


@pytest.mark.emulated
@pytest.mark.parametrize(
    ("processor", "worst", "mean"), [("avx2", 0.9999, 0.99999), ("arm-dot", 0.9998, 0.9999)]
)
def test_mixed_forms_keep_the_bounds_of_plain_int8_on_another_processor(
    mixed_folder: Path, tokenizer: WordPiece, tmp_path: Path, processor: str, worst: float, mean: float
) -> None:
    if reason := emulation.missing(processor):
        pytest.skip(reason)
    texts = short_texts(tokenizer, 30, most=24)
    with Embedder(mixed_folder, threads=1) as native:
        found = cosines(emulated(processor, mixed_folder, texts, tmp_path), native.encode(texts))
    print(f"{processor}: worst {found.min():.7f}, mean {found.mean():.7f}")
    assert found.min() >= worst
    assert found.mean() >= mean


@pytest.mark.emulated
@pytest.mark.slow
def test_a_text_in_blocks_of_mixed_forms_on_avx2(
    mixed_folder: Path, tokenizer: WordPiece, tmp_path: Path
) -> None:
    if reason := emulation.missing("avx2"):
        pytest.skip(reason)
    with Embedder(mixed_folder, threads=1) as native:
        alone = native.manifest.max_dense_tokens
        assert alone is not None
        texts = [long_text(tokenizer, alone + 2)]
        found = cosines(emulated("avx2", mixed_folder, texts, tmp_path), native.encode(texts))
    print(f"avx2: {found.min():.7f}")
    assert found.min() >= 0.9999
