"""Images in folders: your own, ImageNet (Russakovsky et al., 2015), Tiny ImageNet."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import torch

from distillers.config.data import DecodeOptions
from distillers.data.datasets.distinct import check_distinct, comparable, warn_of_shared_folders
from distillers.data.datasets.folder_set import FolderSet
from distillers.data.datasets.listing import (
    Listing,
    PathList,
    class_folders,
    composed,
    first_few,
    image_files,
    list_classes,
    no_classes,
)
from distillers.data.datasets.parts import (
    check_splittable,
    find_parts,
    has_train,
    is_part,
    report_parts,
    wrong_layout,
)
from distillers.data.held_out import held_out_rows
from distillers.errors import InputError, complain


def folder(data_dir: Path, reading: DecodeOptions) -> FolderSet:
    """Open `data_dir/train/CLASS/...` and `data_dir/val/CLASS/...`; 224 pixels.

    The folders may also be called training, and valid, validation, test or testing, in any case.
    Without a folder of test images, `data_dir/CLASS/...` or `data_dir/train/CLASS/...`: then
    `reading.val_fraction` of the images, the same ones in every run, are the test images.

    Raises:
        InputError: for another layout; the message lists what was found.
    """
    _require_folder(data_dir)
    train, tests = find_parts(data_dir)
    by_name = _tests_by_name(data_dir, train, tests, reading)
    if by_name is not None:
        return by_name
    if train is None and tests:
        raise InputError(
            f"{data_dir} has {tests[0].name}/ but no folder of training images; put them into "
            f"{data_dir}/train/CLASS/."
        )
    if train is not None:
        return _train_and_test(data_dir, "folder", reading, 224)
    if not class_folders(data_dir):
        raise no_classes(data_dir)
    if not reading.val_fraction:
        raise wrong_layout(
            data_dir, "train/ and val/ (or test/)", "--val_fraction, as in 0.1, splits"
        )
    check_splittable(data_dir)
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
    test = _list_annotated(found / "val" / "images", annotations, train.class_names)
    _check_classes(train, _present(test), found / "train", annotations)
    return folder_set("tinyimagenet", train, test, reading, 64)


def _list_annotated(root: Path, annotations: Path, class_names: tuple[str, ...]) -> Listing:
    """List the images of one folder, with their classes from a file of lines NAME CLASS ...

    Raises:
        InputError: if a line names an unknown class or file, or a file has no line.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    labels: dict[str, int] = {}
    try:
        lines = [line for line in annotations.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {annotations} ({error}).") from error
    for row, line in enumerate(lines, start=1):
        words = line.split()
        if len(words) < 2 or words[1] not in numbers:
            raise InputError(
                f"{annotations}, line {row}, reads {line[:60]!r}; it must begin with the name of "
                "an image and a class that is in train/."
            )
        if labels.setdefault(words[0], numbers[words[1]]) != numbers[words[1]]:
            raise InputError(f"{annotations}, line {row}, assigns a second class to {words[0]}.")
    found = list(image_files(root, "", []))
    lacking, extra = sorted(set(found) - set(labels)), sorted(set(labels) - set(found))
    if lacking or extra or not found:
        raise InputError(
            f"{annotations} and the images in {root} do not match: {len(lacking)} "
            f"images have no line ({first_few(lacking)}), {len(extra)} lines no image "
            f"({first_few(extra)})."
        )
    order = torch.tensor([labels[name] for name in found], dtype=torch.int64)
    return Listing(PathList(root, found), order, class_names)


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
        complain(f"{root} has no image of class {first_few(missing)}")
    nothing = (torch.arange(len(test.labels)), torch.arange(0))
    return folder_set("folder", test, test, reading, 224, nothing)


def _train_and_test(root: Path, name: str, reading: DecodeOptions, size: int) -> FolderSet:
    train_dir, tests = find_parts(root)
    if train_dir is None:
        raise InputError(f"{root} has no folder of training images ({root}/train).")
    if not tests and reading.val_fraction and name == "folder":
        report_parts(root, train_dir, None)
        return _split(train_dir, reading)
    if not tests:
        flat = list(filter(is_part, class_folders(root)))
        if flat != [train_dir.name]:
            flat.remove(train_dir.name)
            raise no_classes(root / flat[0])
        advice = ", or add --val_fraction 0.1" if name == "folder" else ""
        raise InputError(
            f"{root} has {train_dir.name}/ but neither val/ nor test/; put the test images "
            f"there{advice}."
        )
    report_parts(root, train_dir, tests[0])
    train, test = list_classes(train_dir), list_classes(tests[0])
    check_distinct(train_dir, train.class_names)
    warn_of_shared_folders(train_dir, tests[0])
    _check_classes(train, test.class_names, train_dir, tests[0])
    return folder_set(name, train, test, reading, size)


def _split(root: Path, reading: DecodeOptions) -> FolderSet:
    listing = list_classes(root)
    check_distinct(root, listing.class_names)
    rows = held_out_rows(listing.labels, len(listing.class_names), reading.val_fraction, seed=0)
    return folder_set("folder", listing, listing, reading, 224, rows)


def folder_set(
    name: str,
    train: Listing,
    test: Listing,
    reading: DecodeOptions,
    size: int,
    rows: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> FolderSet:
    """Return the data set of listed files; `rows` are those of test and training in one listing."""
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
    same = set(map(comparable, ours)) == set(map(comparable, theirs))
    hint = " They differ only in upper and lower case, spaces or forms of letters." if same else ""
    raise InputError(f"training and test images have different classes: {'; '.join(lines)}.{hint}")


def _present(listing: Listing) -> list[str]:
    return [listing.class_names[number] for number in listing.labels.unique().tolist()]


def _find(data_dir: Path, names: Sequence[str], dataset: str) -> Path:
    """Return the folder that has train/: `data_dir`, or one of `names` in it."""
    for found in (data_dir, *(data_dir / name for name in names)):
        if found.is_dir() and has_train(found):
            return found
    _require_folder(data_dir)
    raise wrong_layout(
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
