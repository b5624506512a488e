"""What follows pooling: the Dense, LayerNorm and Normalize modules that a checkpoint declares, computed in numpy.

manifest.json lists them in order under "modules", and modules.bin holds their numbers, one array after the other, as
little-endian float32 without padding: for each Dense weight [out, in], bias [out] and residual [out, in] as far as it
has them, for each LayerNorm weight [size] and bias [size]. A Dense module of dtype "int16" has a weight alone, in
int16: its numbers times INT16_SCALE.

Each vector is computed by itself, in float64 and without BLAS, whose sums depend on the number of rows and threads: the
result is batch-invariant, and the same on every CPU but for the last bit. int16 weights are multiplied with vectors in
fixed point, where no sum is rounded and BLAS may add in any order: the result is the same to the last bit, and sooner.

A program that adds a module to a model folder (a rotation, for example, is a Dense module with activation "identity"
and no bias) appends its arrays with :func:`pack` and its entry with :func:`describe`.
"""

from __future__ import annotations

import os
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .errors import ModelError
from .pooling import norms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

MODULES_DATA = "modules.bin"
INT16_SCALE = float(1 << 15)
STORED = {"float32": "<f4", "int16": "<i2"}  # dtype of a module -> numpy's, in modules.bin
EXACT_BITS = 53  # of a float64: integers up to 2**53 are exact


class Module(NamedTuple):
    """One module: how many numbers it takes and gives, and its arrays by name."""

    type: str  # "dense", "layer_norm" or "normalize"
    size: int  # numbers of its input
    output_size: int
    arrays: Mapping[str, NDArray[np.floating]] = {}  # names and shapes: see array_shapes
    bias: bool = False  # dense: it has one
    use_residual: bool = False  # dense: add the input, or the residual's product with it, to the output
    activation: str = "identity"  # dense: a key of ACTIVATIONS
    dtype: str = "float32"  # of a weight in modules.bin; dense: or "int16"
    eps: float = 1e-5  # layer_norm


def _erf(x: Vector) -> Vector:
    from math import erf

    return np.array([erf(value) for value in x.tolist()], np.float64)


def _softplus(x: Vector) -> Vector:
    return np.logaddexp(0.0, x)


def _sigmoid(x: Vector) -> Vector:
    return np.exp(-_softplus(-x))


# Activations as torch.nn defines them, with its default parameters.
ACTIVATIONS: dict[str, Callable[[Vector], Vector]] = {
    "identity": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
    "gelu": lambda x: 0.5 * x * (1.0 + _erf(x / np.sqrt(2.0))),
    "silu": lambda x: x * _sigmoid(x),
    "sigmoid": _sigmoid,
    "logsigmoid": lambda x: -_softplus(-x),
    "softplus": _softplus,
    "softsign": lambda x: x / (1.0 + np.abs(x)),
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "elu": lambda x: np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0))),
    "selu": lambda x: (
        1.0507009873554805 * np.where(x > 0.0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0.0)))
    ),
    "leaky_relu": lambda x: np.where(x > 0.0, x, 0.01 * x),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "hardtanh": lambda x: np.clip(x, -1.0, 1.0),
    "hardsigmoid": lambda x: np.clip(x + 3.0, 0.0, 6.0) / 6.0,
    "hardswish": lambda x: x * np.clip(x + 3.0, 0.0, 6.0) / 6.0,
}


def array_shapes(module: Module) -> dict[str, tuple[int, ...]]:
    """Say which arrays a module has.

    :param module: the module; its arrays are not looked at.
    :return: name -> shape, in the order of modules.bin.
    """
    if module.type == "layer_norm":
        return {"weight": (module.size,), "bias": (module.size,)}
    shapes: dict[str, tuple[int, ...]] = {}
    if module.type == "dense":
        shapes["weight"] = (module.output_size, module.size)
        if module.bias:
            shapes["bias"] = (module.output_size,)
        if module.use_residual and module.size != module.output_size:
            shapes["residual"] = (module.output_size, module.size)
    return shapes


def describe(module: Module) -> dict[str, object]:
    """Write a module as its entry in manifest.json.

    :param module: the module.
    :return: the entry, from which :func:`parse` makes the module again, arrays aside.
    """
    if module.type == "dense":
        return {
            "type": "dense",
            "in_features": module.size,
            "out_features": module.output_size,
            "bias": module.bias,
            "use_residual": module.use_residual,
            "activation": module.activation,
            "dtype": module.dtype,
        }
    if module.type == "layer_norm":
        return {"type": "layer_norm", "size": module.size, "eps": module.eps}
    return {"type": module.type}


def pack(modules: Iterable[Module]) -> bytes:
    """Write the arrays of modules as modules.bin holds them.

    :param modules: in order, arrays included.
    :return: the content of the file; empty where no module has arrays.
    """
    stored: list[NDArray[np.floating]] = []
    for module in modules:
        scale = INT16_SCALE if module.dtype == "int16" else 1.0
        for name in array_shapes(module):
            numbers = rounded(module.arrays[name], module.dtype) * scale
            stored.append(numbers.astype(STORED[module.dtype]))
    return b"".join(array.tobytes() for array in stored)


def rounded(array: NDArray[np.floating], dtype: str) -> NDArray[np.float64]:
    """Round an array's numbers to what modules.bin can hold.

    :param array: of any shape; of dtype "int16", numbers from -1 to 1.
    :param dtype: of the module.
    :return: the same shape.
    """
    if dtype == "int16":
        whole = np.rint(array.astype(np.float64) * INT16_SCALE)
        return np.clip(whole, -INT16_SCALE, INT16_SCALE - 1) / np.float64(INT16_SCALE)
    return array.astype(np.float32).astype(np.float64)


def parse(entries: object, size: int, largest: int) -> tuple[Module, ...]:
    """Read the field "modules" of manifest.json.

    :param entries: the field.
    :param size: numbers of the pooled vector.
    :param largest: largest size allowed.
    :return: the modules in order, without their arrays; each takes what the one before it gives.
    :raises ValueError: naming the entry and what is wrong with it.
    """
    if not isinstance(entries, list):
        raise ValueError("modules is not a list")
    modules: list[Module] = []
    for number, entry in enumerate(entries):
        fields: Any = entry if isinstance(entry, dict) else {}
        module = Module(str(fields.get("type")), size, size)
        if module.type == "layer_norm":
            module = module._replace(eps=fields.get("eps"))
        elif module.type == "dense":
            module = module._replace(
                output_size=fields.get("out_features"),
                bias=fields.get("bias"),
                use_residual=fields.get("use_residual"),
                activation=fields.get("activation"),
                dtype=fields.get("dtype", "float32"),
            )
        if problem := _problem(module, fields, largest):
            raise ValueError(f"modules[{number}] {problem}")
        modules.append(module)
        size = module.output_size
    return tuple(modules)


def _problem(module: Module, fields: dict[str, Any], largest: int) -> str | None:
    if module.type == "normalize":
        return None
    if module.type == "layer_norm":
        good = fields.get("size") == module.size and isinstance(module.eps, float) and 0 < module.eps < 1
        return None if good else f"is no layer_norm of {module.size} numbers with a sensible eps"
    if module.type != "dense":
        return f"has type {module.type[:40]!r}, not dense, layer_norm or normalize"
    if fields.get("in_features") != module.size:
        return f"takes other than the {module.size} numbers that come before it"
    if type(module.output_size) is not int or not 1 <= module.output_size <= largest:
        return f"has out_features other than an integer from 1 to {largest}"
    if not isinstance(module.bias, bool) or not isinstance(module.use_residual, bool):
        return "has a bias or use_residual that is not true or false"
    if not isinstance(module.activation, str) or module.activation not in ACTIVATIONS:
        return f"has an activation other than {', '.join(ACTIVATIONS)}"
    if not isinstance(module.dtype, str) or module.dtype not in STORED:
        return f"has a dtype other than {', '.join(STORED)}"
    if module.dtype == "int16" and (module.bias or module.use_residual or module.activation != "identity"):
        return "has int16 weights and more than them: a bias, residual or activation"
    return None


def load_arrays(folder: str, modules: Sequence[Module]) -> tuple[Module, ...]:
    """Read modules.bin.

    :param folder: model folder, its files checked.
    :param modules: what :func:`parse` gave.
    :return: the same modules with their arrays.
    :raises ModelError: the file cannot be read, or holds more or fewer numbers than the modules have.
    """
    size = sum(
        prod(shape) * np.dtype(STORED[module.dtype]).itemsize
        for module in modules
        for shape in array_shapes(module).values()
    )
    if not size:
        return tuple(modules)
    path = os.path.join(folder, MODULES_DATA)
    try:
        found = os.path.getsize(path)
        if found != size:
            raise ModelError(
                f"{path}: {found} bytes where the modules of manifest.json have {size}: export the model again"
            )
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}): export the model again") from None
    loaded, start = [], 0
    for module in modules:
        filled = {}
        for name, shape in array_shapes(module).items():
            numbers = np.frombuffer(content, STORED[module.dtype], prod(shape), start)
            # float64, since einsum would convert them again for each vector, in eight times the time.
            filled[name] = numbers.reshape(shape).astype(np.float64)
            if module.dtype == "int16":
                filled[name] /= INT16_SCALE
            start += numbers.nbytes
        loaded.append(module._replace(arrays=filled))
    return tuple(loaded)


def apply(modules: Sequence[Module], vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the modules for pooled vectors.

    :param modules: in order, arrays included.
    :param vectors: [B, size of the first] float64.
    :return: [B, output_size of the last] float64; a row depends on its own row alone, to the last bit.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # found by check_finite
        for module in modules:
            if module.dtype == "int16":
                vectors = _exact_product(module.arrays["weight"], vectors)
            else:
                vectors = np.stack([_apply_to_one(module, vector) for vector in vectors])
    return vectors


def _apply_to_one(module: Module, vector: Vector) -> Vector:
    arrays = module.arrays
    if module.type == "normalize":
        unit: Vector = vector / norms(vector)
        return unit
    if module.type == "layer_norm":
        centred = vector - np.add.reduce(vector) / module.size
        variance = np.add.reduce(centred * centred) / module.size
        scaled: Vector = centred / np.sqrt(variance + module.eps) * arrays["weight"] + arrays["bias"]
        return scaled
    output = _product(arrays["weight"], vector)
    if module.bias:
        output = output + arrays["bias"]
    output = ACTIVATIONS[module.activation](output)
    if module.use_residual:
        output = output + (_product(arrays["residual"], vector) if "residual" in arrays else vector)
    return output


def _exact_product(weight: NDArray[np.floating], vectors: Vector) -> Vector:
    """Multiply weights [out, in], which are int16 over INT16_SCALE, with vectors [B, in].

    Each vector is rounded to as many bits of its largest number as leave every sum of products exact.
    """
    bits = EXACT_BITS - 15 - (weight.shape[1] - 1).bit_length()
    _, exponents = np.frexp(np.abs(vectors).max(axis=1, keepdims=True))
    sums: Vector = np.rint(np.ldexp(vectors, bits - exponents)) @ weight.T
    scaled: Vector = np.ldexp(sums, exponents - bits)
    return scaled


def _product(weight: NDArray[np.floating], vector: Vector) -> Vector:
    """Multiply a matrix [out, in] with a vector [in], in float64. einsum sums in one order; BLAS in many."""
    product: Vector = np.einsum(
        "oi,i->o", weight, vector, dtype=np.float64, casting="same_kind", optimize=False
    )
    return product
