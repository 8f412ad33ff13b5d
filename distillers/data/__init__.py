"""Datasets by name, and the loader that makes batches of them."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from distillers.errors import InputError, unknown

if TYPE_CHECKING:
    from distillers.data.batch import Batch as Batch
    from distillers.data.images import HeldOut as HeldOut
    from distillers.data.images import ImageSet as ImageSet
    from distillers.data.images import hold_out as hold_out
    from distillers.data.loader import Loader as Loader

# name: the module that holds the function of that name
_SETS = {
    "cifar10": "distillers.data.cifar",
    "cifar100": "distillers.data.cifar",
    "digits": "distillers.data.digits",
    "fashionmnist": "distillers.data.fashionmnist",
}

# What needs torch is imported when it is first asked for: `names` must answer at once.
_LAZY = {
    "Batch": "distillers.data.batch",
    "HeldOut": "distillers.data.images",
    "ImageSet": "distillers.data.images",
    "Loader": "distillers.data.loader",
    "hold_out": "distillers.data.images",
}


def names() -> tuple[str, ...]:
    """The datasets that `load` knows, in alphabetical order."""
    return tuple(sorted(_SETS))


def load(name: str, data_dir: str | Path = "./data", download: bool = True) -> "ImageSet":
    """Read a dataset into memory.

    Args:
        name: one of `names()`.
        data_dir: where the files lie, or will lie once downloaded.
        download: whether files that are missing may be fetched from their official address.

    Raises:
        InputError: if there is no such dataset, its files are missing and cannot be fetched, or
            they are damaged; the message says what to do.
    """
    if name not in _SETS:
        raise unknown("dataset", name, _SETS)
    folder = Path(data_dir).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"data_dir {str(data_dir)!r} is a file; it must be a folder.")
    return getattr(import_module(_SETS[name]), name)(folder, download)


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
