"""Vectors on their way into JSON, in the forms that OpenAI's and Jina's embeddings APIs know."""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIGITS = 9  # significant decimal digits that are a float32 exactly
POWERS = np.array(
    [float(f"1e{exponent}") for exponent in range(23)]
)  # powers of ten that a double holds exactly
EMBEDDING_TYPES = ("float", "base64", "binary", "ubinary")
DECIMALS = 16  # of a value in write_floats, in groups of GROUP
GROUP = 4
INTEGER_POWERS = 10 ** np.arange(DECIMALS + 1, dtype=np.int64)
MARK = 1
SMALLEST, LARGEST = 1e-8, 9.9  # sizes that nine digits and DECIMALS hold; 9.9 cannot be rounded up to 10

_groups: NDArray[np.uint32] | None = None


def encoded(vector: NDArray[np.float32], kind: str) -> str | list[float] | list[int]:
    """One vector as a JSON value.

    :param vector: [D] float32.
    :param kind: "float" a list of D numbers; "base64" of little-endian float32; "binary" and "ubinary" the signs, one
        bit a number (1 for above 0), eight to a byte with the first in its highest bit, as D / 8 integers: int8
        (the byte less 128) or uint8. D is padded with zeros to a multiple of 8.
    :return: what json can write.
    """
    if kind == "float":
        return numbers(vector)
    if kind == "base64":
        import base64

        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    signs = np.packbits(vector > 0)
    integers: list[int] = (signs if kind == "ubinary" else signs.astype(np.int16) - 128).tolist()
    return integers


def numbers(vector: NDArray[np.float32]) -> list[float]:
    """The shortest decimals that are these float32 exactly: nine digits, where those of the doubles are twice as many.

    :param vector: [D] float32, finite.
    :return: D floats, each that of float(f"{value:.9g}").
    """
    values = vector.astype(np.float64)
    with np.errstate(divide="ignore"):  # log of 0
        places = DIGITS - 1 - np.floor(np.log10(np.abs(values)))
    exact = (places >= 0) & (
        places < len(POWERS)
    )  # elsewhere, far from what a vector holds, the double's own digits
    powers = POWERS[np.where(exact, places, 0).astype(np.intp)]
    rounded: list[float] = np.where(exact, np.rint(values * powers) / powers, values).tolist()
    return rounded


def write(vectors: NDArray[np.float32], kind: str) -> list[bytes]:
    """JSON of each vector: the values of encoded().

    :param vectors: [n, D] float32, finite.
    :param kind: see encoded.
    :return: n JSON values without white space.
    """
    if kind == "float":
        return write_floats(vectors)
    return [json.dumps(encoded(vector, kind), separators=(",", ":")).encode("ascii") for vector in vectors]


def write_floats(vectors: NDArray[np.float32]) -> list[bytes]:
    """JSON arrays of the numbers of numbers(), in a third of the time that json.dumps takes.

    Each number is a row of six words of four characters: sign, digit and point; four groups of decimals, looked up in
    a table; comma. Characters that a number does not have are NUL, and taken out at the end. A number that is too
    small or too large for that is a MARK first, which its own digits then replace.

    :param vectors: [n, D] float32, finite.
    :return: n JSON arrays, such as b"[0.0123456789,-0.5]".
    """
    size = np.abs(vectors.astype(np.float64))
    odd = ((size < SMALLEST) & (size != 0)) | (size > LARGEST)
    size[odd] = 0
    places = DIGITS - 1 - np.floor(np.log10(np.where(size == 0, 1, size))).astype(np.int64)
    rest = np.rint(size * POWERS[places]).astype(np.int64) * INTEGER_POWERS[DECIMALS - places]
    words = np.zeros((*vectors.shape, 2 + DECIMALS // GROUP), np.uint32)
    table = _table()
    trailing = np.ones(vectors.shape, bool)  # no group after this one holds anything but zeros
    for group in range(DECIMALS // GROUP, 0, -1):
        left = rest // 10**GROUP
        digits = rest - left * 10**GROUP
        words[..., group] = table[digits + 10**GROUP * trailing]
        trailing &= digits == 0
        rest = left
    characters = words.view(np.uint8)
    characters[..., 0] = np.where(np.signbit(vectors), ord("-"), 0)
    characters[..., 1] = rest + ord("0")
    characters[..., 2] = ord(".")
    characters[..., GROUP] |= np.where(trailing, ord("0"), 0).astype(np.uint8)  # 1.0, not 1.
    characters[odd] = 0
    characters[odd, 1] = MARK
    characters[..., -GROUP] = ord(",")
    rows = characters.reshape(len(vectors), -1)
    texts = [b"[" + row.tobytes().translate(None, b"\0")[:-1] + b"]" for row in rows]
    for row in np.flatnonzero(odd.any(axis=1)).tolist():
        own = [json.dumps(value).encode("ascii") for value in numbers(vectors[row, odd[row]])]
        texts[row] = b"".join(
            chain.from_iterable(zip(texts[row].split(b"%c" % MARK), [*own, b""], strict=True))
        )
    return texts


def _table() -> NDArray[np.uint32]:
    """The characters of 0 to 9999 with four digits, and after these the same without zeros at the end."""
    global _groups
    if _groups is None:
        values = np.arange(10**GROUP)[:, None]
        digits = values // INTEGER_POWERS[GROUP - 1 :: -1] % 10
        some_follow = np.logical_or.accumulate(digits[:, ::-1] != 0, axis=1)[:, ::-1]
        full = (digits + ord("0")).astype(np.uint8)
        _groups = np.concatenate([full, full * some_follow]).astype(np.uint8).view(np.uint32).ravel()
    return _groups
