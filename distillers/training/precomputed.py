"""A data set whose images are mapped to embeddings once, by a frozen network."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Self, Unpack

import torch
from torch import Tensor
from typing_extensions import override

from distillers.config.augmentation import Augmentation
from distillers.data.batch import Batch
from distillers.data.loaders.sharded import Sampling, ShardedLoader
from distillers.data.sampling import check_epoch
from distillers.data.source import BatchLoader, DataSource, TrainOptions, WrappedLoader
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
    num_crops: int | None
    unlabelled_share: float | None

    def __init__(self, source: DataSource, embed: Callable[[Tensor], Tensor]) -> None:
        self.source, self.embed, self.is_split = source, embed, source.is_split

    def __getattr__(self, name: str) -> Any:
        """Return a fact about the images."""
        return getattr(self.source, name)

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
        batches = list(self.train_eval_loader(options["device"]).epoch(1))
        vectors = torch.cat([batch.images for batch in batches])
        labels = torch.cat([batch.labels for batch in batches])
        return EmbeddingLoader(vectors, labels, batch_size, **options)

    @override
    def test_loader(self, device: torch.device, shard: Shard = Shard()) -> BatchLoader:
        return EmbeddedLoader(self.source.test_loader(device, shard), self.embed)

    @override
    def shuffled_test(self, seed: int) -> Self:
        return type(self)(self.source.shuffled_test(seed), self.embed)

    @override
    def sample(self, device: torch.device) -> Tensor:
        return self.embed(self.source.sample(device))

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


class EmbeddedLoader(WrappedLoader):
    """The batches of an evaluation with embeddings instead of images, which are computed once."""

    def __init__(self, loader: BatchLoader, embed: Callable[[Tensor], Tensor]) -> None:
        super().__init__(loader)
        batches = counted(loader.epoch(1), "embedding", len(loader))
        self._batches = [replace(batch, images=embed(batch.images)) for batch in batches]

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
