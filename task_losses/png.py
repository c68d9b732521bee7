"""Whether a PNG holds all of its pixels. Pillow makes those black that are missing at the end, without a word."""

from __future__ import annotations

import struct
import zlib

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# Left, top, and steps to the right and down: a picture at once, or in the seven passes of an interlaced one.
PASSES = (
    ((0, 0, 1, 1),),
    ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
PIECE = 2**16  # bytes that are unpacked at a time


def is_whole(data: bytes) -> bool:
    """Whether a PNG's pixels are as many as its header says. Nothing is kept, whatever the header says.

    Raises:
        Exception: of whatever kind the damage of the file leads to.
    """
    width, height, bits, colour, interlaced = struct.unpack(">IIBBxxB", data[16:29])
    wanted = 0
    for left, top, right, down in PASSES[interlaced]:
        columns, rows = -((left - width) // right), -((top - height) // down)
        # A row has a byte more, which says how it was filtered.
        wanted += rows * (1 + (columns * bits * CHANNELS[colour] + 7) // 8) if columns > 0 < rows else 0
    return _unpacked(data, wanted) >= wanted


def _unpacked(data: bytes, enough: int) -> int:
    """Bytes in the stream of pixels, counted until there are enough."""
    stream, found, at = zlib.decompressobj(), 0, 8
    while found < enough and at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            packed = data[at + 8 : at + 8 + length]
            while found < enough and (piece := stream.decompress(packed, PIECE)):
                found, packed = found + len(piece), stream.unconsumed_tail
        at += length + 12
    return found
