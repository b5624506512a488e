"""Are a processor's u8·s8 products exact? In a process of its own, emulated or not.

python products.py FOLDER    for each NAME.onnx there NAME.npz holds activations and the products that must come out;
prints "NAME WRONG" with the number of wrong results
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    import onnxruntime

    for model in sorted(Path(sys.argv[1]).glob("*.onnx")):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        arrays = np.load(model.with_suffix(".npz"))
        wrong = 0
        for name in arrays.files:
            if name.startswith("a"):
                product = session.run(None, {"a": arrays[name]})[0]
                wrong += int((product != arrays["product_of_" + name]).sum())
        print(model.stem, wrong)
