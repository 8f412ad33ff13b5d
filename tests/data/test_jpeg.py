import io
import struct

import numpy as np
import pytest

from distillers.data.loaders.decode import read
from distillers.data.loaders.jpeg import upright_size
from tests.data.trees import picture


def jpeg(mode="RGB", height=48, width=60, **options):
    out = io.BytesIO()
    picture(1, height, width).convert(mode).save(out, "JPEG", **({"quality": 90} | options))
    return out.getvalue()


def with_exif(content, tiff):
    body = b"Exif\0\0" + tiff
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + content[2:]


def tiff(orientation, order="<", kind=3, count=1):
    """An Exif block with another entry before the one that counts."""
    mark = b"II" if order == "<" else b"MM"
    model = struct.pack(order + "HHI4s", 0x0110, 2, 4, b"abc\0")
    turned = struct.pack(order + "HHIHH", 0x0112, kind, count, orientation, 0)
    return (
        mark + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", 2) + model + turned
    ) + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_image_has_the_size_that_the_decoder_gives_it(tmp_path, orientation, order):
    path = tmp_path / "turned.jpg"
    path.write_bytes(with_exif(jpeg(), tiff(orientation, order)))
    assert upright_size(path.read_bytes()) == read(str(path)).shape[1:]


ORDINARY = {
    "progressive": jpeg(progressive=True),
    "grey": jpeg("L"),
    "all colours": jpeg(subsampling=0),
    "restarts": jpeg(restart_marker_blocks=2),
    "no orientation": with_exif(jpeg(), b"II*\0\x08\0\0\0\0\0\0\0\0\0"),
    "padded": jpeg() + bytes(100),
    "fill bytes": jpeg()[:2] + b"\xff\xff" + jpeg()[2:],
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_ordinary_files_tell_their_size(kind):
    assert upright_size(ORDINARY[kind]) == (48, 60)


WHOLE = jpeg(height=200, width=300)
HALF = len(WHOLE) // 2
STRANGE = {
    "CMYK": jpeg("CMYK"),
    "one pixel": jpeg(height=1, width=1),
    "a line": jpeg(height=1, width=50),
    "a PNG": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "text": b"not an image",
    "empty": b"",
    "truncated": WHOLE[:HALF],
    "no end": WHOLE[:-2],
    "only a beginning": WHOLE[:3],
    "a marker in the picture": WHOLE[:HALF] + b"\xff\x36" + WHOLE[HALF:],
    "a frame in the picture": WHOLE[:HALF] + b"\xff\xc3\x00\x03a" + WHOLE[HALF:],
    "unknown orientation": with_exif(jpeg(), tiff(9)),
    "orientation of another type": with_exif(jpeg(), tiff(6, kind=4)),
    "two orientations": with_exif(with_exif(jpeg(), tiff(6)), tiff(1)),
    "damaged Exif": with_exif(jpeg(), tiff(6)[:20]),
    "red, green, blue as they are": WHOLE[:2] + b"\xff\xee\x00\x0eAdobe\0d\0\0\0\0\0" + WHOLE[2:],
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_decoders_may_differ_on_is_no_ordinary_file(kind):
    assert upright_size(STRANGE[kind]) is None


def test_no_cut_of_a_file_is_taken_for_a_whole_one():
    content = jpeg()
    assert all(upright_size(content[:end]) is None for end in range(len(content)))


def test_damage_ends_in_a_size_or_in_none():
    content = np.frombuffer(with_exif(jpeg(), tiff(6)), dtype=np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        spoiled = content.copy()
        spoiled[rng.integers(0, len(content), 3)] = rng.integers(0, 256, 3)
        found = upright_size(spoiled.tobytes())
        assert found is None or min(found) > 1
