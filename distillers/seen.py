"""A data set as one network knows images: in the normalisation that it was trained with."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from distillers import inputs
from distillers.data.batch import Batch
from distillers.data.order import Shard
from distillers.data.source import BatchLoader, DataSource
from distillers.data.through import Through


class Changed:
    """A loader whose images pass through a function.

    Args:
        loader: where they come from.
        change: images (n, c, h, w) to what a task or a network gets.
    """

    def __init__(self, loader: BatchLoader, change: Callable[[Tensor], Tensor]) -> None:
        self.batch_size, self.num_images = loader.batch_size, loader.num_images
        self.device = loader.device
        self._loader, self._change = loader, change

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._loader)

    def epoch(self, number: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from 1, without the first `start_batch` of them."""
        for batch in self._loader.epoch(number, start_batch):
            yield replace(batch, images=self._change(batch.images))


@dataclass(frozen=True, eq=False)
class Seen(Through):
    """A `DataSource` whose images are normalised as another data set's were.

    A network that is trained on them is scored by `distillers evaluate` on the same bits: it
    changes the images by the same numbers.

    Attributes:
        mean: of the normalisation, one number a channel or one for all, 0 is black, 1 is white.
        std: likewise.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def train_loader(
        self,
        batch_size: int,
        *,
        seed: int,
        drop_last: bool,
        device: torch.device,
        shard: Shard = Shard(),  # noqa: B008, immutable
    ) -> BatchLoader:
        """The training images, augmented, in an order of its own in each epoch."""
        loader = self.source.train_loader(
            batch_size, seed=seed, drop_last=drop_last, device=device, shard=shard
        )
        return Changed(loader, self._change(device))

    def test_loader(
        self,
        device: torch.device,
        shard: Shard = Shard(),  # noqa: B008, immutable
    ) -> BatchLoader:
        """The test images as they are, in their order, each exactly once."""
        return Changed(self.source.test_loader(device, shard), self._change(device))

    def train_as_they_are(self, device: torch.device) -> BatchLoader:
        """The training images likewise."""
        return Changed(self.source.train_as_they_are(device), self._change(device))

    def sample(self, device: torch.device) -> Tensor:
        """Two test images, for probing: (2, 3, h, w)."""
        return self._change(device)(self.source.sample(device))

    def _change(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        card = {"mean": self.mean, "std": self.std}
        size = (self.image_size, self.image_size)
        mean, std = self.source.mean, self.source.std
        return inputs.adapted(nn.Identity(), card, mean=mean, std=std, size=size).to(device)


def seen_by(card: dict[str, Any], source: DataSource) -> DataSource:
    """The data set as the network of a card knows images; itself where the card says nothing.

    Args:
        card: may have "mean" and "std".
        source: the data set.
    """
    if not card.get("mean") or not card.get("std"):
        return source
    return Seen(source, tuple(card["mean"]), tuple(card["std"]))
