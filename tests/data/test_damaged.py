"""Damaged, crafted and misnamed image files: never a crash, never silence, the file is named."""

import io
import os
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from distillers import data
from distillers.data import DecodeOptions
from distillers.data.loaders import decode
from distillers.data.loaders.decode import read, resize_center_crop
from distillers.data.loaders.decoder_output import captured
from distillers.errors import InputError
from tests.data.trees import WNIDS, picture, tree

ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


def encoded(kind, image=None, **options):
    out = io.BytesIO()
    (image or picture(5)).save(out, kind, **options)
    return out.getvalue()


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(pixels, depth=8, colour=2, interlaced=0, width=37, height=29, extra=b""):
    """A PNG of compressed pixels, with right checksums whatever they are."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def random_rows(width, height, depth, channels, interlaced):
    rng = np.random.default_rng(depth)
    rows = []
    for x, y, right, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        wide, high = -(-(width - x) // right), -(-(height - y) // down)
        for _ in range(high if wide > 0 else 0):
            size = -(-wide * depth * channels // 8)
            kind = bytes([rng.integers(5)])
            rows.append(kind + rng.integers(0, 256, size, dtype=np.uint8).tobytes())
    return b"".join(rows)


KINDS = [(0, depth) for depth in (1, 2, 4, 8, 16)] + [(3, depth) for depth in (1, 2, 4, 8)]
KINDS += [(colour, depth) for colour in (2, 4, 6) for depth in (8, 16)]


@pytest.mark.parametrize("size", [(37, 29), (3, 2), (8, 8)])
@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize(("colour", "depth"), KINDS)
def test_every_kind_of_png_is_read_as_pil_does(tmp_path, colour, depth, interlaced, size):
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    palette = np.random.default_rng(1).integers(0, 256, 3 * 2 ** min(depth, 8), dtype=np.uint8)
    extra = chunk(b"PLTE", palette.tobytes()) if colour == 3 else b""
    extra += chunk(b"tRNS", bytes(2)) if colour in (0, 3) else b""
    pixels = zlib.compress(random_rows(*size, depth, channels, interlaced))
    content = png(pixels, depth, colour, interlaced, *size, extra)
    (tmp_path / "x.png").write_bytes(content)
    found = read(str(tmp_path / "x.png"))
    assert found.shape == (3, *size[::-1])
    if depth < 16:  # PIL reads fewer bits of those
        expected = np.array(Image.open(tmp_path / "x.png").convert("RGBA").convert("RGB"))
        assert torch.equal(found, torch.from_numpy(expected).permute(2, 0, 1))


RAW = random_rows(37, 29, 8, 3, 0)
GOOD = zlib.compress(RAW)
CRAFTED = {
    "cut": png(GOOD[: len(GOOD) // 2]),
    "no such filter": png(zlib.compress(b"\x09" + RAW[1:])),
    "no such filter in the last row": png(zlib.compress(RAW[:-112] + b"\x05" + RAW[-111:])),
    "too few rows": png(zlib.compress(RAW[:-500])),
    "another checksum of the pixels": png(GOOD[:-4] + b"abcd"),
    "no end of the stream": png(GOOD[:-4]),
    "no stream": png(b""),
    "a dictionary": png(b"\x78\xbb\x00\x00\x00\x01" + GOOD[2:]),
    "depth": png(GOOD, depth=9),
    "colour": png(GOOD, colour=5),
    "interlacing": png(GOOD, interlaced=2),
    "interlaced": png(GOOD, interlaced=1),
    "no palette": png(GOOD, colour=3),
    "larger": png(GOOD, width=38),
    "no columns": png(GOOD, width=0),
    "huge": png(GOOD, width=2**31 - 1, height=2**31 - 1),
    "a bomb": png(zlib.compress(bytes(10**7))),
    "two headers": png(GOOD, extra=png(GOOD)[8:33]),
    "two parts of pixels": png(GOOD, extra=chunk(b"IDAT", b"") + chunk(b"tEXt", b"")),
    "an unknown chunk": png(GOOD, extra=chunk(b"ABCD", b"x")),
    "no pixels": png(GOOD)[:33] + chunk(b"IEND", b""),
    "no header": png(GOOD)[:8] + png(GOOD)[33:],
    "no end": png(GOOD)[:-12],
    "a length beyond the file": png(GOOD)[:33] + b"\xff" + png(GOOD)[34:],
}


@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_png_is_refused_by_name(tmp_path, kind):
    path = tmp_path / "crafted.png"
    path.write_bytes(CRAFTED[kind])
    with pytest.raises(InputError, match=r"crafted.png cannot be read as an image: .*\.$"):
        read(str(path))


FORMATS = {
    "jpg": encoded("JPEG", quality=90),
    "progressive.jpg": encoded("JPEG", quality=90, progressive=True),
    "png": encoded("PNG"),
    "grey.png": encoded("PNG", picture(5).convert("L")),
    "palette.png": encoded("PNG", picture(5).quantize(40)),
    "webp": encoded("WEBP", quality=80),
    "lossless.webp": encoded("WEBP", lossless=True),
}
EXACT = [name for name in FORMATS if name.endswith("png")]

# Reads each file named on stdin and prints one line: its sum, or the error. A native crash ends it.
CHILD = """
import sys
from distillers.data.loaders.decode import read
from distillers.errors import InputError
for name in sys.stdin.read().split():
    try:
        image = read(name, [])
        print("ok", *image.shape, image.long().sum().item())
    except InputError as error:
        print("refused", error)
"""


def read_all(paths):
    names = "\n".join(map(str, paths))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD], input=names, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.splitlines()


def variants(content, seed):
    """Flipped bits, cuts at every tenth, zeros and noise inside."""
    rng = np.random.default_rng(seed)
    for _ in range(60):
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        yield bytes(flipped)
    for tenth in range(10):
        yield content[: len(content) * tenth // 10]
    yield content[:-1]
    for _ in range(20):
        start, size = int(rng.integers(len(content))), int(rng.integers(1, 200))
        yield content[:start] + bytes(size) + content[start + size :]
        yield content[:start] + rng.bytes(size) + content[start + size :]


@pytest.mark.parametrize("name", FORMATS)
def test_damage_never_ends_the_process_and_every_refusal_names_the_file(tmp_path, name):
    paths = [tmp_path / f"whole.{name}"]
    paths[0].write_bytes(FORMATS[name])
    for number, content in enumerate(variants(FORMATS[name], 3)):
        paths.append(tmp_path / f"{number}.{name}")
        paths[-1].write_bytes(content)
    whole, *lines = read_all(paths)
    assert whole.startswith("ok 3 48 60 ")
    for path, line in zip(paths[1:], lines, strict=True):
        assert line.startswith(("ok", f"refused {path} cannot be read as an image: ")), line
        if name in EXACT:
            assert line in (whole, line if line.startswith("refused") else None)
    assert sum(line.startswith("refused") for line in lines) >= 10


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_the_content_decides_and_not_the_name(tmp_path, name, ending):
    right, wrong = tmp_path / f"right.{name}", tmp_path / f"wrong.{ending}"
    right.write_bytes(FORMATS[name])
    wrong.write_bytes(FORMATS[name])
    assert torch.equal(read(str(wrong)), read(str(right)))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_exif_says(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    path = tmp_path / "turned.img"
    picture(8).save(path, kind, exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    assert torch.equal(read(str(path)), torch.from_numpy(np.array(expected)).permute(2, 0, 1))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_a_file_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch, kind):
    path = tmp_path / "bomb.img"
    path.write_bytes(encoded(kind))
    monkeypatch.setattr(decode, "MAX_PIXELS", 48 * 60 - 1)
    monkeypatch.setattr(decode, "decode_image", None)
    with pytest.raises(InputError, match=r"bomb.img .* 60 x 48 pixels; at most 2,879 are read"):
        read(str(path))


def zeros_inside(path):
    content = bytearray(encoded("JPEG", picture(5, 200, 300), quality=95))
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    path.write_bytes(content)


def test_what_others_print_during_a_decode_is_forwarded(capfd):
    with captured() as printed:
        os.write(2, b"Corrupt JPEG data: bad Huffman code\nsomething else\n")
        os.write(2, b"no end of line")
    assert printed == ["Corrupt JPEG data: bad Huffman code"]
    assert capfd.readouterr().err == "something else\nno end of line"
    with captured() as printed:
        pass
    assert not printed


@pytest.mark.parametrize("workers", [0, 2])
def test_a_jpeg_that_is_repaired_is_named_once(tmp_path, capfd, workers):
    root = tree(tmp_path / "photos")
    zeros_inside(root / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG")
    reading = DecodeOptions(image_size=32, num_workers=workers)
    loader = data.source_of("folder", root, reading=reading).train_loader(
        6, seed=1, drop_last=False, device=torch.device("cpu")
    )
    list(loader.epoch(1))
    printed = capfd.readouterr().err
    assert re.search(rf"damaged, but used \(1 image\).*{WNIDS[0]}_1.JPEG", printed)
    assert "Corrupt JPEG data" not in printed.splitlines()[0].split(":")[0]
    assert len(printed.splitlines()) == 1
    list(loader.epoch(2))
    assert not capfd.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["jpg", "png", "webp"])
def test_a_damaged_file_stops_the_epoch_or_is_replaced(tmp_path, capfd, workers, name):
    root = tree(tmp_path / "photos")
    bad = root / "train" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG"
    content = bytearray(FORMATS[name])
    content[len(content) // 2] ^= 1
    bad.write_bytes(bytes(content) if name == "png" else content[: len(content) // 2])

    def epoch(mode):
        reading = DecodeOptions(image_size=32, num_workers=workers, on_bad_image=mode)
        source = data.source_of("folder", root, reading=reading)
        return list(
            source.train_loader(6, seed=1, drop_last=False, device=torch.device("cpu")).epoch(1)
        )

    with pytest.raises(InputError, match=f"{bad.name} .*--on_bad_image skip"):
        epoch("error")
    assert sum(len(batch.labels) for batch in epoch("skip")) == 18
    assert f"1 bad images were replaced by others in epoch 1: {bad}" in capfd.readouterr().err


@pytest.mark.parametrize("shape", [(3, 9000), (9000, 3), (2, 33)])
def test_the_center_of_an_extremely_long_image_is_resized(shape):
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    found = resize_center_crop(image, 224, 256)
    assert found.shape == (3, 224, 224)
    spread = image.float().mean() - found.float().mean()
    assert abs(float(spread)) < 80


def test_up_to_sixteen_to_one_keeps_its_bits():
    image = torch.randint(0, 256, (3, 10, 160), dtype=torch.uint8)
    functional = decode.F
    expected = functional.center_crop(functional.resize(image, [37], antialias=True), [32, 32])
    assert torch.equal(resize_center_crop(image, 32, 37), expected)


OTHERS = {
    "GIF": (encoded("GIF"), "it is a GIF image; convert it to JPEG, PNG or WebP"),
    "BMP": (encoded("BMP"), "it is a BMP image; convert"),
    "TIFF": (encoded("TIFF"), "it is a TIFF image; convert"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "it is a HEIC image; convert"),
    "AVIF": (b"\0\0\0\x18ftypavif\0\0\0\0mif1", "it is an AVIF image; convert"),
    "JPEG XL": (b"\xff\x0a1234567", "it is a JPEG XL image; convert"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer; fetch"),
    "page": (b"<!DOCTYPE html><html>", "it is a web page; download the image itself"),
    "macOS": (b"\0\x05\x16\x07\0\x02\0\0Mac OS X", "attributes by macOS; delete it"),
    "zeros": (bytes(300), "it is full of zeros; copy or download it again"),
    "nothing": (b"", "it is empty"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_files_that_only_are_named_like_an_image_are_refused_with_what_to_do(kind, tmp_path):
    content, words = OTHERS[kind]
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.jpg cannot be read as an image: .*{words}"):
        read(str(tmp_path / "x.jpg"))
