"""What a run asks of a data set, whether it lies in memory or in folders of files."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from distillers.config.data import Views
from distillers.data.batch import Batch
from distillers.distributed.shard import Shard

EVALUATION_BATCH = 256  # one size for every scoring, so that a score can be repeated exactly


class BatchLoader(Protocol):
    """Batches on a device; order and augmentation are a function of seed and epoch."""

    @property
    def batch_size(self) -> int:
        """Images a batch."""
        ...

    @property
    def num_images(self) -> int:
        """Images an epoch."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        ...

    def __len__(self) -> int:
        """Batches an epoch."""
        ...

    def epoch(self, number: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from 1, without the first `start_batch` of them."""
        ...


class DataSource(Protocol):
    """Training and test images of one data set; see `ImageSet` and `FolderSet`."""

    @property
    def name(self) -> str:
        """As in `distillers.data.load`."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """One a class, in the order of the labels."""
        ...

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        ...

    @property
    def image_size(self) -> int:
        """Pixels on a side of the images that a network gets."""
        ...

    @property
    def shorter_side(self) -> int:
        """To what the shorter side of a test image is resized, before its middle is cut out."""
        ...

    @property
    def mean(self) -> tuple[float, ...]:
        """What the images are normalised with, where 0 is black and 1 is white."""
        ...

    @property
    def std(self) -> tuple[float, ...]:
        """Likewise."""
        ...

    @property
    def train_labels(self) -> Tensor:
        """(N,) int64, the class of each training image; `Batch.index` counts these rows."""
        ...

    @property
    def num_crops(self) -> int | None:
        """How many augmented views an image has, all told; None where they cannot be counted."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What decides on the pixels of every view of every training image, in plain types."""
        ...

    def train_loader(
        self,
        batch_size: int,
        *,
        seed: int,
        drop_last: bool,
        device: torch.device,
        shard: Shard = Shard(),
        views: Views | None = None,
        shuffle: bool = True,
    ) -> BatchLoader:
        """The training images, augmented, in an order of its own in each epoch.

        `batch_size` is that of each process, and so is what the loader yields. With `views` they
        are augmented in so many ways that are the same in every run, and `Batch.view` tells which.
        Without `shuffle` the images come in their order, epoch e showing view e of each.
        """
        ...

    def test_loader(self, device: torch.device, shard: Shard = Shard()) -> BatchLoader:
        """The test images as they are, in their order, each exactly once over all processes.

        The batches are those that one process makes; the processes take them in turn.
        """
        ...

    def train_eval_loader(self, device: torch.device) -> BatchLoader:
        """The training images as test images would come, in their order, each exactly once."""
        ...

    def shuffled_test(self, seed: int) -> "DataSource":
        """The set with its test images in an order of chance, as a seed has it."""
        ...

    def sample(self, device: torch.device) -> Tensor:
        """Two test images as the networks see them, for probing: (2, 3, h, w)."""
        ...

    def split(self, fraction: float, seed: int) -> tuple["DataSource", "DataSource | None"]:
        """Set aside a share of the training images, the same share of every class.

        Returns:
            the set with the remaining training images, whose rows count from 0 again; and the set
            whose test images are those set aside, or None where `fraction` is 0.
        """
        ...
