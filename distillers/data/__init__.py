"""Datasets by name, and the loader that makes batches of them."""

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

# name: the module that holds the function of that name
_SETS = {
    "cifar10": "distillers.data.datasets.cifar",
    "cifar100": "distillers.data.datasets.cifar",
    "digits": "distillers.data.datasets.digits",
    "fashionmnist": "distillers.data.datasets.fashionmnist",
    "stl10": "distillers.data.datasets.stl10",
}
# The same of those that stay in files.
_FOLDERS = {
    "folder": "distillers.data.datasets.folder",
    "imagenet": "distillers.data.datasets.folder",
    "tinyimagenet": "distillers.data.datasets.folder",
}

# What needs torch is imported when it is first asked for: `names` must answer at once.
_LAZY = {
    "Batch": "distillers.data.batch",
    "DataSource": "distillers.data.source",
    "HeldOut": "distillers.data.datasets.images",
    "ImageSet": "distillers.data.datasets.images",
    "Loader": "distillers.data.loaders.memory",
    "hold_out": "distillers.data.datasets.images",
}


def names() -> tuple[str, ...]:
    """The datasets that `source_of` knows, in alphabetical order."""
    return tuple(sorted(_SETS | _FOLDERS))


def load(name: str, data_dir: str | Path = "./data", download: bool = True) -> "ImageSet":
    """Read a dataset into memory.

    Args:
        name: one of `names()` but those that stay in files.
        data_dir: where the files lie, or will lie once downloaded.
        download: whether files that are missing may be fetched from their official address.

    Raises:
        InputError: if there is no such dataset, its files are missing and cannot be fetched, or
            they are damaged; the message says what to do.
    """
    if name in _FOLDERS:
        raise InputError(
            f"{name} does not fit into memory; take distillers.data.source_of({name!r})."
        )
    folder = _folder(name, data_dir)
    return getattr(import_module(_SETS[name]), name)(folder, download)


def source_of(
    name: str,
    data_dir: str | Path = "./data",
    download: bool = True,
    reading: DecodeOptions = DecodeOptions(),
) -> "DataSource":
    """What a run trains and is scored on: a set in memory, or one that is decoded from files.

    Args:
        name: one of `names()`.
        data_dir: where the files lie, or will lie once downloaded.
        download: whether files that are missing may be fetched from their official address.
        reading: how images in files are read; those in memory follow its `image_size` only.

    Raises:
        InputError: as `load`; or if files of classes or of images do not belong together.
    """
    folder = _folder(name, data_dir)
    if name in _FOLDERS:
        return getattr(import_module(_FOLDERS[name]), name)(folder, reading)
    images = load(name, data_dir, download)
    if reading.dali is not None:
        raise InputError(
            f"--dali {reading.dali} decodes images in files, but {name} lies in memory, where "
            f"nothing is decoded; leave it out, it is for {', '.join(_FOLDERS)}."
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
