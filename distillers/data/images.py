"""A dataset of small images that lies in memory as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from distillers.errors import InputError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Training and test images with all that a loader must know about them.

    Attributes:
        name: as in `distillers.data.load`.
        train_images: (N, c, h, w) uint8; c is 1 (grey) or 3 (red, green, blue).
        train_labels: (N,) int64, 0 to `num_classes` - 1.
        test_images: (M, c, h, w) uint8.
        test_labels: (M,) int64.
        mean: c numbers, the mean of this set's own training pixels, where 0 is black and 1 white.
        std: c numbers, the standard deviation of the same.
        class_names: one a class, in the order of the labels.
        flip: whether a mirrored image still belongs to its class.

    Raises:
        InputError: if shapes, types, lengths or labels do not fit together.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    flip: bool

    def __post_init__(self) -> None:
        _check(f"{self.name}, training", self.train_images, self.train_labels, self.num_classes)
        _check(f"{self.name}, test", self.test_images, self.test_labels, self.num_classes)
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise InputError(
                f"{self.name}: training images are {tuple(self.train_images.shape[1:])} and test "
                f"images {tuple(self.test_images.shape[1:])}; they must have one shape."
            )
        channels = self.train_images.shape[1]
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise InputError(
                f"{self.name}: mean {self.mean} and std {self.std} must hold one number for each "
                f"of the {channels} channels, and each std must be positive."
            )

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def keep(self, rows: Tensor) -> "ImageSet":
        """The same set with only some of its training images; the test images all stay.

        Args:
            rows: (m,) int64 rows of the training set, in the order wanted.
        """
        return replace(
            self, train_images=self.train_images[rows], train_labels=self.train_labels[rows]
        )


class HeldOut(NamedTuple):
    """A training set of which a part is set aside.

    Attributes:
        train: the set with the remaining m training images; its rows count from 0 again, so that
            whatever keeps one entry an image (a memory bank) holds none that is never visited.
        images: (v, c, h, w) uint8, the validation images.
        labels: (v,) int64, their labels.
        train_rows: (m,) int64, where each remaining image stood before, ascending.
        rows: (v,) int64, where each validation image stood before, ascending.
    """

    train: ImageSet
    images: Tensor
    labels: Tensor
    train_rows: Tensor
    rows: Tensor


def hold_out(image_set: ImageSet, fraction: float, seed: int) -> HeldOut:
    """Set aside a part of the training images for validation, the same share of every class.

    The total is `fraction` of the images, rounded; a class gives its exact share rounded down or
    up. Which images go is a pure function of `seed`.

    Args:
        image_set: the set to split; it is left as it was.
        fraction: share of the training images to set aside, from 0 (none) to below 1.
        seed: any whole number.

    Raises:
        InputError: if `fraction` is outside [0, 1), so small that no image would be set aside, or
            so large that no image would stay.
    """
    labels = image_set.train_labels
    if not 0 <= fraction < 1:
        raise InputError(f"fraction to hold out is {fraction}; it must be in [0, 1).")
    total = round(fraction * len(labels))
    if fraction > 0 and not 0 < total < len(labels):
        raise InputError(
            f"holding out {fraction} of {len(labels)} training images would set aside {total}; "
            "both parts need at least one."
        )
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=rng)
    counts = _shares(torch.bincount(labels, minlength=image_set.num_classes).tolist(), total)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(counts):
        chosen[order[labels[order] == label][:count]] = True
    rows, train_rows = chosen.nonzero().flatten(), (~chosen).nonzero().flatten()
    train = image_set.keep(train_rows) if total else image_set
    return HeldOut(train, image_set.train_images[rows], labels[rows], train_rows, rows)


def _shares(sizes: Sequence[int], total: int) -> list[int]:
    """Divide `total` among classes in proportion to their sizes, by largest remainder."""
    whole = sum(sizes)
    counts = [size * total // whole for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -(sizes[i] * total % whole))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def check_pair(what: str, images: Tensor, labels: Tensor) -> None:
    """Refuse images and labels that cannot belong together, or are none at all.

    Args:
        what: begins the message.
        images: should be (N, c, h, w) uint8, N at least 1, c 1 or 3.
        labels: should be (N,) int64.

    Raises:
        InputError: if they are not.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            f"{what}: images are {tuple(images.shape)} {images.dtype}; "
            "they must be (N, 1 or 3, h, w) torch.uint8."
        )
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise InputError(
            f"{what}: labels are {tuple(labels.shape)} {labels.dtype}; "
            "they must be (N,) torch.int64."
        )
    if len(images) != len(labels):
        raise InputError(f"{what}: there are {len(images)} images but {len(labels)} labels.")
    if images.numel() == 0:
        raise InputError(f"{what}: there are no images.")


def _check(what: str, images: Tensor, labels: Tensor, num_classes: int) -> None:
    check_pair(what, images, labels)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise InputError(
            f"{what}: labels reach from {low} to {high}; with {num_classes} classes they must be "
            f"in 0 to {num_classes - 1}."
        )
