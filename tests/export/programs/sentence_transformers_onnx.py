"""sentence-transformers with backend="onnx"."""

import json
import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer

folder, texts = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
model = SentenceTransformer(folder, backend="onnx", device="cpu")
print(json.dumps(model.encode(texts, batch_size=4).tolist()))
