"""Training images without labels: a folder of them, or images of a data set without theirs."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from distillers.config.data import REST, DecodeOptions, LabelOptions, OnBad
from distillers.data.datasets.folder import folder_set
from distillers.data.datasets.folder_set import FolderSet
from distillers.data.datasets.images import ImageSet
from distillers.data.datasets.listing import Listing, PathList, first_few, list_images
from distillers.data.label_mix import UNLABELLED
from distillers.data.loaders.decode import read, resize_center_crop
from distillers.data.sampling import generator, occurrences
from distillers.data.source import DataSource
from distillers.errors import InputError, complain

MIN_IMAGES = 20  # of a run without labels
MAX_HELD_OUT = 1000  # images, by default


def rows_of_few_labels(
    labels: Tensor, class_names: Sequence[str], per_class: int, seed: int
) -> Tensor:
    """Return `per_class` random rows, perhaps 0, of each class that has images, ascending.

    The same seed with more per class keeps these.

    Raises:
        InputError: if a class has some images, but fewer.
    """
    counts = labels[labels >= 0].bincount(minlength=len(class_names))
    least = int(counts[counts > 0].min())
    if per_class > least:
        few = [class_names[label] for label in (counts == least).nonzero().flatten().tolist()]
        raise InputError(
            f"--labels_per_class is {per_class}, but the number of training images of class "
            f"{first_few(few)} is {least}; it may be at most that."
        )
    known = (labels >= 0).nonzero().flatten()
    order = known[torch.randperm(len(known), generator=generator(f"labels {seed}", 0))]
    return order[occurrences(labels[order]) < per_class].sort().values


def apply_label_options(source: DataSource, options: LabelOptions, on_bad: OnBad) -> DataSource:
    """Return a data set whose training images have the labels that the options ask for.

    Raises:
        InputError: if they do not fit the data set; or for an image, see `with_unlabelled`.
    """
    if options.unlabelled not in (None, REST):
        source = with_unlabelled(source, Path(options.unlabelled), on_bad)
    if options.per_class is not None:
        is_rest = options.unlabelled == REST
        source = with_few_labels(source, options.per_class, options.seed, is_rest)
    if options.share is not None:
        source = source.with_unlabelled_share(options.share)
    return source


def only_unlabelled(folder: Path, options: DecodeOptions) -> FolderSet:
    """Return the images of a folder as a data set without classes and labels.

    A share of `options.val_fraction` (by default a tenth, at most 1,000 images), the same in every
    run, are the test images, on which a student is compared with its teacher.

    Raises:
        InputError: if there are fewer than 20 images.
    """
    paths = list_images(folder)
    count = len(paths)
    if count < MIN_IMAGES:
        raise InputError(f"{folder} has {count} images; at least {MIN_IMAGES} are needed.")
    share = options.val_fraction
    held_out = round(share * count) if share else min(round(count / 10), MAX_HELD_OUT)
    held_out = min(max(held_out, 2), count - 2)
    order = torch.randperm(count, generator=generator("unlabelled", 0))
    listing = Listing(paths, torch.full((count,), UNLABELLED), ())
    print(f"{folder}: {held_out:,} of {count:,} images are held out to compare with the teacher")
    rows = order[:held_out].sort().values, order[held_out:].sort().values
    return folder_set("unlabelled", listing, listing, options, 224, rows)


def with_few_labels(source: DataSource, per_class: int, seed: int, keep_rest: bool) -> DataSource:
    """Return a data set of which `per_class` training images of each class have labels.

    With `keep_rest` the other training images stay, without labels. Images that have no label stay
    in any case. For `seed` see `rows_of_few_labels`.

    Raises:
        InputError: if a class has fewer images, or no training image is left.
    """
    labels = source.train_labels
    rows = rows_of_few_labels(labels, source.class_names, per_class, seed)
    if not keep_rest:
        rows = torch.cat([rows, (labels < 0).nonzero().flatten()])
        if not len(rows):
            raise InputError(f"--labels_per_class {per_class} leaves no training image.")
        return source.keep(rows)
    few = torch.full_like(labels, UNLABELLED)
    few[rows] = labels[rows]
    return source.relabelled(few)


def with_unlabelled(source: DataSource, folder: Path, on_bad: OnBad) -> DataSource:
    """Return a data set with the images below a folder as further training images without labels.

    For a data set in memory, `on_bad` "error" stops at an image that cannot be read, "skip" prints
    how many there are.

    Raises:
        InputError: if the folder has no image, or for one that cannot be read.
    """
    paths = list_images(folder)
    if isinstance(source, ImageSet):
        return _in_memory(source, paths, on_bad)
    assert isinstance(source, FolderSet)  # there is no other kind
    root = os.path.realpath(source.train.paths.root)
    below = os.path.relpath(os.path.realpath(folder), root)
    names = [
        os.fsdecode(name) for name in source.train.paths.below(range(len(source.train.labels)))
    ]
    more = [os.path.join(below, os.fsdecode(name)) for name in paths.below(range(len(paths)))]
    none = torch.full((len(more),), UNLABELLED)
    listing = Listing(
        PathList(Path(root), [*names, *more]),
        torch.cat([source.train.labels, none]),
        source.class_names,
    )
    rows = torch.cat([source.train_rows, len(names) + torch.arange(len(more))])
    return replace(source, train=listing, train_rows=rows)


def _in_memory(source: ImageSet, paths: PathList, on_bad: OnBad) -> ImageSet:
    """Decode all images at the size of a data set in memory."""
    side, channels = source.image_size, source.train_images.shape[1]
    images, bad = [], []
    for number in range(len(paths)):
        try:
            image = read(paths[number])
            if image.shape[-2:] != (side, side):
                image = resize_center_crop(image, side, side)
        except InputError as error:
            if on_bad == "error":
                raise InputError(f"{error} --on_bad_image skip continues without it.") from error
            bad.append(str(error))
            continue
        images.append(image if channels == 3 else _grey(image))
    if bad:
        complain(f"{len(bad)} bad images were left out: {first_few(bad)}")
    if not images:
        raise InputError(f"no image of {paths.root} can be read.")
    none = torch.full((len(images),), UNLABELLED)
    return replace(
        source,
        train_images=torch.cat([source.train_images, torch.stack(images)]),
        train_labels=torch.cat([source.train_labels, none]),
    )


def _grey(image: Tensor) -> Tensor:
    """Return (1, h, w) uint8, the luma of (3, h, w) by ITU-R 601."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (image.float() * weights).sum(0, keepdim=True).round().to(torch.uint8)
