"""Vectors of texts, in a process of its own: emulated, or with another onnxruntime.

python vectors.py TEXTS.json OUTPUT.npz FOLDER...    one array per folder, float32 [n, D], named by its number
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from runtime import Embedder

if __name__ == "__main__":
    texts = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = {}
    for number, folder in enumerate(sys.argv[3:]):
        with Embedder(folder, threads=1) as embedder:
            found[str(number)] = embedder.encode(texts)
    np.savez(sys.argv[2], **found)
