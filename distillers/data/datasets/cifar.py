"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): 50,000 + 10,000 photographs of 32x32 pixels.

https://www.cs.toronto.edu/~kriz/cifar.html
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distillers.data.datasets.download import report_unverified, unpacked_folder
from distillers.data.datasets.images import ImageSet
from distillers.data.datasets.pickles import as_text, read
from distillers.errors import InputError


@dataclass(frozen=True)
class _Edition:
    name: str
    folder: str
    url: str
    md5: str
    label_key: str
    names_key: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    sums: dict[str, str]  # published MD5 checksums: training files, test file, names of classes


# CIFAR-10's mean and standard deviation are those of all pixels of the 50,000 training images,
# divided by 255, in float64 (population standard deviation; tests/data/test_cifar.py recomputes
# them). CIFAR-100's are the usual rounded ones, which published results were obtained with.
_CIFAR10 = _Edition(
    name="cifar10",
    folder="cifar-10-batches-py",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    label_key="labels",
    names_key="label_names",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    sums={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
)
_CIFAR100 = _Edition(
    name="cifar100",
    folder="cifar-100-python",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    label_key="fine_labels",
    names_key="fine_label_names",
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
    sums={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
)


def cifar10(data_dir: Path, download: bool) -> ImageSet:
    """Load CIFAR-10, the Python version, from `data_dir/cifar-10-batches-py` or its archive."""
    return _load(_CIFAR10, data_dir, download)


def cifar100(data_dir: Path, download: bool) -> ImageSet:
    """Load CIFAR-100 with its fine labels from `data_dir/cifar-100-python` or its archive."""
    return _load(_CIFAR100, data_dir, download)


def _load(edition: _Edition, data_dir: Path, download: bool) -> ImageSet:
    folder = unpacked_folder(
        edition.name, data_dir / edition.folder, edition.url, edition.md5, edition.sums, download
    )
    *train_files, test_file, names_file = edition.sums
    names = read(folder / names_file).get(edition.names_key)
    if not isinstance(names, list) or not names:
        raise _damaged(folder / names_file, f"it has no {edition.names_key!r}")
    parts = [_batch(edition, folder / file, len(names)) for file in train_files]
    report_unverified(edition.name, folder, edition.sums)
    train_images, train_labels = zip(*parts, strict=True)
    train = torch.cat(train_images), torch.cat(train_labels)
    test = _batch(edition, folder / test_file, len(names))
    class_names = tuple(map(as_text, names))
    return ImageSet(edition.name, *train, *test, edition.mean, edition.std, class_names, flip=True)


def _batch(edition: _Edition, path: Path, num_classes: int) -> tuple[Tensor, Tensor]:
    """Read images (n, 3, 32, 32) uint8 and labels (n,) int64 of one file."""
    content = read(path)
    pixels, labels = content.get("data"), content.get(edition.label_key)
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise _damaged(path, "it has no 'data' of 3,072 bytes per image")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise _damaged(path, f"it has no list of numbers {edition.label_key!r}")
    if not labels or len(labels) != len(pixels):
        raise _damaged(path, f"it has {len(pixels)} images and {len(labels)} labels")
    if min(labels) < 0 or max(labels) >= num_classes:
        raise _damaged(
            path, f"its labels range from {min(labels)} to {max(labels)}, of {num_classes} classes"
        )
    images = torch.from_numpy(pixels.copy()).view(-1, 3, 32, 32)
    return images, torch.tensor(labels, dtype=torch.int64)


def _damaged(path: Path, why: str) -> InputError:
    return InputError(
        f"{path} is damaged: {why}. Delete the folder {path.parent} to download it again."
    )
