"""Batches of images that are decoded from files by worker processes."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from distillers.config.data import Dali, Views, check_dali
from distillers.data.batch import Batch
from distillers.data.datasets.listing import first_few
from distillers.data.loaders.decode import DecodedBatch, ImageFiles, same
from distillers.data.loaders.views import VIEW_SEED, check_views, epoch_views
from distillers.data.normalization import Normalize
from distillers.data.sampling import (
    batch_counts,
    check_epoch,
    check_epoch_size,
    check_shard,
    generator,
    rank_indices,
)
from distillers.errors import InputError


class FolderLoader:
    """Yields batches of images that lie in files, epoch by epoch; the sibling of `Loader`.

    The order of an epoch and every crop in it are a pure function of the images' seed and the
    epoch's number; the number of workers does not enter, so a run can go on anywhere, and with
    another number of them.

    Args:
        images: the files, and what becomes of each.
        batch_size: images a batch, in each process.
        mean: three numbers, on the scale where 0 is black and 1 is white.
        std: likewise.
        shuffle: whether each epoch has an order of its own, or that of the rows.
        drop_last: whether to leave out the last batch where it would be smaller.
        device: where the batches are made.
        num_workers: processes that decode; no more are started than there are cores or batches.
        rank: the number of this process among `world_size`.
        world_size: how many processes divide each epoch among themselves.
        whole_batches: as in `Loader`.
        dali: where NVIDIA DALI decodes with `num_workers` threads in the place of processes: the
            same parts of the same images, to a grey level or so; for `images` that are augmented.
        views: show only so many crops of each image, which are then the same in every run, in turn.
        say: told at the end of an epoch of the images that could not be read.

    Attributes:
        batch_size: as given.
        num_images: how many images an epoch yields, in this process.
        device: as given.
        num_bad: how many of the last epoch's images could not be read.

    Raises:
        InputError: if a number is out of range, or DALI or its GPU is not available; during an
            epoch, for an image that cannot be read, unless `images.on_bad` is "skip".
    """

    def __init__(
        self,
        images: ImageFiles,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        shuffle: bool = False,
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        whole_batches: bool = False,
        dali: Dali = None,
        views: Views | None = None,
        say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
    ) -> None:
        check_shard(batch_size, rank, world_size)
        check_epoch_size(len(images), batch_size, world_size, shuffle, drop_last)
        check_views(views, None)
        self.batch_size, self.device = batch_size, torch.device(device)
        self.num_bad = 0
        self._seed, self._shuffle, self._say = images.seed, shuffle, say
        self._images = images if views is None else replace(images, seed=VIEW_SEED)
        self._views = views
        self._indices = rank_indices(
            len(images), batch_size, rank, world_size, drop_last, whole_batches
        )
        self._divided_by = 1 if whole_batches else world_size
        self.num_images = len(self._indices)
        self._normalised = Normalize(mean, std, self.device)
        self._order = _Order()
        check_dali(dali, self.device.type)
        workers = min(num_workers, _cores(), len(self))
        self._decoded = self._dali_loader(dali, workers) if dali else self._loader(workers)

    def __len__(self) -> int:
        """How many batches an epoch has, in this process."""
        return -(-self.num_images // self.batch_size)

    def epoch(self, number: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch; an earlier epoch that was left in the middle ends.

        Args:
            number: of the epoch, from 1.
            start_batch: how many batches to skip; the others are the same to the bit.

        Raises:
            InputError: if `number` or `start_batch` is out of range.
        """
        check_epoch(number, start_batch, len(self))
        return self._batches(number, start_batch)

    def _batches(self, number: int, start_batch: int) -> Iterator[Batch]:
        rows = torch.arange(len(self._images))
        if self._shuffle:
            rows = torch.randperm(len(rows), generator=generator(self._seed, number))
        mine = rows[self._indices][start_batch * self.batch_size :]
        if not len(mine):
            return
        turns = self._turns(number)[mine].split(self.batch_size)
        self._order.batches = [
            list(zip(turn.tolist(), batch.tolist(), strict=True))
            for turn, batch in zip(turns, mine.split(self.batch_size), strict=True)
        ]
        bad: list[str] = []
        for place, decoded in enumerate(self._decoded, start_batch):
            bad += decoded.bad
            if decoded.bad and self._images.on_bad == "error":
                raise InputError(f"{decoded.bad[0]} --on_bad_image skip goes on without it.")
            if len(decoded.labels):
                together = batch_counts(len(self._images), self.batch_size, self._divided_by, place)
                view = (
                    turns[place - start_batch] * len(rows) + decoded.index if self._views else None
                )
                yield self._moved(decoded, view, together)
            elif self._images.augment:
                raise InputError(f"no image of a batch can be read: {first_few(bad)}")
        self.num_bad = len(bad)
        if bad:
            did = "replaced by others" if self._images.augment else "left out"
            self._say(f"{len(bad)} bad images were {did} in epoch {number}: {first_few(bad)}")

    def _turns(self, number: int) -> Tensor:
        """Which crop of each image comes, (N,) int64: one of the epoch's own, or a fixed view."""
        if not isinstance(self._views, int):
            return torch.full((len(self._images),), number)
        seed = self._seed if self._shuffle else None
        return epoch_views(len(self._images), self._views, number, seed)

    def _moved(
        self, decoded: DecodedBatch, view: Tensor | None, together: tuple[int, ...]
    ) -> Batch:
        pixels, labels, index = (
            part.to(self.device, non_blocking=True)
            for part in (decoded.images, decoded.labels, decoded.index)
        )
        return Batch(self._normalised(pixels), labels, index, view, together)

    def _dali_loader(self, where: str, num_threads: int) -> Iterable[DecodedBatch]:
        from distillers.data.loaders.dali import DaliBatches  # only here, the extra may be missing

        device = self.device if where == "gpu" else torch.device("cpu")
        return DaliBatches(self._images, self._order, self.batch_size, device, num_threads)

    def _loader(self, num_workers: int) -> DataLoader:
        """The workers start with the first epoch and stay; they touch no global random state."""
        context = None
        if num_workers and "forkserver" in multiprocessing.get_all_start_methods():
            # A fork of a process with threads or a GPU may hang; a fork of a bare server cannot.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["distillers.data.loaders.decode"])
        return DataLoader(
            self._images,
            batch_sampler=self._order,
            collate_fn=same,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=self.device.type == "cuda",
            multiprocessing_context=context,
            generator=torch.Generator().manual_seed(self._seed),
        )


class _Order:
    """Tells the workers which images make the batches of the epoch that begins."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
