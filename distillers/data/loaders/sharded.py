"""Base class of loaders: the order of an epoch, and the part of it that a process loads."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import TypedDict

import torch
from torch import Tensor
from typing_extensions import override

from distillers.config.data import NumViews
from distillers.data.batch import Batch
from distillers.data.label_mix import EpochOrder, LabelMix, has_unlabelled
from distillers.data.sampling import (
    balanced_order,
    check_epoch,
    check_epoch_size,
    generator,
    occurrences,
    rank_indices,
)
from distillers.data.source import BatchLoader
from distillers.distributed.world import Shard
from distillers.errors import InputError

# Added to the turn of an image for each time that it came before in the same epoch. It is a prime,
# so that fixed views change, too.
REPEAT = 1_000_003


class Sampling(TypedDict, total=False):
    """Which images are in the batches of an epoch; see the arguments of `ShardedLoader`."""

    seed: int
    shuffle: bool
    drop_last: bool
    device: torch.device | str
    shard: Shard
    whole_batches: bool
    unlabelled_share: float | None
    balanced: bool


class ShardedLoader(BatchLoader):
    """Base class of loaders; the order of an epoch is a pure function of seed and epoch.

    Args:
        labels: (N,) int64, one of each image of an epoch, in all processes together; -1 for images
            without a label, with which the order of a `shuffle`d epoch is that of `LabelMix`.
        batch_size: images per batch, in each process.
        seed: any integer.
        shuffle: whether each epoch has a new order, or that of the rows.
        drop_last: whether to leave out a last batch that is smaller.
        device: where the batches are made.
        shard: the part of each epoch that this process loads. The batches of one number of all
            processes, concatenated, are the batch of a single process with `shard.world_size`
            times the batch size.
        whole_batches: instead, deal out the batches of a single process in turn; some processes
            may get none. For evaluation, which then computes each batch as a single process does.
        unlabelled_share: see `LabelMix`.
        balanced: whether to draw images of every class equally often, with `shuffle`.
        repeats: how often each image follows itself; an epoch then has fewer images, and as many
            places.

    Raises:
        InputError: if a number is out of range, or `drop_last` would leave no batch.
    """

    def __init__(
        self,
        labels: Tensor,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        shard: Shard = Shard(),
        whole_batches: bool = False,
        unlabelled_share: float | None = None,
        balanced: bool = False,
        repeats: int = 1,
    ) -> None:
        labels, num_rows, (rank, world_size) = labels.cpu(), len(labels), shard
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be at least 1.")
        if not 0 <= rank < world_size:
            raise InputError(f"rank is {rank} of {world_size}; it must be in 0 to world_size - 1.")
        check_epoch_size(num_rows, batch_size, world_size, shuffle, drop_last)
        self.batch_size, self._device = batch_size, torch.device(device)
        self._num_rows, self._seed, self._shuffle = num_rows, seed, shuffle
        self._balanced: Tensor | None = None
        if balanced and shuffle:
            if has_unlabelled(labels):
                raise InputError("--balanced_sampling needs a label for every image.")
            self._balanced = labels
        self._shared_by = 1 if whole_batches else world_size
        self._indices = rank_indices(
            num_rows, batch_size, rank, world_size, drop_last, whole_batches
        )
        self.num_images = len(self._indices)
        self._mix: LabelMix | None = None
        if shuffle and (unlabelled_share or has_unlabelled(labels)):
            self._mix = LabelMix(labels, unlabelled_share, seed)
            self._is_labelled = labels >= 0
        self._repeats = max(repeats, 1)
        if self._repeats > 1 and (self._mix or self._balanced is not None):
            raise InputError(
                f"--aug_repeats {repeats} cannot be used with unlabelled images or "
                "--balanced_sampling, which decide on the images of each batch; leave it out."
            )

    @property
    @override
    def device(self) -> torch.device:
        return self._device

    @override
    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size)

    @override
    def epoch(self, number: int, start_batch: int = 0) -> Iterator[Batch]:
        check_epoch(number, start_batch, len(self))
        return self._batches(number, start_batch)

    @abstractmethod
    def _batches(self, number: int, start_batch: int) -> Iterator[Batch]:
        """Yield the batches of a valid epoch, without the first `start_batch`."""

    def _order(self, number: int) -> EpochOrder:
        """Return the rows of an epoch in all processes' order."""
        if self._mix:
            return self._mix.order(number)
        rng, count = generator(self._seed, number), self._num_rows
        if self._balanced is not None:
            rows = balanced_order(self._balanced, rng)
            return EpochOrder(rows, rng, number + occurrences(rows) * REPEAT)
        rows = torch.randperm(count, generator=rng) if self._shuffle else torch.arange(count)
        if self._repeats == 1:
            return EpochOrder(rows, rng, torch.full((count,), number))
        rows = rows.repeat_interleave(self._repeats)[:count]
        copies = torch.arange(count) % self._repeats
        return EpochOrder(rows, rng, (number - 1) * self._repeats + copies + 1)

    def _turns(self, views: NumViews | None, rows: Tensor, turns: Tensor) -> Tensor:
        """Return which crop of images `rows` is shown in their `turns`, each (m,) int64.

        That is a new one in each turn, or one of a number of fixed `views`. An image goes through
        its views in turn, so each is seen equally often and `views` epochs show all of them. Where
        each image begins is drawn from the seed, with `shuffle`; else it is the first view.
        """
        if not isinstance(views, int):
            return turns
        first = torch.zeros(self._num_rows, dtype=torch.int64)
        if self._shuffle:
            first = torch.randint(views, (self._num_rows,), generator=generator(self._seed, 0))
        return (first[rows] + turns - 1) % views

    def _with_labelled(self, batch: Batch, place: int, order: EpochOrder) -> Batch:
        """Return batch number `place` with facts on its labels, if some images have none."""
        if not self._mix:
            return batch
        labelled = (batch.labels >= 0).nonzero().flatten()
        counts = batch.rows_per_rank
        if not counts:
            return replace(batch, labelled=labelled)
        start = place * self.batch_size * len(counts)
        parts = self._is_labelled[order.rows[start : start + sum(counts)]].split(list(counts))
        per_rank = tuple(int(part.sum()) for part in parts)
        return replace(batch, labelled=labelled, labelled_per_rank=per_rank)

    def _rows_per_rank(self, number: int) -> tuple[int, ...]:
        """Return `Batch.rows_per_rank` of batch `number`, from 0, as `rank_indices` splits it."""
        count = self._shared_by
        if count == 1:
            return ()
        whole = self.batch_size * count
        here = min(whole, self._num_rows - number * whole)
        return tuple(here * (r + 1) // count - here * r // count for r in range(count))
