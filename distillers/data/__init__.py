"""Datasets by name, and their loaders."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from distillers.config.data import DecodeOptions as DecodeOptions
from distillers.errors import InputError, unknown

if TYPE_CHECKING:
    from distillers.data.batch import Batch as Batch
    from distillers.data.datasets.images import HeldOut as HeldOut
    from distillers.data.datasets.images import ImageSet as ImageSet
    from distillers.data.datasets.images import hold_out as hold_out
    from distillers.data.loaders.memory import Loader as Loader
    from distillers.data.source import DataSource as DataSource

# Datasets in memory: the module that has the function of that name.
_SETS = {
    "cifar10": "distillers.data.datasets.cifar",
    "cifar100": "distillers.data.datasets.cifar",
    "digits": "distillers.data.datasets.digits",
    "fashionmnist": "distillers.data.datasets.fashionmnist",
    "stl10": "distillers.data.datasets.stl10",
}
# Datasets that are decoded from files.
_FOLDERS = {
    "folder": "distillers.data.datasets.folder",
    "imagenet": "distillers.data.datasets.folder",
    "tinyimagenet": "distillers.data.datasets.folder",
}

# Imported on first use, because they import torch and `names` must be fast.
_LAZY = {
    "Batch": "distillers.data.batch",
    "DataSource": "distillers.data.source",
    "HeldOut": "distillers.data.datasets.images",
    "ImageSet": "distillers.data.datasets.images",
    "Loader": "distillers.data.loaders.memory",
    "hold_out": "distillers.data.datasets.images",
}


def names() -> tuple[str, ...]:
    """Return the names of all datasets, in alphabetical order."""
    return tuple(sorted(_SETS | _FOLDERS))


def load(name: str, data_dir: str | Path = "./data", download: bool = True) -> "ImageSet":
    """Read a dataset into memory.

    Args:
        name: one of `names()` that fits into memory.
        data_dir: folder of the files, or to download to.
        download: whether missing files may be downloaded from their official address.

    Raises:
        InputError: if there is no such dataset, or its files are missing and cannot be downloaded,
            or are damaged; the message has what to do.
    """
    if name in _FOLDERS:
        raise InputError(
            f"{name} does not fit into memory; use distillers.data.source_of({name!r})."
        )
    folder = _folder(name, data_dir)
    return getattr(import_module(_SETS[name]), name)(folder, download)


def source_of(
    name: str,
    data_dir: str | Path = "./data",
    download: bool = True,
    reading: DecodeOptions = DecodeOptions(),
) -> "DataSource":
    """Open a dataset to train and evaluate on, in memory or decoded from files.

    Args:
        name: one of `names()`.
        data_dir: folder of the files, or to download to.
        download: whether missing files may be downloaded from their official address.
        reading: how image files are read; of it, datasets in memory use `image_size` only.

    Raises:
        InputError: as `load`; or if folders or label files are inconsistent.
    """
    folder = _folder(name, data_dir)
    if name in _FOLDERS:
        return getattr(import_module(_FOLDERS[name]), name)(folder, reading)
    images = load(name, data_dir, download)
    if reading.dali is not None:
        raise InputError(
            f"--dali {reading.dali} decodes image files, but {name} is a dataset in memory, "
            f"where nothing is decoded; it is for {', '.join(_FOLDERS)}."
        )
    side = reading.image_size or images.image_size
    return images if side == images.image_size else images.resized(side)


def _folder(name: str, data_dir: str | Path) -> Path:
    if name not in names():
        raise unknown("dataset", name, names())
    folder = Path(data_dir).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"data_dir {str(data_dir)!r} is a file; it must be a folder.")
    return folder


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
