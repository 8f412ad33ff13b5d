"""STL-10 (Coates, Ng and Lee, 2011): 5,000 + 8,000 photographs of 96x96 pixels in ten classes.

https://cs.stanford.edu/~acoates/stl10/
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distillers.data.datasets.download import download_lock, fetch, unpack
from distillers.data.datasets.images import ImageSet
from distillers.errors import InputError

URL = "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz"
MD5 = "91f7769df0f17e558f3565bffb0c7dfb"
FILES = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "class_names.txt")
# As commonly printed for the 5,000 training images.
MEAN, STD = (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)
SIDE = 96


def stl10(data_dir: Path, download: bool) -> ImageSet:
    """STL-10's labelled images from `data_dir/stl10_binary`.

    Args:
        data_dir: where that folder lies, or `stl10_binary.tar.gz`, or where both shall lie.
        download: whether to fetch it where it is missing.

    Raises:
        InputError: if files are missing and cannot be fetched, or are damaged.
    """
    folder = data_dir / "stl10_binary"
    if not folder.is_dir():
        archive = data_dir / URL.rpartition("/")[2]
        if not download and not archive.exists():
            raise InputError(
                f"stl10 is not in {data_dir}: there is no folder {folder}. Fetch {URL} and put it "
                f"into {data_dir}, or allow the download."
            )
        with download_lock(data_dir):
            if not folder.is_dir():
                fetch(URL, archive, MD5)
                unpack(archive, folder, FILES)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} is incomplete, it lacks {', '.join(missing)}; delete it.")
    class_names = tuple((folder / "class_names.txt").read_text().split())
    train_images, train_labels = _pair(folder, "train")
    test_images, test_labels = _pair(folder, "test")
    return ImageSet(
        name="stl10",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        mean=MEAN,
        std=STD,
        class_names=class_names,
        flip=True,
    )


def _pair(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images (n, 3, 96, 96), stored column by column, and labels (n,), stored from 1."""
    pixels = np.fromfile(folder / f"{part}_X.bin", dtype=np.uint8)
    labels = np.fromfile(folder / f"{part}_y.bin", dtype=np.uint8)
    if len(pixels) % (3 * SIDE * SIDE) or not len(pixels):
        raise InputError(
            f"{folder / f'{part}_X.bin'} is damaged: {len(pixels)} bytes are not whole images of "
            f"{3 * SIDE * SIDE:,}. Delete the folder to have it made anew."
        )
    images = torch.from_numpy(pixels).view(-1, 3, SIDE, SIDE).transpose(2, 3).contiguous()
    return images, torch.from_numpy(labels).to(torch.int64) - 1
