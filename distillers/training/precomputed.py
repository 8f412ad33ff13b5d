"""A data set whose images are mapped to embeddings once, by a frozen network."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Self, Unpack

import torch
from torch import Tensor
from typing_extensions import override

from distillers.config.augmentation import Augmentation
from distillers.data.batch import Batch
from distillers.data.loaders.sharded import Sampling, ShardedLoader
from distillers.data.sampling import check_epoch
from distillers.data.source import BatchLoader, DataSource, TrainOptions
from distillers.distributed.world import Shard
from distillers.errors import InputError
from distillers.progress import counted


class PrecomputedEmbeddings(DataSource):
    """A data set whose batches hold embeddings (n, d) instead of images.

    The embeddings of training images are computed without augmentation; those of test images in the
    batches of an evaluation, so that a classifier gives the same bits as the whole network.
    """

    name: str
    class_names: tuple[str, ...]
    image_size: int
    shorter_side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_labels: Tensor
    test_labels: Tensor
    num_crops: int
    unlabelled_share: float | None

    def __init__(self, source: DataSource, embed: Callable[[Tensor], Tensor]) -> None:
        self.source, self.embed = source, embed
        self.name, self.class_names = source.name, source.class_names
        self.image_size, self.shorter_side = source.image_size, source.shorter_side
        self.mean, self.std = source.mean, source.std
        self.train_labels, self.test_labels = source.train_labels, source.test_labels
        self.num_crops, self.unlabelled_share = 1, source.unlabelled_share
        self.is_split = source.is_split

    @override
    def fingerprint(self) -> dict[str, Any]:
        raise InputError("a teacher cache is for images, not for embeddings.")

    @override
    def augmented(self, augmentation: Augmentation) -> Self:
        raise InputError(f"embeddings of images are not augmented ({augmentation}).")

    @override
    def digest(self) -> str:
        return self.source.digest()

    @override
    def train_loader(
        self,
        batch_size: int,
        *,
        shuffle: bool = True,
        second_view: bool = False,
        **options: Unpack[TrainOptions],
    ) -> BatchLoader:
        if second_view:
            raise InputError("embeddings have no second view.")
        if options.pop("views", None) is not None or not shuffle:
            raise InputError("embeddings have no views, and come in a new order in each epoch.")
        batches = self._embedded(self.source.train_eval_loader(options["device"]))
        vectors = torch.cat([batch.images for batch in batches])
        labels = torch.cat([batch.labels for batch in batches])
        return EmbeddingLoader(vectors, labels, batch_size, **options)

    @override
    def test_loader(self, device: torch.device, shard: Shard = Shard()) -> BatchLoader:
        return ListLoader(self._embedded(self.source.test_loader(device, shard)), device)

    @override
    def train_eval_loader(self, device: torch.device, shard: Shard = Shard()) -> BatchLoader:
        return ListLoader(self._embedded(self.source.train_eval_loader(device, shard)), device)

    @override
    def shuffled_test(self, seed: int) -> Self:
        return type(self)(self.source.shuffled_test(seed), self.embed)

    @override
    def sample(self, device: torch.device) -> Tensor:
        return self.embed(self.source.sample(device))

    @override
    def split(self, fraction: float, seed: int) -> tuple[Self, Self | None]:
        kept, held_out = self.source.split(fraction, seed)
        rest = None if held_out is None else type(self)(held_out, self.embed)
        return type(self)(kept, self.embed), rest

    @override
    def train_as_test(self) -> Self:
        return type(self)(self.source.train_as_test(), self.embed)

    @override
    def keep(self, rows: Tensor) -> Self:
        return type(self)(self.source.keep(rows), self.embed)

    @override
    def relabelled(self, labels: Tensor) -> Self:
        return type(self)(self.source.relabelled(labels), self.embed)

    @override
    def with_unlabelled_share(self, share: float) -> Self:
        return type(self)(self.source.with_unlabelled_share(share), self.embed)

    def _embedded(self, loader: BatchLoader) -> list[Batch]:
        batches = counted(loader.epoch(1), "embedding", len(loader))
        return [replace(batch, images=self.embed(batch.images)) for batch in batches]


class ListLoader(BatchLoader):
    """A loader that yields the same batches in every epoch."""

    def __init__(self, batches: Sequence[Batch], device: torch.device) -> None:
        self.batch_size = max((len(batch.labels) for batch in batches), default=1)
        self._device = device
        self.num_images = sum(len(batch.labels) for batch in batches)
        self._batches = batches

    @property
    @override
    def device(self) -> torch.device:
        return self._device

    @override
    def __len__(self) -> int:
        return len(self._batches)

    @override
    def epoch(self, number: int, start_batch: int = 0) -> Iterator[Batch]:
        check_epoch(number, start_batch, len(self))
        return iter(self._batches[start_batch:])


class EmbeddingLoader(ShardedLoader):
    """Batches of vectors (N, d), in an order that depends on seed and epoch only."""

    def __init__(
        self, vectors: Tensor, labels: Tensor, batch_size: int, **sampling: Unpack[Sampling]
    ) -> None:
        super().__init__(labels, batch_size, shuffle=True, **sampling)
        self._vectors, self._labels = vectors, labels

    @override
    def _batches(self, number: int, start_batch: int) -> Iterator[Batch]:
        order = self._order(number)[0][self._indices].to(self.device)
        batches = order.split(self.batch_size)[start_batch:]
        for position, rows in enumerate(batches, start=start_batch):
            yield Batch(
                self._vectors[rows],
                self._labels[rows],
                rows,
                rows_per_rank=self._rows_per_rank(position),
            )
