"""The handwritten digits that come with scikit-learn: real images, nothing to download."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from distillers.data.datasets.images import ImageSet

# Mean and standard deviation of all pixels of the 1,297 upsampled training images, divided by 255,
# in float64 (population standard deviation); tests/data/test_digits.py recomputes them.
MEAN = (0.30586,)
STD = (0.32297,)
NUM_TRAIN = 1297


def digits(data_dir: Path, download: bool) -> ImageSet:  # noqa: ARG001 (nothing to fetch)
    """Load the 1,797 digits of UCI's "optical recognition of handwritten digits" (Alpaydin, 1998).

    The first 1,297 are for training and the last 500 for testing. The file is sorted by writer, so
    the test images are mostly by other writers than the training images; a random split would mix
    them and overestimate accuracy. It also needs no seed.

    The 8x8 counts, 0 to 16, are scaled to 0 to 255 and upsampled bilinearly to 32x32, the input
    size of networks for CIFAR. All intermediate values are exact in float32, so every machine gets
    the same bytes.
    """
    counts, classes = _read()
    small = torch.as_tensor(counts, dtype=torch.float32).view(-1, 1, 8, 8) * (255 / 16)
    images = F.interpolate(small, size=(32, 32), mode="bilinear").round().to(torch.uint8)
    labels = torch.as_tensor(classes, dtype=torch.int64)
    train = images[:NUM_TRAIN], labels[:NUM_TRAIN]
    test = images[NUM_TRAIN:], labels[NUM_TRAIN:]
    return ImageSet("digits", *train, *test, MEAN, STD, tuple("0123456789"), flip=False)


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Return the counts (n, 64) and the classes (n,), without a second for importing sklearn."""
    spec = find_spec("sklearn")
    folders = spec.submodule_search_locations if spec else None
    for path in (Path(folder) / "datasets" / "data" / "digits.csv.gz" for folder in folders or ()):
        if path.is_file():
            table = np.loadtxt(path, delimiter=",")
            return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits  # a version that has the file elsewhere

    found: Any = load_digits(return_X_y=True)
    return found
