"""Decode, crop, resize and flip image files, in worker processes."""

import math
import os
import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as F

from distillers.data.datasets.listing import PathList
from distillers.errors import InputError

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of the random crop, as in Inception
TRIES = 100  # other images to try instead of a bad one
OnBad = Literal["error", "skip"]


class DecodedBatch(NamedTuple):
    """The m decoded images of a batch, and the errors of others.

    Attributes:
        images: (m, 3, h, w) uint8.
        labels: (m,) int64.
        index: (m,) int64.
        bad: error messages, one per file.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    bad: list[str]


class CropFlip(NamedTuple):
    """Random augmentation of one image.

    Attributes:
        window: top, left, height and width of the crop, in pixels.
        mirrored: whether to flip it horizontally.
    """

    window: tuple[int, int, int, int]
    mirrored: bool


@dataclass(frozen=True, eq=False)
class ImageFiles(Dataset):
    """Images by (turn, row), several at once; the seed, the turn and the row decide on a crop.

    A turn is the number of the epoch, or of a fixed view.

    Attributes:
        paths: of all files.
        labels: (N,) int64, of all files.
        rows: (m,) int64, the files that are in use; a row of the data set is a place in it.
        size: pixels on a side of what comes out.
        augment: whether to crop and mirror at random, or to cut out the middle.
        seed: see above.
        on_bad: "error" stops at the first image that cannot be read, with its text alone in `bad`;
            "skip" puts another image of the set in its place, or none where `augment` is False.
    """

    paths: PathList
    labels: Tensor
    rows: Tensor
    size: int
    augment: bool
    seed: int
    on_bad: OnBad

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, wanted: list[tuple[int, int]]) -> DecodedBatch:
        """Decode the images of a batch, given as (turn, row)."""
        images, index, bad = [], [], []
        for turn, row in wanted:
            found = self._one(turn, row, bad)
            if found is not None:
                images.append(found[0])
                index.append(found[1])
            elif self.on_bad == "error":
                break
        stacked = torch.stack(images) if images else torch.empty(0, 3, 1, 1, dtype=torch.uint8)
        numbers = torch.tensor(index, dtype=torch.int64)
        return DecodedBatch(stacked, self.labels[self.rows[numbers]], numbers, bad)

    def _one(self, turn: int, row: int, bad: list[str]) -> tuple[Tensor, int] | None:
        chooser = rng = image_rng(self.seed, turn, row)
        for _ in range(TRIES):
            try:
                image = read(self.paths[int(self.rows[row])])
            except InputError as error:
                bad.append(str(error))
                if self.on_bad == "error" or not self.augment:
                    return None
                row = chooser.randrange(len(self.rows))
                rng = image_rng(self.seed, turn, row)  # the other image's own crop
                continue
            return self._shaped(image, rng), row
        return None

    def _shaped(self, image: Tensor, rng: random.Random) -> Tensor:
        if not self.augment:
            return resize_center_crop(image, self.size, shorter_side(self.size))
        cut = random_crop_flip(image.shape[-2], image.shape[-1], rng)
        image = F.resized_crop(image, *cut.window, [self.size, self.size], antialias=True)
        return image.flip(-1) if cut.mirrored else image


def same(batch: Any) -> Any:
    """Collate function for batches that are collated already."""
    return batch


def read(path: str) -> Tensor:
    """Read an image file, turned upright by its Exif orientation, as (3, h, w) uint8 RGB.

    Raises:
        InputError: naming the file, if it is damaged or has fewer than 2 x 2 pixels.
    """
    try:
        image = _decoded(path)
    except RuntimeError as error:
        why = str(error).splitlines()[0].rpartition(", ")[2].rstrip(".")
        if "decode_avif" in why:  # what torchvision advises where a file begins like no image
            why = "it does not begin like a file of any kind that is read"
        raise InputError(f"{path} cannot be read as an image: {why}.") from error
    if image.dtype == torch.uint16:  # 65,535 is white
        image = ((image.int() * 255 + 32767) // 65535).to(torch.uint8)
    if image.ndim != 3 or min(image.shape[-2:]) < 2:
        raise InputError(f"{path} has {image.shape[-1]} x {image.shape[-2]} pixels, no image.")
    return image


def _decoded(path: str) -> Tensor:
    given: Any = path
    if not path.isascii() and os.fsencode(path) != path.encode(errors="replace"):  # no UTF-8
        given = torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=torch.uint8)
    with warnings.catch_warnings():
        # torchvision 0.29 points to TorchCodec, which this does not need yet.
        warnings.filterwarnings("ignore", message=".*decoding", category=DeprecationWarning)
        try:
            return decode_image(given, mode=ImageReadMode.RGB, apply_exif_orientation=True)
        except NotImplementedError:  # what is turned has 8 bits
            return decode_image(given, mode=ImageReadMode.RGB)


def shorter_side(size: int) -> int:
    """Return the size of the shorter side before the center crop for evaluation."""
    return round(size * 256 / 224)


def resize_center_crop(images: Tensor, size: int, shorter: int) -> Tensor:
    """Resize the shorter side of (..., h, w) to `shorter`, then crop the center to `size`."""
    return F.center_crop(F.resize(images, [shorter], antialias=True), [size, size])


def image_rng(seed: int, turn: int, row: int) -> random.Random:
    """Return the RNG of the augmentation of one image in one turn."""
    return random.Random(f"{seed} {turn} {row}")


def random_crop_flip(height: int, width: int, rng: random.Random) -> CropFlip:
    """Draw the augmentation of an image of the given size."""
    return CropFlip(random_crop_box(height, width, rng), rng.random() < 0.5)


def random_crop_box(height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
    """Draw top, left, height and width of a crop; the center if none fits in ten tries."""
    for _ in range(10):
        area = height * width * rng.uniform(*AREA)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            return rng.randint(0, height - high), rng.randint(0, width - wide), high, wide
    ratio = min(max(width / height, RATIO[0]), RATIO[1])
    high, wide = min(height, round(width / ratio)), min(width, round(height * ratio))
    return (height - high) // 2, (width - wide) // 2, high, wide
