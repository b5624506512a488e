"""From a JinaBert checkpoint to a verified model folder: ``python -m export SOURCE --output DIR``.

Needs the ``export`` extra (torch, transformers, optimum-onnx, ...); importing this package alone does not.
"""

__version__ = "0.1.0"
