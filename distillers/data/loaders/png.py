"""Verify a PNG file before it is decoded.

libpng's errors within the pixels end the process instead of raising an exception, so everything
that they depend on is verified here first.
"""

import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# Left, top, and the steps to the right and down, of the passes of an interlaced image.
PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
CHECKED = (*CRITICAL, b"tRNS", b"eXIf")  # those that decide on the pixels and their orientation
BLOCK = 1 << 16  # compressed bytes that are inflated at once; at most 1,032 times as many come out
SPARE = 1 << 20  # bytes that may follow the pixels


class Header(NamedTuple):
    """The content of the IHDR chunk."""

    width: int
    height: int
    depth: int
    color: int
    interlaced: int


def parse_png(content: bytes | bytearray) -> tuple[Header, list[memoryview]]:
    """Verify the order, lengths and checksums of the chunks; return header and compressed pixels.

    Raises:
        ValueError: with the reason why it is no whole PNG file.
    """
    header, data, names = None, [], []
    for name, body in _chunks(content):
        if not names and name != b"IHDR":
            raise ValueError("it does not begin with a header")
        names.append(name)
        if name == b"IHDR":
            header = _header(bytes(body))
        elif name == b"IDAT":
            data.append(body)
    if header is None or names.count(b"IHDR") != 1:
        raise ValueError("it has no header, or two")
    if not data:
        raise ValueError("it has no pixels")
    starts = [b for a, b in pairwise(names) if b == b"IDAT" and a != b"IDAT"]
    if len(starts) != 1:
        raise ValueError("its chunks are out of order")
    return header, data


def verify_pixels(header: Header, data: list[memoryview]) -> None:
    """Verify that the compressed pixels can be decoded, without keeping them.

    Raises:
        ValueError: with the reason why they cannot.
    """
    passes = list(_passes(header))
    total, place = passes[-1][1], 0
    inflater = zlib.decompressobj()
    try:
        for block in _blocks(data):
            pixels = inflater.decompress(block)
            for start, stop, stride in passes:
                first = start + -(-max(place - start, 0) // stride) * stride - place
                filters = pixels[first : max(stop - place, 0) : stride]
                if filters and max(filters) > 4:
                    raise ValueError("its pixels are damaged")
            place += len(pixels)
            if place > total + SPARE:
                raise ValueError("it has more pixels than its header declares")
            if inflater.eof:
                break
    except zlib.error:
        raise ValueError("its pixels are damaged") from None
    if place < total or not inflater.eof:
        raise ValueError("pixels are missing")


def _chunks(content: bytes | bytearray) -> Iterator[tuple[bytes, memoryview]]:
    """Yield name and data of each chunk up to IEND."""
    view, place = memoryview(content), len(SIGNATURE)
    while True:
        length = int.from_bytes(content[place : place + 4])
        name, end = bytes(content[place + 4 : place + 8]), place + 8 + length
        if end + 4 > len(content):
            raise ValueError("it is cut short")
        stored = int.from_bytes(content[end : end + 4])
        if name in CHECKED and zlib.crc32(view[place + 4 : end]) != stored:
            raise ValueError(f"the checksum of its {name.decode()} chunk is wrong")
        if name not in CHECKED and not name[0] & 0x20:  # a capital letter: needed for the pixels
            raise ValueError("it has a chunk that is not known, or is damaged")
        yield name, view[place + 8 : end]
        if name == b"IEND":
            return
        place = end + 4


def _header(body: bytes) -> Header:
    if len(body) != 13:
        raise ValueError("its header is damaged")
    width, height = int.from_bytes(body[:4]), int.from_bytes(body[4:8])
    depth, color, compression, filtering, interlaced = body[8:]
    if depth not in DEPTHS.get(color, ()) or compression or filtering or interlaced > 1:
        raise ValueError("its header is damaged")
    return Header(width, height, depth, color, interlaced)


def _passes(header: Header) -> Iterator[tuple[int, int, int]]:
    """Yield start, end and bytes per row of each pass within the inflated pixels."""
    place = 0
    for left, top, right, down in PASSES if header.interlaced else ((0, 0, 1, 1),):
        wide, high = -(-(header.width - left) // right), -(-(header.height - top) // down)
        if wide > 0 and high > 0:
            stride = 1 + -(-wide * CHANNELS[header.color] * header.depth // 8)
            yield place, place + stride * high, stride
            place += stride * high


def _blocks(data: Iterable[memoryview]) -> Iterator[memoryview]:
    for chunk in data:
        for start in range(0, len(chunk), BLOCK):
            yield chunk[start : start + BLOCK]
