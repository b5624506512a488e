"""fastembed: a custom model from a local path."""

import json
import sys
from pathlib import Path

from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

folder, texts = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
dimension = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["hidden_size"]
TextEmbedding.add_custom_model(
    model="local/jinabert",
    pooling=PoolingType.MEAN,
    normalization=True,
    sources=ModelSource(hf="local/jinabert"),
    dim=dimension,
    model_file="onnx/model.onnx",
    additional_files=["onnx/model.onnx_data"],
)
model = TextEmbedding("local/jinabert", specific_model_path=folder, threads=1)
print(json.dumps([vector.tolist() for vector in model.embed(texts, batch_size=4)]))
