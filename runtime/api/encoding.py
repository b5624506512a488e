"""Vectors on their way into JSON, in the forms that OpenAI's and Jina's embeddings APIs know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIGITS = 9  # significant decimal digits that are a float32 exactly
POWERS = np.array(
    [float(f"1e{exponent}") for exponent in range(23)]
)  # powers of ten that a double holds exactly
EMBEDDING_TYPES = ("float", "base64", "binary", "ubinary")


def encoded(vector: NDArray[np.float32], kind: str) -> str | list[float] | list[int]:
    """One vector as a JSON value.

    :param vector: [D] float32.
    :param kind: "float" a list of D numbers; "base64" of little-endian float32; "binary" and "ubinary" the signs, one
        bit a number (1 for above 0), eight to a byte with the first in its highest bit, as D / 8 whole numbers: int8
        (the byte less 128) or uint8. D is padded with zeros to a multiple of 8.
    :return: what json can write.
    """
    if kind == "float":
        return numbers(vector)
    if kind == "base64":
        import base64

        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    signs = np.packbits(vector > 0)
    whole: list[int] = (signs if kind == "ubinary" else signs.astype(np.int16) - 128).tolist()
    return whole


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
