"""A dataset of small images in memory."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from distillers.config.augmentation import Augmentation
from distillers.data.fingerprint import hash_labels, hash_tensors
from distillers.data.held_out import held_out_rows
from distillers.data.label_mix import UNLABELLED
from distillers.data.loaders.memory import PAD, Loader, check_images_and_labels
from distillers.data.loaders.views import VIEW_SEED, view_crops
from distillers.data.normalization import check_statistics
from distillers.data.sampling import generator
from distillers.data.source import (
    EVALUATION_BATCH,
    DataSource,
    TrainOptions,
    evaluation_batch_size,
)
from distillers.distributed.world import Shard
from distillers.errors import InputError


@dataclass(frozen=True, eq=False)
class ImageSet(DataSource):
    """Training and test images in memory, and how to normalize and augment them.

    Attributes:
        name: as in `distillers.data.load`.
        train_images: (N, c, h, w) uint8; c is 1 (grey) or 3 (red, green, blue).
        train_labels: (N,) int64, 0 to `num_classes` - 1; -1 for images without a label.
        test_images: (M, c, h, w) uint8.
        test_labels: (M,) int64.
        mean: c numbers, the mean of the training pixels, where 0 is black and 1 is white.
        std: c numbers, their standard deviation.
        class_names: one per class, in the order of the labels.
        flip: whether a mirrored image still belongs to its class.
        unlabelled_share: see `LabelMix`.
        augmentation: of the training images.

    Raises:
        InputError: if shapes, types, lengths or labels are inconsistent.
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
    unlabelled_share: float | None = None
    augmentation: Augmentation = Augmentation()

    def __post_init__(self) -> None:
        num = self.num_classes
        _check(f"{self.name}, training", self.train_images, self.train_labels, num, UNLABELLED)
        _check(f"{self.name}, test", self.test_images, self.test_labels, num)
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise InputError(
                f"{self.name}: training images are {tuple(self.train_images.shape[1:])} and test "
                f"images {tuple(self.test_images.shape[1:])}; they must have one shape."
            )
        check_statistics(self.name, self.train_images.shape[1], self.mean, self.std)

    @property
    @override
    def image_size(self) -> int:
        return self.test_images.shape[-1]

    @property
    @override
    def shorter_side(self) -> int:
        return self.image_size

    @property
    @override
    def num_crops(self) -> int | None:
        if self.augmentation.resizes:
            return None
        return (2 * PAD + 1) ** 2 * (2 if self.flip and self.augmentation.hflip is None else 1)

    @override
    def fingerprint(self) -> dict[str, Any]:
        first = min(64, len(self.train_images))  # their views show how all are drawn
        crops, options = self.num_crops, self.augmentation.of_teacher()
        return {
            "name": self.name,
            "images": len(self.train_images),
            "pixels": hash_tensors(self.train_images),
            "labels": hash_labels(self.train_labels),
            "mean": list(self.mean),
            "std": list(self.std),
            "augmentation": f"{PAD} black pixels around, cropped"
            + (", mirrored one in two" if self.flip else ""),
            "views": hash_tensors(view_crops(first, crops)) if crops else f"seed {VIEW_SEED}",
            **({"options": options} if options else {}),
        }

    @override
    def digest(self) -> str:
        train, test = (self.train_images, self.train_labels), (self.test_images, self.test_labels)
        return hash_tensors(*train, *test)

    @override
    def train_loader(
        self,
        batch_size: int,
        *,
        shuffle: bool = True,
        second_view: bool = False,
        **options: Unpack[TrainOptions],
    ) -> Loader:
        return Loader(
            self.train_images,
            self.train_labels,
            batch_size=batch_size,
            mean=self.mean,
            std=self.std,
            augment=True,
            flip=self.flip and self.augmentation.hflip is None,
            shuffle=shuffle,
            unlabelled_share=self.unlabelled_share,
            augmentation=self.augmentation.with_second_view(second_view),
            **options,
        )

    @override
    def test_loader(self, device: torch.device, shard: Shard = Shard()) -> Loader:
        return Loader(
            self.test_images,
            self.test_labels,
            batch_size=evaluation_batch_size(self.image_size),
            mean=self.mean,
            std=self.std,
            device=device,
            shard=shard,
            whole_batches=True,
        )

    @override
    def train_as_test(self) -> "ImageSet":
        return replace(self, test_images=self.train_images, test_labels=self.train_labels)

    def resized(self, side: int) -> "ImageSet":
        """Return this dataset with images resized to `side` pixels (bilinear, antialiased)."""
        return replace(
            self,
            train_images=_resized(self.train_images, side),
            test_images=_resized(self.test_images, side),
        )

    def in_color(self) -> "ImageSet":
        """Return this dataset with its grey channel repeated three times, without copying."""
        shape = (-1, 3, -1, -1)
        return replace(
            self,
            train_images=self.train_images.expand(shape),
            test_images=self.test_images.expand(shape),
            mean=self.mean * 3,
            std=self.std * 3,
        )

    @override
    def shuffled_test(self, seed: int) -> "ImageSet":
        order = torch.randperm(len(self.test_images), generator=generator(seed, 0))
        images, labels = self.test_images[order], self.test_labels[order]
        return replace(self, test_images=images, test_labels=labels)

    @override
    def sample(self, device: torch.device) -> Tensor:
        few = replace(self, test_images=self.test_images[:2], test_labels=self.test_labels[:2])
        return next(few.test_loader(device).epoch(1)).images

    @override
    def relabelled(self, labels: Tensor) -> "ImageSet":
        return replace(self, train_labels=labels)

    @override
    def keep(self, rows: Tensor) -> "ImageSet":
        return replace(
            self, train_images=self.train_images[rows], train_labels=self.train_labels[rows]
        )


class HeldOut(NamedTuple):
    """A dataset without a held-out part of its training images, and that part.

    Attributes:
        train: the dataset with the remaining m training images; its rows count from 0 again, so
            that what keeps one entry per image (a memory bank) has no unused ones.
        images: (v, c, h, w) uint8, the held-out images.
        labels: (v,) int64, their labels.
        train_rows: (m,) int64, original rows of the remaining images, ascending.
        rows: (v,) int64, original rows of the held-out images, ascending.
    """

    train: ImageSet
    images: Tensor
    labels: Tensor
    train_rows: Tensor
    rows: Tensor


def hold_out(image_set: ImageSet, fraction: float, seed: int) -> HeldOut:
    """Hold out a fraction of the training images of `image_set`, stratified by class.

    The total is `fraction` of the images, rounded; of each class it is the exact share, rounded
    down or up. Which images are held out is a pure function of `seed`.
    """
    labels = image_set.train_labels
    rows, train_rows = held_out_rows(labels, image_set.num_classes, fraction, seed)
    train = image_set.keep(train_rows) if len(rows) else image_set
    return HeldOut(train, image_set.train_images[rows], labels[rows], train_rows, rows)


def _resized(images: Tensor, side: int) -> Tensor:
    """Resize (n, c, h, w) to (n, c, side, side) uint8, as torchvision's `Resize` does."""
    parts = [
        F.interpolate(part.float(), (side, side), mode="bilinear", antialias=True)
        for part in images.split(EVALUATION_BATCH)
    ]
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])


def _check(what: str, images: Tensor, labels: Tensor, num_classes: int, lowest: int = 0) -> None:
    check_images_and_labels(what, images, labels)
    low, high = int(labels.min()), int(labels.max())
    if low < lowest or high >= num_classes:
        raise InputError(
            f"{what}: labels range from {low} to {high}; with {num_classes} classes they must be "
            f"in 0 to {num_classes - 1}."
        )
