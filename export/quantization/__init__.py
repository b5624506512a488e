"""From fp32 weights to int8 that stays close: measured on a sample first, and repaired where it is not close enough.

Read in this order: ``trial`` (any choice of forms measured in one session), ``observed`` (what goes into each linear
layer), ``static`` (one scale for all tokens), ``smoothing`` (channels balanced against weights, SmoothQuant),
``rounding`` (weights rounded with error compensation, GPTQ), ``cost`` (milliseconds and megabytes of a form),
``choice`` (which linear layers need more than int8), ``quantize`` (the steps in order).
"""

from export.quantization.quantize import Quantized, quantize, sensitivities
from export.quantization.trial import Trial

__all__ = ["Quantized", "Trial", "quantize", "sensitivities"]
