"""Fashion-MNIST (Xiao et al., 2017): 60,000 + 10,000 grey images of clothes.

https://github.com/zalandoresearch/fashion-mnist
"""

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from distillers.data.datasets.download import download_lock, fetch
from distillers.data.datasets.images import ImageSet
from distillers.errors import InputError, complain

URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
MAX_SIZE = 1 << 28  # bytes of an unpacked file; the official ones have up to 47,040,016
CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
# Mean and standard deviation of all pixels of the 60,000 training images after padding to 32x32,
# divided by 255, in float64 (population standard deviation); tests/data/test_fashionmnist.py
# recomputes them. (Without the padding: 0.2860 and 0.3530.)
MEAN = (0.2190,)
STD = (0.3318,)


def fashionmnist(data_dir: Path, download: bool) -> ImageSet:
    """Load Fashion-MNIST, zero-padded from 28x28 to 32x32 pixels.

    The four files, compressed (.gz) or not, are looked for in `data_dir/FashionMNIST/raw`, in
    `data_dir`, and where Debian's package `dataset-fashion-mnist` installs them.
    """
    folder = _folder(data_dir, download)
    unpacked = [name for name in MD5 if (folder / name).is_file()]
    if unpacked:
        complain(
            f"fashionmnist is not verified: {', '.join(unpacked)} in {folder} are unpacked, and "
            "have no checksum. Use the .gz files to have them verified.",
        )
    train, test = _pair(folder, "train"), _pair(folder, "t10k")
    return ImageSet("fashionmnist", *train, *test, MEAN, STD, CLASSES, flip=True)


def _folder(data_dir: Path, download: bool) -> Path:
    """Return the first folder that holds all four files; download them if there is none."""
    own = data_dir / "FashionMNIST" / "raw"
    folders = (own, data_dir, DEBIAN)
    for folder in folders:
        if all(_find(folder, name) for name in MD5):
            return folder
    if not download:
        raise InputError(
            f"fashionmnist is not in {', '.join(map(str, folders))}: none of them holds all of "
            f"{', '.join(MD5)} (.gz). Run `apt-get install dataset-fashion-mnist` on Debian or "
            f"Ubuntu, fetch the files from {URL} into {own}, or allow the download."
        )
    with download_lock(data_dir):
        for name, md5 in MD5.items():
            if not _find(own, name):
                fetch(f"{URL}/{name}.gz", own / f"{name}.gz", md5)
    return own


def _find(folder: Path, name: str) -> Path | None:
    """Return the path of a file, compressed or not, or None."""
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _pair(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Read images (n, 1, 32, 32) uint8 and labels (n,) int64 of the training or test part."""
    images = _read(folder, f"{part}-images-idx3-ubyte", num_dims=3)
    labels = _read(folder, f"{part}-labels-idx1-ubyte", num_dims=1)
    if images.shape[1:] != (28, 28):
        raise InputError(
            f"the images of {folder} have {images.shape[1]}x{images.shape[2]} pixels; "
            "Fashion-MNIST's have 28x28."
        )
    if len(labels) != len(images) or labels.max() >= len(CLASSES):
        raise _damaged(
            _find(folder, f"{part}-labels-idx1-ubyte") or folder,
            f"it has {len(labels)} labels up to {labels.max()} for {len(images)} images of "
            f"{len(CLASSES)} classes",
        )
    return F.pad(images[:, None], (2, 2, 2, 2)), labels.to(torch.int64)


def _read(folder: Path, name: str, num_dims: int) -> Tensor:
    """Read an IDX file: 0, 0, 8 (bytes), number of dimensions, sizes (big-endian), data."""
    path = _find(folder, name) or folder / name
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = bytearray(stream.read(MAX_SIZE + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    if len(content) > MAX_SIZE:
        raise _damaged(path, f"it has more than {MAX_SIZE:,} bytes")
    start = 4 + 4 * num_dims
    if len(content) <= start or content[:4] != bytes((0, 0, 8, num_dims)):
        raise _damaged(path, "it does not begin as an idx file of bytes does")
    sizes = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    if math.prod(sizes) != len(content) - start:
        raise _damaged(
            path, f"its header announces {math.prod(sizes)} bytes, it has {len(content) - start}"
        )
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).view(sizes)


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged: {why}. Delete it to download it again.")
