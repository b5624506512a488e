"""Compressed bodies: what the standard library reads, and zstd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zstandard

from runtime.api import body

if TYPE_CHECKING:
    from runtime.api.body import Decoder

MAX_WINDOW_BYTES = 8 << 20  # what RFC 8878 asks a decoder to take, and no more


def unzstd(data: bytes, most: int) -> bytes:
    """Decompress zstd, with one frame or several. Of data that is cut short there is the beginning.

    :param data: the whole of it.
    :param most: bytes to stop after.
    :raises ValueError: damaged.
    """
    decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    pieces, size = [], 0
    try:
        with decoder.stream_reader(data, read_across_frames=True) as reader:
            while size <= most and (piece := reader.read(most + 1 - size)):
                pieces.append(piece)
                size += len(piece)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
    return b"".join(pieces)


DECODERS: dict[str, Decoder] = {**body.DECODERS, "zstd": unzstd}
