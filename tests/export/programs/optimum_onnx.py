"""optimum's ORTModelForFeatureExtraction, mean pooling by hand as its documentation shows it."""

import json
import sys
from pathlib import Path

import torch
from optimum.onnxruntime import ORTModelForFeatureExtraction
from transformers import AutoTokenizer

folder, texts = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
tokenizer = AutoTokenizer.from_pretrained(folder)
model = ORTModelForFeatureExtraction.from_pretrained(folder, subfolder="onnx")
vectors = []
for text in texts:
    batch = tokenizer([text], padding=True, truncation=True, return_tensors="pt")
    hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).float()
    vectors.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)[0].tolist())
print(json.dumps(vectors))
