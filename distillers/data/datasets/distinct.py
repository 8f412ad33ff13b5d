"""Check that classes, and training and test images, are not the same folders or nearly one name."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from distillers.data.datasets.listing import class_folders, first_few
from distillers.errors import InputError, complain


def comparable(name: str) -> str:
    """Return a name without what people mix up: case, spaces and forms of letters."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def check_distinct(root: Path, classes: Iterable[str]) -> None:
    """Check that no two classes are one folder; print names that are nearly the same.

    Raises:
        InputError: if a symbolic link makes a class of the images of another.
    """
    folders: dict[str, str] = {}
    for name in class_folders(root):
        twin = folders.setdefault(os.path.realpath(root / name), name)
        if twin != name:
            raise InputError(
                f"{root / name} and {root / twin} are one folder by a symbolic link, so its images "
                "would have two classes; delete the link."
            )
    near = defaultdict(list)
    for name in classes:
        near[comparable(name)].append(name)
    for names in near.values():
        if len(names) > 1:
            complain(
                f"{root}: {first_few(list(map(repr, names)))} are {len(names)} classes, whose "
                "names differ only in case, spaces or forms of letters.",
            )


def warn_of_shared_folders(train: Path, test: Path) -> None:
    """Print a warning if test images are training images by symbolic links."""
    trained = {os.path.realpath(train / name) for name in class_folders(train)}
    shared = [n for n in class_folders(test) if os.path.realpath(test / n) in trained]
    if shared:
        complain(
            f"WARNING: {test}: the test images of {first_few(shared)} are training images, by "
            "symbolic links: their accuracy is that of images that were trained on.",
        )
