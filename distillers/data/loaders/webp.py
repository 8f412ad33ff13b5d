"""Read the size and orientation of a WebP file without decoding it."""

from collections.abc import Iterator

from distillers.data.loaders.jpeg import exif_orientation

START = b"\x9d\x01\x2a"  # of a frame of VP8


def is_webp(content: bytes | bytearray) -> bool:
    """Return whether a file has the header of WebP."""
    return content[:4] == b"RIFF" and content[8:12] == b"WEBP"


def parse_webp(content: bytes | bytearray) -> tuple[int, int, int]:
    """Return width and height, in pixels before it is turned, and the orientation of Exif, 1 to 8.

    Raises:
        ValueError: with the reason why it is no whole WebP file.
    """
    sizes, orientation, has_pixels = [], 1, False
    for name, body in _chunks(content):
        if name in (b"VP8 ", b"VP8L", b"VP8X"):
            sizes.append(_size(name, body))
            has_pixels |= name != b"VP8X"
        elif name == b"ANIM":
            raise ValueError("it is an animation")
        elif name == b"EXIF":
            orientation = exif_orientation(body.removeprefix(b"Exif\0\0")) or 1
    if not has_pixels:
        raise ValueError("it has no pixels")
    if any(size != sizes[0] for size in sizes):
        raise ValueError("its chunks have different sizes")
    return *sizes[0], orientation


def _chunks(content: bytes | bytearray) -> Iterator[tuple[bytes, bytes]]:
    end = 8 + int.from_bytes(content[4:8], "little")
    if end > len(content) + 1:  # the last byte may be padding
        raise ValueError("it is cut short")
    place = 12
    while place + 8 <= end:
        length = int.from_bytes(content[place + 4 : place + 8], "little")
        if place + 8 + length > len(content):
            raise ValueError("it is cut short")
        yield bytes(content[place : place + 4]), bytes(content[place + 8 : place + 8 + length])
        place += 8 + length + length % 2


def _size(name: bytes, body: bytes) -> tuple[int, int]:
    if name == b"VP8X" and len(body) >= 10:
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if name == b"VP8L" and len(body) >= 5 and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if name == b"VP8 " and body[3:6] == START and len(body) >= 10:
        wide, high = body[6:8], body[8:10]
        return int.from_bytes(wide, "little") & 0x3FFF, int.from_bytes(high, "little") & 0x3FFF
    raise ValueError("its header is damaged")
