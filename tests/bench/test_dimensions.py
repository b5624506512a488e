"""Cut and quantised vectors stand for what they say."""

import numpy as np

from tests.bench.dimensions import reduce, remembering


def test_reduced_vectors() -> None:
    vectors = np.random.default_rng(1).standard_normal((300, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.array_equal(reduce(vectors, 32, "float32"), vectors)
    assert np.array_equal(reduce(vectors, 64, "float32"), vectors)
    cut = reduce(vectors, 8, "float32")
    assert cut.shape == (300, 8)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-6)
    step = (cut.max(axis=0) - cut.min(axis=0)) / 255
    assert (np.abs(reduce(vectors, 8, "int8") - cut) <= 0.51 * step).all()
    assert np.array_equal(reduce(vectors, 8, "binary"), np.sign(cut))


def test_each_text_is_computed_once() -> None:
    asked: list[list[str]] = []

    def encode(texts: list[str]) -> np.ndarray:
        asked.append(texts)
        return np.array([[len(text)] for text in texts], np.float32)

    once = remembering(encode)
    assert once(["a", "bb", "a"]).tolist() == [[1], [2], [1]]
    assert once(["bb", "ccc"]).tolist() == [[2], [3]]
    assert asked == [["a", "bb"], ["ccc"]]
