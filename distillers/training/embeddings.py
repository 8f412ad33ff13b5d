"""A data set of which a frozen network sees every image only once: what is kept is embeddings."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distillers.config.data import Views
from distillers.data.batch import Batch
from distillers.data.sampling import (
    batch_counts,
    check_epoch,
    check_epoch_size,
    generator,
    rank_indices,
)
from distillers.data.source import EVALUATION_BATCH, BatchLoader, DataSource
from distillers.distributed.shard import Shard
from distillers.errors import InputError
from distillers.progress import counted


@dataclass(frozen=True, eq=False)
class Embedded:
    """A `DataSource` whose batches hold embeddings (n, d) in the place of images.

    The training images are embedded as they are, neither cropped nor flipped. The batches of test
    images stay as they were cut, so that a classifier computes the very bits of the whole network.

    Attributes:
        source: the images.
        embed: images (n, c, h, w) to embeddings (n, d), on their device.
    """

    source: DataSource
    embed: Callable[[Tensor], Tensor]

    @property
    def name(self) -> str:
        """As in `distillers.data.load`."""
        return self.source.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """One a class, in the order of the labels."""
        return self.source.class_names

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return self.source.num_classes

    @property
    def image_size(self) -> int:
        """Pixels on a side of the images."""
        return self.source.image_size

    @property
    def shorter_side(self) -> int:
        """What their shorter side is brought to before the middle is cut out."""
        return self.source.shorter_side

    @property
    def mean(self) -> tuple[float, ...]:
        """What the images are normalised with."""
        return self.source.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Likewise."""
        return self.source.std

    @property
    def train_labels(self) -> Tensor:
        """(N,) int64, the class of each training image."""
        return self.source.train_labels

    @property
    def num_crops(self) -> int:
        """One: images are embedded as they are."""
        return 1

    def fingerprint(self) -> dict[str, Any]:
        """Of no use: embeddings are not augmented."""
        raise InputError("a teacher cache is for images, not for embeddings.")

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
        """The embeddings of the training images, in an order of its own in each epoch."""
        if views is not None or not shuffle:
            raise InputError("embeddings have no views, and come in a new order in each epoch.")
        batches = self._embedded(self.source.train_eval_loader(device))
        vectors = torch.cat([batch.images for batch in batches])
        labels = torch.cat([batch.labels for batch in batches])
        return Shuffled(vectors, labels, batch_size, seed, drop_last, shard)

    def test_loader(
        self,
        device: torch.device,
        shard: Shard = Shard(),
    ) -> BatchLoader:
        """The embeddings of the test images, in their order, each exactly once."""
        return Kept(self._embedded(self.source.test_loader(device, shard)), device)

    def train_eval_loader(self, device: torch.device) -> BatchLoader:
        """Those of the training images likewise."""
        return Kept(self._embedded(self.source.train_eval_loader(device)), device)

    def shuffled_test(self, seed: int) -> "Embedded":
        """The same with the test images in an order of chance."""
        return replace(self, source=self.source.shuffled_test(seed))

    def sample(self, device: torch.device) -> Tensor:
        """Two embeddings (2, d)."""
        return self.embed(self.source.sample(device))

    def split(self, fraction: float, seed: int) -> tuple["Embedded", "Embedded | None"]:
        """Set aside a share of the training images; see `DataSource.split`."""
        kept, held_out = self.source.split(fraction, seed)
        rest = None if held_out is None else replace(self, source=held_out)
        return replace(self, source=kept), rest

    def _embedded(self, loader: BatchLoader) -> list[Batch]:
        batches = counted(loader.epoch(1), "embedding", len(loader))
        return [replace(batch, images=self.embed(batch.images)) for batch in batches]


class Kept:
    """A loader that yields the same batches in every epoch.

    Args:
        batches: on `device`.
        device: see above.
    """

    def __init__(self, batches: Sequence[Batch], device: torch.device) -> None:
        self.batch_size, self.device = EVALUATION_BATCH, device
        self.num_images = sum(len(batch.labels) for batch in batches)
        self._batches = batches

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._batches)

    def epoch(self, number: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches without the first `start_batch` of them."""
        check_epoch(number, start_batch, len(self))
        return iter(self._batches[start_batch:])


class Shuffled:
    """Batches of vectors in an order that is a pure function of the seed and the epoch.

    Args:
        vectors: (N, d).
        labels: (N,) int64, on the same device.
        batch_size: vectors a batch, in each process.
        seed: any whole number.
        drop_last: whether to leave out the last batch where it would be smaller.
        shard: which part of every epoch this process takes.
    """

    def __init__(
        self,
        vectors: Tensor,
        labels: Tensor,
        batch_size: int,
        seed: int,
        drop_last: bool,
        shard: Shard = Shard(),
    ) -> None:
        check_epoch_size(len(vectors), batch_size, shard.world_size, True, drop_last)
        self.batch_size, self.device = batch_size, vectors.device
        self._vectors, self._labels, self._seed = vectors, labels, seed
        self._indices = rank_indices(len(vectors), batch_size, *shard, drop_last)
        self._world_size = shard.world_size
        self.num_images = len(self._indices)

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-self.num_images // self.batch_size)

    def epoch(self, number: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from 1, without the first `start_batch` of them."""
        check_epoch(number, start_batch, len(self))
        total = len(self._labels)
        order = torch.randperm(total, generator=generator(self._seed, number))
        batches = order[self._indices].to(self.device).split(self.batch_size)
        for place, rows in enumerate(batches[start_batch:], start_batch):
            together = batch_counts(total, self.batch_size, self._world_size, place)
            yield Batch(self._vectors[rows], self._labels[rows], rows, counts=together)
