"""Images in folders: your own, ImageNet (Russakovsky et al., 2015), Tiny ImageNet."""

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from distillers.config.data import DecodeOptions
from distillers.data.datasets.folder_set import FolderSet
from distillers.data.datasets.listing import (
    Listing,
    class_folders,
    composed,
    first_few,
    list_annotated,
    list_classes,
)
from distillers.data.held_out import held_out_rows
from distillers.errors import InputError

# Names of the folders of training and of test images, in any case; the first that exists is used.
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("val", "valid", "validation", "test", "testing")


def folder(data_dir: Path, reading: DecodeOptions) -> FolderSet:
    """Open `data_dir/train/CLASS/...` and `data_dir/val/CLASS/...`; 224 pixels.

    The folders may also be called training, and valid, validation, test or testing, in any case.
    Without a folder of test images, `data_dir/CLASS/...` or `data_dir/train/CLASS/...`: then
    `reading.val_fraction` of the images, the same ones in every run, are the test images.

    Raises:
        InputError: for another layout; the message lists what was found.
    """
    _require_folder(data_dir)
    train, tests = _parts(data_dir)
    by_name = _tests_by_name(data_dir, train, tests, reading)
    if by_name is not None:
        return by_name
    if train is None and tests:
        raise InputError(
            f"{data_dir} has {tests[0].name}/ but no folder of training images ({data_dir}/train)."
        )
    if train is not None:
        return _train_and_test(data_dir, "folder", reading, 224)
    if not reading.val_fraction:
        raise _wrong_layout(
            data_dir, "train/ and val/ (or test/)", "--val_fraction, as in 0.1, splits"
        )
    return _split(data_dir, reading)


def imagenet(data_dir: Path, reading: DecodeOptions) -> FolderSet:
    """Open `train/n01440764/...` and `val/n01440764/...`, perhaps in `imagenet/`; 224 pixels.

    Raises:
        InputError: for another layout; the message lists what was found.
    """
    found = _find(data_dir, ("imagenet", "ImageNet", "ILSVRC2012"), "imagenet")
    return _train_and_test(found, "imagenet", reading, 224)


def tinyimagenet(data_dir: Path, reading: DecodeOptions) -> FolderSet:
    """Open `train/CLASS/images/*.JPEG`, `val/images/*.JPEG`, `val/val_annotations.txt`; 64 pixels.

    Raises:
        InputError: for another layout; the message lists what was found.
    """
    found = _find(data_dir, ("tiny-imagenet-200", "tinyimagenet"), "tinyimagenet")
    annotations = found / "val" / "val_annotations.txt"
    if not annotations.exists():  # sorted into one folder per class
        return _train_and_test(found, "tinyimagenet", reading, 64)
    train = list_classes(found / "train")
    test = list_annotated(found / "val" / "images", annotations, train.class_names)
    _check_classes(train, _present(test), found / "train", annotations)
    return _folder_set("tinyimagenet", train, test, reading, 64)


def _tests_by_name(
    data_dir: Path, train: Path | None, tests: list[Path], reading: DecodeOptions
) -> FolderSet | None:
    """Open test images of known classes without training images, or with only some classes."""
    known = reading.class_names
    if known is None or (not tests and (train or reading.val_fraction)):
        return None
    root = tests[0] if tests else data_dir
    if train and set(map(composed, class_folders(root))) == set(known):
        return None
    test = list_classes(root, known)
    missing = sorted(set(known) - set(_present(test)))
    if missing:
        print(f"{root} has no image of class {first_few(missing)}", file=sys.stderr)
    nothing = (torch.arange(len(test.labels)), torch.arange(0))
    return _folder_set("folder", test, test, reading, 224, nothing)


def _parts(root: Path) -> tuple[Path | None, list[Path]]:
    """Return the folder of training images and those of test images, best first.

    A folder with such a name is a part of the data set if it has folders. One with images only is a
    class if there are classes beside it.

    Raises:
        InputError: for two folders of training images, or parts without a folder per class.
    """
    folders = class_folders(root)
    named = [name for name in folders if name.casefold() in (*TRAIN_NAMES, *TEST_NAMES)]
    parts = [name for name in named if class_folders(root / name)]
    trains, tests = (
        sorted((n for n in parts if n.casefold() in known), key=lambda n: known.index(n.casefold()))
        for known in (TRAIN_NAMES, TEST_NAMES)
    )
    if len(trains) > 1:
        raise InputError(f"{root} has {' and '.join(trains)}, two folders of training images.")
    flat = [name for name in named if name not in parts]
    if flat and not trains:
        if len(named) == len(folders):
            raise _no_classes(root / flat[0])
        print(f"{root}: {', '.join(flat)} has no folders, so it is a class.", file=sys.stderr)
    return (root / trains[0] if trains else None), [root / name for name in tests]


def _has_train(root: Path) -> bool:
    return any(name.casefold() in TRAIN_NAMES for name in class_folders(root))


def _no_classes(part: Path) -> InputError:
    return InputError(
        f"{part} has no folder per class; the images of each class must be in a folder of their "
        f"own, as in {part}/CLASS/image.jpg."
    )


def _train_and_test(root: Path, name: str, reading: DecodeOptions, size: int) -> FolderSet:
    train_dir, tests = _parts(root)
    if train_dir is None:
        raise InputError(f"{root} has no folder of training images ({root}/train).")
    if not tests and reading.val_fraction and name == "folder":
        return _split(train_dir, reading)
    if not tests:
        flat = [name for name in class_folders(root) if name.casefold() in TEST_NAMES]
        if flat:
            raise _no_classes(root / flat[0])
        advice = ", or add --val_fraction 0.1" if name == "folder" else ""
        raise InputError(
            f"{root} has {train_dir.name}/ but neither val/ nor test/; put the test images "
            f"there{advice}."
        )
    _report_unread(root, {train_dir.name, tests[0].name}, tests[0].name)
    train, test = list_classes(train_dir), list_classes(tests[0])
    _check_classes(train, test.class_names, train_dir, tests[0])
    return _folder_set(name, train, test, reading, size)


def _report_unread(root: Path, used: set[str], test: str) -> None:
    """Print which folders beside those of training and test images are not read."""
    unread = [f"{name}/" for name in class_folders(root) if name not in used]
    if unread:
        print(
            f"{root}: {test}/ has the test images; {', '.join(unread)} "
            f"{'is' if len(unread) == 1 else 'are'} not read.",
            file=sys.stderr,
        )


def _split(root: Path, reading: DecodeOptions) -> FolderSet:
    listing = list_classes(root)
    rows = held_out_rows(listing.labels, len(listing.class_names), reading.val_fraction, seed=0)
    return _folder_set("folder", listing, listing, reading, 224, rows)


def _folder_set(
    name: str,
    train: Listing,
    test: Listing,
    reading: DecodeOptions,
    size: int,
    rows: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> FolderSet:
    """Create the dataset; `rows` are those of test and training if both are in one listing."""
    return FolderSet(
        name=name,
        train=train,
        test=test,
        train_rows=rows[1] if rows else torch.arange(len(train.labels)),
        test_rows=rows[0] if rows else torch.arange(len(test.labels)),
        image_size=reading.image_size or size,
        num_workers=reading.num_workers,
        on_bad_image=reading.on_bad_image,
        dali=reading.dali,
        is_split=rows is not None,
    )


def _check_classes(train: Listing, classes: Sequence[str], here: Path, there: Path) -> None:
    ours, theirs = set(train.class_names), set(classes)
    if ours == theirs:
        return
    lines = [
        f"{len(names)} only in {where}: {first_few(names)}"
        for where, names in ((here, sorted(ours - theirs)), (there, sorted(theirs - ours)))
        if names
    ]
    same = {name.casefold() for name in ours} == {name.casefold() for name in theirs}
    hint = " They differ only in upper and lower case." if same else ""
    raise InputError(f"training and test images have different classes: {'; '.join(lines)}.{hint}")


def _present(listing: Listing) -> list[str]:
    return [listing.class_names[number] for number in listing.labels.unique().tolist()]


def _find(data_dir: Path, names: Sequence[str], dataset: str) -> Path:
    """Return the folder that has train/: `data_dir`, or one of `names` in it."""
    for found in (data_dir, *(data_dir / name for name in names)):
        if found.is_dir() and _has_train(found):
            return found
    _require_folder(data_dir)
    raise _wrong_layout(
        data_dir, f"train/ and val/, nor a folder {names[0]}/ with them",
        f"`distillers data prepare {dataset} --from ARCHIVES --to {data_dir}` unpacks",
    )  # fmt: skip


def _require_folder(data_dir: Path) -> None:
    if data_dir.is_dir():
        return
    parent = data_dir.parent
    near: list[str] = []
    if parent.is_dir():
        near = difflib.get_close_matches(data_dir.name, class_folders(parent), n=1)
    hint = f", did you mean {parent / near[0]}?" if near else "."
    raise InputError(f"there is no folder {data_dir}{hint} Set it with --data_dir.")


def _wrong_layout(data_dir: Path, wanted: str, advice: str) -> InputError:
    inside = class_folders(data_dir)
    below = [name for name in inside if _has_train(data_dir / name)]
    if below:
        hint = f"did you mean --data_dir {data_dir / below[0]}?"
    elif data_dir.name.casefold() in (*TRAIN_NAMES, *TEST_NAMES):
        hint = f"did you mean --data_dir {data_dir.parent}?"
    else:
        hint = f"it has the folders {first_few(inside)}; {advice} what is there."
    return InputError(f"{data_dir} does not hold {wanted}; {hint}")
