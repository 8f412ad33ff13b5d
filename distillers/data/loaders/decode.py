"""Decode, crop, resize and flip image files, in worker processes."""

import math
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as F

from distillers.config.data import OnBad
from distillers.data.augment.boxes import AREA, RATIO, Box, central_box
from distillers.data.datasets.listing import PathList
from distillers.data.loaders.decoder_output import captured
from distillers.data.loaders.jpeg import frame_size
from distillers.data.loaders.other_formats import describe
from distillers.data.loaders.png import SIGNATURE, parse_png, verify_pixels
from distillers.data.loaders.webp import is_webp, parse_webp
from distillers.errors import InputError

MAX_PIXELS = 178_956_970  # PIL's limit, against files that decompress to all memory
MAX_RATIO = 16  # of the sides of an image
TRIES = 100  # other images to try instead of a bad one
NO_IMAGES = torch.empty(0, 3, 1, 1, dtype=torch.uint8)
Span = Sequence[float]  # two numbers


class DecodedBatch(NamedTuple):
    """The m decoded images of a batch, and the errors of others.

    Attributes:
        images: (m, 3, h, w) uint8.
        labels: (m,) int64.
        index: (m,) int64.
        bad: error messages, one per file.
        notes: messages on files with damage that the decoder repaired.
        second: (m, 3, h, w) uint8, another crop of each image, or None.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    bad: list[str]
    notes: Sequence[str] = ()
    second: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ImageFiles(Dataset):
    """Images by (turn, row), several at once; the seed, the turn and the row decide on a crop.

    A turn is the number of the epoch, or of a fixed view.

    Attributes:
        paths: of all files.
        labels: (N,) int64, of all files.
        rows: (m,) int64, the files that are in use; a row of the data set is an index into it.
        size: side of the output images in pixels.
        augment: whether to crop and flip at random; if not, the center is cropped.
        seed: see above.
        on_bad: "error" stops at the first image that cannot be read, with its text alone in `bad`;
            "skip" puts another image of the set in its place, or none where `augment` is False.
        crops: how many crops of each image are made, 1 or 2.
        area: range of the part of the image in a random crop.
        ratio: range of the width of a random crop divided by its height.
        flip: whether random crops are mirrored.
        verified: (m,) int8, 1 for files that were read, -1 for those that could not be, 0 before;
            shared with worker processes.
    """

    paths: PathList
    labels: Tensor
    rows: Tensor
    size: int
    augment: bool
    seed: int
    on_bad: OnBad
    crops: int = 1
    area: Span = AREA
    ratio: Span = RATIO
    flip: bool = True
    verified: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "verified", torch.zeros(len(self.rows), dtype=torch.int8))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, wanted: list[tuple[int, int]]) -> DecodedBatch:
        """Decode the images of a batch, given as (turn, row)."""
        images, index, bad, notes = [], [], [], []
        for turn, row in wanted:
            found = self._load(turn, row, bad, notes)
            if found is not None:
                images.append(found[0])
                index.append(found[1])
            elif self.on_bad == "error":
                break
        numbers = torch.tensor(index, dtype=torch.int64)
        labels = self.labels[self.rows[numbers]]
        first, *second = [torch.stack(each) for each in zip(*images, strict=True)] or [NO_IMAGES]
        return DecodedBatch(first, labels, numbers, bad, notes, next(iter(second), None))

    def path(self, row: int) -> str:
        """Return the path of the file of a row."""
        return self.paths[int(self.rows[row])]

    def _load(
        self, turn: int, row: int, bad: list[str], notes: list[str]
    ) -> tuple[list[Tensor], int] | None:
        chooser = rng = image_rng(self.seed, turn, row)
        for _ in range(TRIES):
            try:
                image = read(self.path(row), notes, bool(self.verified[row] == 1))
            except InputError as error:
                bad.append(str(error))
                self.verified[row] = -1
                if self.on_bad == "error" or not self.augment:
                    return None
                row = self._substitute(row, chooser)
                rng = image_rng(self.seed, turn, row)  # the other image's own crop
                continue
            self.verified[row] = 1
            return [self._crop(image, rng) for _ in range(self.crops)], row
        return None

    def _substitute(self, row: int, chooser: random.Random) -> int:
        """Draw a row to take in place of a bad one; labelled if and only if that one is."""
        is_labelled = self.labels[self.rows] >= 0
        alike = (is_labelled == is_labelled[row]).nonzero().flatten()
        return int(alike[chooser.randrange(len(alike))])

    def draw_crop(self, height: int, width: int, rng: random.Random) -> tuple[Box, bool]:
        """Draw the crop of an image of the given size, and whether it is mirrored."""
        box = random_crop_box(height, width, rng, self.area, self.ratio)
        return box, rng.random() < 0.5 and self.flip

    def _crop(self, image: Tensor, rng: random.Random) -> Tensor:
        if not self.augment:
            return resize_center_crop(image, self.size, shorter_side(self.size))
        box, is_mirrored = self.draw_crop(image.shape[-2], image.shape[-1], rng)
        image = F.resized_crop(image, *box, [self.size, self.size], antialias=True)
        return image.flip(-1) if is_mirrored else image


def identity(batch: Any) -> Any:
    """Collate function for batches that are collated already."""
    return batch


def read(path: str, notes: list[str] | None = None, verified: bool = False) -> Tensor:
    """Read an image file, turned upright by its Exif orientation, as (3, h, w) uint8 RGB.

    Args:
        path: of a JPEG, PNG or WebP file, whatever its name ends in.
        notes: receives a message if the decoder found damage that it could repair.
        verified: whether the pixels of a PNG are known to be whole, as after a first reading.

    Raises:
        InputError: naming the file, if it is damaged, has fewer than 2 x 2 pixels, or more than
            `MAX_PIXELS`.
    """
    try:
        content = _content(path)
        orientation = _verify(content, verified)
        with captured() as printed:
            image = _decoded(content)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise InputError(f"{path} cannot be read as an image: {error}.") from error
    except RuntimeError as error:
        why = str(error).splitlines()[0].rpartition(", ")[2].rstrip(".")
        raise InputError(f"{path} cannot be read as an image: {why}.") from error
    damage = [line for line in printed if not line.startswith("libpng")]
    if damage and notes is not None:
        notes.append(f"{path} ({damage[0]})")
    if image.dtype == torch.uint16:  # 65,535 is white
        image = ((image.int() * 255 + 32767) // 65535).to(torch.uint8)
    if image.ndim != 3 or min(image.shape[-2:]) < 2:
        raise InputError(f"{path} has {image.shape[-1]} x {image.shape[-2]} pixels, no image.")
    return _turned(image, orientation)


def _content(path: str) -> bytearray:
    with open(path, "rb") as stream:
        return bytearray(stream.read())


def _verify(content: bytearray, verified: bool) -> int:
    """Verify what decoders rely on; return the orientation that they leave to us, 1 to 8.

    Raises:
        ValueError: with the reason why the image must not be decoded.
    """
    if content.startswith(SIGNATURE):
        header, data = parse_png(content)
        _check_size(header.width, header.height)
        if not verified:
            verify_pixels(header, data)
        return 1
    if is_webp(content):
        width, height, orientation = parse_webp(content)
        _check_size(width, height)
        return orientation
    if not content.startswith(b"\xff\xd8"):
        raise ValueError(describe(content))
    frame = frame_size(content)
    if frame is None:
        raise ValueError("it is cut short, or its header is damaged")
    _check_size(frame[1], frame[0])
    return 1


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"it has {width} x {height} pixels; at most {MAX_PIXELS:,} are read")
    if min(width, height) < 2:
        raise ValueError(f"it has {width} x {height} pixels")


def _decoded(content: bytearray) -> Tensor:
    given = torch.frombuffer(content, dtype=torch.uint8)
    with warnings.catch_warnings():
        # torchvision 0.29 points to TorchCodec, which this does not need yet.
        warnings.filterwarnings("ignore", message=".*decoding", category=DeprecationWarning)
        try:
            return decode_image(given, mode=ImageReadMode.RGB, apply_exif_orientation=True)
        except NotImplementedError:  # what is turned has 8 bits
            return decode_image(given, mode=ImageReadMode.RGB)


def _turned(image: Tensor, orientation: int) -> Tensor:
    """Turn (3, h, w) upright by Exif's orientation."""
    if orientation > 4:  # rows and columns are exchanged
        image = image.transpose(-2, -1)
    mirrored = [-1] * (orientation in (2, 3, 6, 7)) + [-2] * (orientation in (3, 4, 7, 8))
    return image.flip(mirrored) if mirrored else image


def shorter_side(size: int) -> int:
    """Return the size of the shorter side before the center crop for evaluation."""
    return round(size * 256 / 224)


def resize_center_crop(images: Tensor, size: int, shorter: int) -> Tensor:
    """Resize the shorter side of (..., h, w) to `shorter`, then crop the center to `size`.

    Of an image that is longer than `MAX_RATIO` times its width only the center is resized.
    """
    long = MAX_RATIO * min(images.shape[-2:])
    if max(images.shape[-2:]) > long:
        images = F.center_crop(images, [min(side, long) for side in images.shape[-2:]])
    return F.center_crop(F.resize(images, [shorter], antialias=True), [size, size])


def image_rng(seed: int, turn: int, row: int) -> random.Random:
    """Return the RNG of the augmentation of one image in one turn."""
    return random.Random(f"{seed} {turn} {row}")


def random_crop_box(
    height: int, width: int, rng: random.Random, areas: Span = AREA, ratios: Span = RATIO
) -> Box:
    """Draw top, left, height and width of a crop; the center if none fits in ten tries."""
    for _ in range(10):
        area = height * width * rng.uniform(areas[0], areas[1])
        ratio = math.exp(rng.uniform(math.log(ratios[0]), math.log(ratios[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            return rng.randint(0, height - high), rng.randint(0, width - wide), high, wide
    return central_box(height, width, ratios)
