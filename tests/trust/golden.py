"""Vectors as stored in golden.npz, for other versions of onnxruntime to compare with; test_versions.py does.

    python -m tests.trust.golden     remakes golden.npz and the fp32 model with the onnxruntime that is installed

The fp32 model is a random JinaBert through the real export (`fp32/`, a model folder of 200 KB), so that the comparison
needs neither torch nor a checkpoint; the int8 model is the embedded one. Needs the `export` extra.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from runtime import Embedder
from runtime.manifest import SCHEMA_VERSION
from runtime.tokenization.wordpiece import WordPiece
from tests.paths import MODELS
from tests.trust.texts import long_text, short_texts

HERE = Path(__file__).parent
GOLDEN = HERE / "golden.npz"
FP32 = HERE / "fp32"
WORDS = ["the", "rain", "is", "cold", "today", ",", ".", "sun", "weather"]


def int8_texts(tokenizer: WordPiece) -> list[str]:
    """Texts for the bundled model; the last one needs blockwise attention."""
    return [
        "",
        "How is the weather today?",
        *short_texts(tokenizer, 40),
        long_text(tokenizer, 300),
        long_text(tokenizer, 1100),
    ]


def fp32_texts() -> list[str]:
    """Texts for the random model, whose vocabulary has WORDS; the last one needs blockwise attention."""
    chance = np.random.default_rng(5)
    return ["", *(" ".join(chance.choice(WORDS, length)) for length in (1, 2, 7, 30, 100, 513, 1100))]


def main() -> None:
    """Remake the files."""
    import onnxruntime

    from export import folder, graph
    from export.checkpoint import load_model
    from tests.export.conftest import tiny_fields, write_checkpoint

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        fields = tiny_fields(heads=4, hidden=32, layers=2)
        source = write_checkpoint(work / "checkpoint", fields)
        encoder = load_model(source).export_weights()
        (work / "model").mkdir()
        files = folder.save_model(graph.build(encoder, precision="fp32"), work / "model")
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "name": "random-fp32",
            "architecture": "jinabert",
            "source": {"name": "random", "revision": None, "sha256": {}},
            "dimension": fields["hidden_size"],
            "layers": fields["num_hidden_layers"],
            "heads": fields["num_attention_heads"],
            "intermediate": fields["intermediate_size"],
            "vocabulary": fields["vocab_size"],
            "max_tokens": 8192,
            "hidden_size": fields["hidden_size"],
            "pooling": {"modes": ["mean"], "include_prompt": True},
            "modules": [],
            "normalize": True,
            "prompts": {},
            "default_prompt_name": None,
            "similarity": "cosine",
            "tokenizer": {"type": "wordpiece", "lower_case": True},
            "precision": "fp32",
            "scheme": None,
            "max_dense_tokens": graph.MAX_DENSE_TOKENS,
            "made_with": {},
            "verification": {},
        }
        shutil.copy(source / "vocab.txt", work / "model" / "vocab.txt")
        folder.write(FP32, [*files, work / "model" / "vocab.txt"], manifest, force=True)
    with Embedder(FP32, threads=1) as fp32:
        fp32_vectors = fp32.encode(fp32_texts())
    (embedded,) = (path.parent for path in MODELS.glob("*/manifest.json"))
    with Embedder(embedded, threads=1) as int8:
        int8_vectors = int8.encode(int8_texts(int8.tokenizer))
        model = int8.manifest.files["model.onnx"].sha256
    np.savez_compressed(
        GOLDEN, fp32=fp32_vectors, int8=int8_vectors, version=onnxruntime.__version__, model=model
    )
    sys.stderr.write(
        f"{GOLDEN.name}: {len(fp32_vectors)} + {len(int8_vectors)} vectors, {onnxruntime.__version__}\n"
    )


if __name__ == "__main__":
    main()
