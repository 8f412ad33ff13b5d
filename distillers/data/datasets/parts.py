"""Which folders of a data set hold training and test images."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from distillers.data.datasets.listing import class_folders, first_few, no_classes
from distillers.errors import InputError, complain

# Names of the folders of training and of test images, in any case; the first that exists is used.
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("val", "valid", "validation", "test", "testing")
# Words in longer names, such as train_images, Test Set or val2017.
TRAIN_WORDS = (*TRAIN_NAMES, "trainval", "trn")
TEST_WORDS = (*TEST_NAMES, "dev", "eval", "evaluation", "tests", "tst")


def find_parts(root: Path) -> tuple[Path | None, list[Path]]:
    """Return the folder of training images and those of test images, best first.

    A folder with such a name is a part of the data set if it has folders. One with images only is a
    class if there are classes beside it.

    Raises:
        InputError: for two folders of training images, parts without a folder per class, or a
            symbolic link with such a name that leads nowhere.
    """
    _check_links(root)
    folders = class_folders(root)
    named = list(dict.fromkeys([*_matching(folders, TRAIN_WORDS), *_matching(folders, TEST_WORDS)]))
    parts = [name for name in named if class_folders(root / name)]
    trains = _matching(parts, TRAIN_NAMES, whole=True) or _matching(parts, TRAIN_WORDS)
    tests = _matching(parts, TEST_NAMES, whole=True)
    if trains and not tests:
        tests = [name for name in _matching(parts, TEST_WORDS) if name not in trains]
    if len(trains) > 1:
        raise InputError(
            f"{root} has {' and '.join(trains)}, two folders of training images; rename one."
        )
    if trains and not tests and not is_part(trains[0]):
        raise InputError(
            f"{root / trains[0]} has folders in it: rename it train if they are the classes, or "
            "move its images up if it is a class."
        )
    flat = [name for name in named if name not in parts]
    if flat and not trains:
        by_name = list(filter(is_part, flat))
        if set(named) == set(folders) and (by_name or _matching(flat, TRAIN_WORDS)):
            raise no_classes(root / flat[0])
        for name in by_name:
            complain(f"{root}: {name} has no folders, so it is a class.")
    return (root / trains[0] if trains else None), [root / name for name in tests]


def is_part(name: str) -> bool:
    """Return whether a name alone says that a folder holds training or test images."""
    return name.casefold() in (*TRAIN_NAMES, *TEST_NAMES)


def has_train(root: Path) -> bool:
    """Return whether a folder has a folder of training images."""
    return any(name.casefold() in TRAIN_NAMES for name in class_folders(root))


def check_splittable(root: Path) -> None:
    """Check that the folders in `root` may be classes; print if they look like parts.

    Raises:
        InputError: if there is none, or parts of the data set are in them.
    """
    inside = {name: class_folders(root / name) for name in class_folders(root)}
    below = [name for name in inside if has_train(root / name)]
    if len(below) > 1 or below == list(inside):
        raise wrong_layout(root, "a folder for each class", "")
    first, *others = inside.values()
    if len(first) > 1 and others and all(names == first for names in others):
        complain(
            f"WARNING: {root}: {first_few(list(inside))} are read as classes, but each has the "
            f"folders {first_few(first)}. If those are the classes, rename the outer ones train "
            "and val.",
        )


def report_parts(root: Path, train: Path, test: Path | None) -> None:
    """Print which folders are read, if their names leave doubt, and which are not."""
    parts = [train, test] if test else [train]
    tests = f"{test.name}/ has" if test else f"--val_fraction of {train.name}/ are"
    unread = [f"{name}/" for name in class_folders(root) if root / name not in parts]
    if all(is_part(part.name) for part in parts) and not unread:
        return
    verb = "is" if len(unread) == 1 else "are"
    more = f"; {first_few(unread)} {verb} not read" if unread else ""
    complain(
        f"{root}: {train.name}/ has the training images, {tests} the test images{more}.",
    )


def wrong_layout(data_dir: Path, wanted: str, advice: str) -> InputError:
    """Return the error for a folder that lacks what is `wanted`, with a hint where it may be.

    `advice` is a command or flag that reads what is there.
    """
    inside = class_folders(data_dir)
    below = [name for name in inside if has_train(data_dir / name)]
    if len(below) > 1:
        hint = (
            f"{first_few(below)} each have a folder of training images. If these are data sets, "
            f"choose one, as in --data_dir {data_dir / below[0]}; if they are classes, move their "
            f"images to {data_dir}/train/CLASS/ and {data_dir}/val/CLASS/."
        )
    elif below:
        hint = f"did you mean --data_dir {data_dir / below[0]}?"
    elif is_part(data_dir.name):
        hint = f"did you mean --data_dir {data_dir.parent}?"
    else:
        hint = f"it has the folders {first_few(inside)}; {advice} what is there."
    return InputError(f"{data_dir} does not hold {wanted}; {hint}")


def _matching(names: Iterable[str], words: tuple[str, ...], whole: bool = False) -> list[str]:
    """Return the names that are (`whole`) or have one of some words, those of the first first."""
    found: list[tuple[int, str]] = []
    for name in names:
        own = re.findall("[a-z]+", name.casefold())
        known = {name.casefold()} if whole else {word.removesuffix("set") for word in own}
        found += [(place, name) for place, word in enumerate(words) if word in known][:1]
    return [name for _, name in sorted(found)]


def _check_links(root: Path) -> None:
    """Check that no part is a symbolic link that leads nowhere, which would not be read."""
    for path in sorted(root.iterdir()):
        if is_part(path.name) and not os.path.exists(path):
            raise InputError(f"{path} is a dead symbolic link or a loop; delete it.")
