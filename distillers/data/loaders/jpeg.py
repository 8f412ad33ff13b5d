"""Read the size and orientation of a JPEG file without decoding it."""

import re
from collections.abc import Iterator

SOI, EOI, SOS, APP0, APP1, APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE
FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, all with Huffman codes
TABLES = (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))  # what may stand between frames and scans
ORIENTATION = b"\x01\x12"  # Exif's tag, as a big-endian file has it
SHORT = b"\x00\x03"
# Within a scan, 0xFF stands before 0 where it is a datum, and before a restart marker.
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

Segment = tuple[int, bytes]


def upright_size(content: bytes) -> tuple[int, int] | None:
    """Return height and width of an ordinary JPEG after its Exif orientation is applied.

    Ordinary is one of 8 bits, grey or YCbCr, all markers of which are in order up to the one that
    ends it. Such a file is decoded the same by every decoder; what only some can read, or read as
    other colors, and what is truncated or damaged between its markers, is not.

    Returns:
        None where the file is no ordinary JPEG of at least 2 x 2 pixels.
    """
    try:
        segments = list(_segments(content))
    except (ValueError, IndexError):
        return None
    frames = [data for marker, data in segments if marker in FRAMES]
    if len(frames) != 1 or not _usual_colors(frames[0], segments):
        return None
    height, width = int.from_bytes(frames[0][1:3]), int.from_bytes(frames[0][3:5])
    exif = [data[6:] for marker, data in segments if marker == APP1 and data[:6] == b"Exif\0\0"]
    orientation = exif_orientation(exif[0]) if exif else 1
    if len(exif) > 1 or orientation is None or min(height, width) < 2:
        return None
    return (width, height) if orientation > 4 else (height, width)


def frame_size(content: bytes | bytearray) -> tuple[int, int] | None:
    """Return height and width from the first frame header of a JPEG, or None without one."""
    place = 2
    while place + 9 <= len(content):
        if content[place] != 0xFF or content[place + 1] in (0x00, 0x01, 0xFF, *range(0xD0, 0xD9)):
            place += 1
            continue
        marker = content[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            size = content[place + 5 : place + 9]
            return int.from_bytes(size[:2]), int.from_bytes(size[2:])
        if marker in (SOS, EOI):
            return None
        place += 2 + int.from_bytes(content[place + 2 : place + 4])
    return None


def _segments(content: bytes) -> Iterator[Segment]:
    """Yield each marker with its data, up to the end of the image.

    Raises:
        ValueError: where a marker stands that does not belong there, or none.
        IndexError: where the file ends too early.
    """
    if content[:2] != bytes((0xFF, SOI)):
        raise ValueError("no JPEG")
    place = 2
    while True:
        while content[place + 1] == 0xFF:  # any number of these may stand before a marker
            place += 1
        marker = content[place + 1]
        if content[place] != 0xFF or marker not in (*FRAMES, *TABLES, SOS, EOI):
            raise ValueError("no marker of an ordinary JPEG")
        if marker == EOI:
            return
        length = int.from_bytes(content[place + 2 : place + 4])
        data = content[place + 4 : place + 2 + length]
        if length < 2 or len(data) != length - 2:
            raise ValueError("a segment is cut short")
        yield marker, data
        place += 2 + length
        if marker == SOS:
            found = MARKER.search(content, place)
            if found is None:
                raise ValueError("the image has no end")
            place = found.start()


def _usual_colors(frame: bytes, segments: list[Segment]) -> bool:
    """Return whether the samples are 8-bit grey or certainly YCbCr."""
    if len(frame) < 6 or frame[0] != 8 or len(frame) != 6 + 3 * frame[5]:
        return False
    if frame[5] == 1:
        return True
    jfif = any(marker == APP0 and data[:5] == b"JFIF\0" for marker, data in segments)
    adobe = [data[11:12] for m, data in segments if m == APP14 and data[:5] == b"Adobe"]
    numbered = frame[6::3] == b"\x01\x02\x03"
    is_declared = jfif or bool(adobe) or numbered
    return frame[5] == 3 and is_declared and all(kind == b"\x01" for kind in adobe)


def exif_orientation(tiff: bytes) -> int | None:
    """Return Exif's orientation, 1 to 8; 1 without an entry, None if it is not readable."""
    order = {b"MM\0*": "big", b"II*\0": "little"}.get(tiff[:4])
    if order is None or len(tiff) < 10:
        return None
    swap = slice(None, None, 1 if order == "big" else -1)
    start = int.from_bytes(tiff[4:8][swap])
    count = int.from_bytes(tiff[start : start + 2][swap])
    for place in range(start + 2, start + 2 + 12 * count, 12):
        entry = tiff[place : place + 12]
        if len(entry) < 12:
            return None
        if entry[:2][swap] == ORIENTATION:
            value = int.from_bytes(entry[8:10][swap])
            one_short = entry[2:4][swap] == SHORT and int.from_bytes(entry[4:8][swap]) == 1
            return value if one_short and 1 <= value <= 8 else None
    return 1
