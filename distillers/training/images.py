"""The images of a run: split, described, and compared with those of a run that is resumed."""

from typing import NamedTuple

import torch
from torch import Tensor

from distillers.config.sizes import pluralize
from distillers.config.train import TrainConfig
from distillers.data.copies import copies_in_other_classes, copies_of_test_images
from distillers.data.datasets.listing import first_few
from distillers.data.source import DataSource
from distillers.errors import InputError
from distillers.training.run_dir import RunDir

FEW = 4  # labelled images in a batch


class Splits(NamedTuple):
    """The images of a run.

    Attributes:
        train: its training images without those of `val`.
        val: its test images are those held out by --val_fraction; None without that flag.
        test: its test images.
    """

    train: DataSource
    val: DataSource | None
    test: DataSource


def split_images(source: DataSource, config: TrainConfig) -> Splits:
    """Hold out the share --val_fraction of the training images, the same ones for each --trial."""
    train, val = source.split(config.val_fraction, config.trial)
    return Splits(train, val, source)


def describe(splits: Splits, batch_size: int) -> list[str]:
    """Return lines with the classes and numbers of images, and warnings about them.

    `batch_size` is that of a step, over all processes.
    """
    names, labels = splits.test.class_names, splits.train.train_labels
    parts = {"training": labels[labels >= 0], splits.test.test_part: splits.test.test_labels}
    unlabelled = len(labels) - len(parts["training"])
    if splits.val:
        parts["validation"] = splits.val.test_labels
    counts = ", ".join(f"{len(labels):,} {part}" for part, labels in parts.items())
    counts += f", {unlabelled:,} training without labels" if unlabelled else ""
    known = f"{len(names)} classes ({first_few(list(names), 10)})" if names else "no classes"
    lines = [f"{known}; images: {counts}"]
    if unlabelled:
        lines += _unlabelled_warnings(splits.train, batch_size)
    lines += _copies(splits)
    if unlabelled == len(labels):
        del parts["training"]
    for part, labels in parts.items():
        missing = _missing(labels, names) if names else []
        if missing:
            lines.append(f"WARNING: no {part} image of class {first_few(missing)}")
    return lines


def _copies(splits: Splits) -> list[str]:
    """Return warnings about training images that are scored, or that two classes have."""
    lines = []
    for part, test in ((splits.test.test_part, splits.test), ("validation", splits.val)):
        copies = copies_of_test_images(splits.train, test) if test else []
        if copies:
            lines.append(
                f"WARNING: {pluralize(len(copies), 'training image')} also in the {part} set "
                f"(equal by hash), so the {part} accuracy will be too good: {first_few(copies)}"
            )
    if conflicts := copies_in_other_classes(splits.train):
        lines.append(
            f"WARNING: {pluralize(len(conflicts), 'training image')} in several classes (equal by "
            f"hash); keep each in one: {first_few(conflicts)}"
        )
    return lines


def _unlabelled_warnings(train: DataSource, batch_size: int) -> list[str]:
    labels = train.train_labels
    share = train.unlabelled_share or float((labels < 0).float().mean())
    each = batch_size * (1 - share)
    if share == 1 or each >= FEW:
        return []
    return [
        f"WARNING: only {each:.2g} images of each batch of {batch_size} have labels on average, so "
        "the losses that need them are noisy; --unlabelled_share 0.5, say, repeats the labelled "
        "images."
    ]


def check_same_images(run_dir: RunDir, digest: str) -> None:
    """Refuse to resume a run on other images."""
    known = run_dir.state.card.get("images") if run_dir.state else None
    if known is not None and known != digest:
        raise InputError(
            f"{run_dir.folder} began with other images or labels than the data set has now (files "
            "were added, removed, renamed or changed). Restore them, or start anew with "
            "--overwrite instead of --resume."
        )


def _missing(labels: Tensor, names: tuple[str, ...]) -> list[str]:
    counts = torch.bincount(labels, minlength=len(names))
    return [names[number] for number in (counts == 0).nonzero().flatten().tolist()]
