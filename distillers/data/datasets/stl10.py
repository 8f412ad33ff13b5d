"""STL-10 (Coates, Ng and Lee, 2011): 5,000 + 8,000 photographs of 96x96 pixels in ten classes.

https://cs.stanford.edu/~acoates/stl10/
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distillers.data.datasets.download import report_unverified, unpacked_folder
from distillers.data.datasets.images import ImageSet
from distillers.errors import InputError, complain

URL = "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz"
MD5 = "91f7769df0f17e558f3565bffb0c7dfb"
FILES = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "class_names.txt")
SUMS = {
    "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
    "train_y.bin": "5a34089d4802c674881badbb80307741",
    "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
    "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
}
# The usual values for the 5,000 training images.
MEAN, STD = (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)
SIDE = 96
CLASSES = (
    *("airplane", "bird", "car", "cat", "deer"),
    *("dog", "horse", "monkey", "ship", "truck"),
)


def stl10(data_dir: Path, download: bool) -> ImageSet:
    """Load STL-10's labelled images from `data_dir/stl10_binary` or its archive."""
    folder = unpacked_folder("stl10", data_dir / "stl10_binary", URL, MD5, FILES, download)
    report_unverified("stl10", folder, SUMS)
    class_names = _class_names(folder / "class_names.txt")
    train, test = _pair(folder, "train"), _pair(folder, "test")
    return ImageSet("stl10", *train, *test, MEAN, STD, class_names, flip=True)


def _class_names(path: Path) -> tuple[str, ...]:
    """Return the names in a file, which has no published checksum but known content."""
    names = tuple(path.read_text(encoding="utf-8", errors="replace").split())
    if len(names) != len(CLASSES):
        raise InputError(
            f"{path} is damaged: it holds {len(names)} names of classes instead of {len(CLASSES)}. "
            "Delete the folder to download it again."
        )
    if names != CLASSES:
        complain(
            f"stl10 is not verified: {path} does not hold the published names of the classes, "
            f"{', '.join(CLASSES)}.",
        )
    return names


def _pair(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Read images (n, 3, 96, 96), stored in column-major order, and labels (n,), stored from 1."""
    pixels = np.fromfile(folder / f"{part}_X.bin", dtype=np.uint8)
    labels = np.fromfile(folder / f"{part}_y.bin", dtype=np.uint8)
    if len(pixels) % (3 * SIDE * SIDE) or not len(pixels):
        raise InputError(
            f"{folder / f'{part}_X.bin'} is damaged: {len(pixels)} bytes are not whole images of "
            f"{3 * SIDE * SIDE:,}. Delete the folder to download it again."
        )
    if (
        len(labels) != len(pixels) // (3 * SIDE * SIDE)
        or not 1 <= labels.min() <= labels.max() <= 10
    ):
        raise InputError(
            f"{folder / f'{part}_y.bin'} is damaged: its {len(labels)} labels are not one of 1 to "
            f"10 for each image of {part}_X.bin. Delete the folder to download it again."
        )
    images = torch.from_numpy(pixels).view(-1, 3, SIDE, SIDE).transpose(2, 3).contiguous()
    return images, torch.from_numpy(labels).to(torch.int64) - 1
