"""Batches of images that worker processes decode from files."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from distillers.config.augmentation import Augmentation
from distillers.config.cpus import usable_cpus
from distillers.config.data import Dali, NumViews, check_dali
from distillers.config.sizes import pluralize
from distillers.data.augment.views import ViewMaker
from distillers.data.batch import Batch
from distillers.data.datasets.listing import first_few
from distillers.data.label_mix import UNLABELLED
from distillers.data.loaders.decode import DecodedBatch, ImageFiles, identity
from distillers.data.loaders.sharded import Sampling, ShardedLoader
from distillers.data.loaders.views import VIEW_SEED, check_views
from distillers.data.loaders.workers import default_sigchld, process_context, worker_death
from distillers.data.normalization import Normalize
from distillers.errors import InputError, complain


class FolderLoader(ShardedLoader):
    """Batches of images that worker processes decode from files.

    The order of an epoch and every crop in it are a pure function of the images' seed and the
    epoch's number, whatever the number of workers.

    Args:
        images: the files, and how they are decoded.
        batch_size: images per batch, in each process.
        mean: three numbers, on the scale where 0 is black and 1 is white.
        std: three numbers, on the same scale.
        num_workers: processes that decode; at most one per core and batch is started.
        dali: decode with NVIDIA DALI in `num_workers` threads instead of processes, on "cpu" or
            "gpu": the same crops of the same images, up to rounding. For augmented `images` only.
        views: use only this many fixed crops of each image, the same in every run, in turn.
        augmentation: what is done to the crops of augmented `images`.
        sampling: order of the images, device and part of this process; see `ShardedLoader`. The
            seed is that of `images`.

    Attributes:
        num_bad: number of images of the last epoch that could not be read.

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
        num_workers: int = 0,
        dali: Dali = None,
        views: NumViews | None = None,
        augmentation: Augmentation = Augmentation(),
        **sampling: Unpack[Sampling],
    ) -> None:
        sampling["seed"] = images.seed
        labels, repeats = images.labels[images.rows], augmentation.aug_repeats
        super().__init__(labels, batch_size, repeats=repeats, **sampling)
        check_views(views, None)
        self.num_bad = 0
        self._images = images if views is None else replace(images, seed=VIEW_SEED)
        self._views = views
        normalize = Normalize(mean, std, self.device)
        self._maker = ViewMaker(augmentation, mean, self._images.seed, self.device, normalize)
        if self._maker.has_second:
            self._images = replace(self._images, crops=2)
        self._noted: set[str] = set()
        self._sampler = _BatchSampler()
        check_dali(dali, self.device.type)
        workers = min(num_workers, usable_cpus(), len(self))
        self._decoded = self._dali_loader(dali, workers) if dali else self._loader(workers)

    @override
    def _batches(self, number: int, start_batch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch; ends an earlier epoch that was not finished."""
        order, mine = self._order(number), self._indices[start_batch * self.batch_size :]
        rows = order.rows[mine]
        if not len(rows):
            return
        turns = self._turns(self._views, rows, order.turns[mine]).split(self.batch_size)
        self._sampler.batches = [
            list(zip(turn.tolist(), batch.tolist(), strict=True))
            for turn, batch in zip(turns, rows.split(self.batch_size), strict=True)
        ]
        bad: list[str] = []
        notes: list[str] = []
        for place, (decoded, turn) in enumerate(
            zip(self._epoch_of_decoded(), turns, strict=True), start_batch
        ):
            bad += decoded.bad
            notes += decoded.notes
            if decoded.bad and self._images.on_bad == "error":
                raise InputError(f"{decoded.bad[0]} --on_bad_image skip continues without it.")
            if len(decoded.labels):
                yield self._with_labelled(self._to_batch(decoded, turn, place), place, order)
            elif self._images.augment:
                raise InputError(f"no image of a batch can be read, as {bad[-1]}")
        self._report_bad([*dict.fromkeys(bad)], number)  # a bad one may be drawn for others, too
        self._report_notes(notes)

    def _report_bad(self, bad: list[str], number: int) -> None:
        """Warn of the files that could not be read in an epoch, and of classes without others."""
        self.num_bad = len(bad)
        if not bad:
            return
        images, action = self._images, "replaced by others" if self._images.augment else "left out"
        reasons = first_few([text.rstrip(".") for text in bad])
        complain(f"{len(bad)} bad images were {action} in epoch {number}: {reasons}.")
        labels = images.labels[images.rows]
        unread = {*labels.tolist()} - {*labels[images.verified >= 0].tolist(), UNLABELLED}
        if unread:
            paths = [images.path(int((labels == each).nonzero()[0])) for each in sorted(unread)]
            complain(f"WARNING: no image of the class of {first_few(paths)} can be read.")

    def _report_notes(self, notes: list[str]) -> None:
        """Warn of files that were decoded in spite of damage, of each once."""
        new = sorted(set(notes) - self._noted)
        self._noted |= set(new)
        if new:
            complain(
                f"damaged, but used ({pluralize(len(new), 'image')}); replace or delete: "
                f"{first_few(new)}"
            )

    def _epoch_of_decoded(self) -> Iterator[DecodedBatch]:
        """Yield the decoded batches of an epoch.

        Raises:
            InputError: if a worker process has died, naming the file that it died of.
        """
        if not isinstance(self._decoded, DataLoader) or not self._decoded.num_workers:
            yield from self._decoded
            return
        with default_sigchld():
            batches = iter(self._decoded)
        done = 0
        try:
            for decoded in batches:
                yield decoded
                done += 1
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise worker_death(self._images, self._sampler.batches[done:], batches) from error

    def _to_batch(self, decoded: DecodedBatch, turn: Tensor, place: int) -> Batch:
        view = turn * len(self._images) + decoded.index if self._views else None
        pixels, labels, index = (
            part.to(self.device, non_blocking=True)
            for part in (decoded.images, decoded.labels, decoded.index)
        )
        second = decoded.second
        if second is not None:
            second = second.to(self.device, non_blocking=True)
        images, strong, weak = self._maker.make(pixels, second, decoded.index, turn)
        counts = self._rows_per_rank(place)
        return Batch(images, labels, index, view, counts, strong=strong, weak=weak)

    def _dali_loader(self, where: str, num_threads: int) -> Iterable[DecodedBatch]:
        from distillers.data.loaders.dali import DaliBatches  # imports an extra

        device = self.device if where == "gpu" else torch.device("cpu")
        return DaliBatches(self._images, self._sampler, self.batch_size, device, num_threads)

    def _loader(self, num_workers: int) -> DataLoader:
        """Workers start with the first epoch and persist; no global random state is used."""
        return DataLoader(
            self._images,
            batch_sampler=self._sampler,
            collate_fn=identity,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=self.device.type == "cuda",
            multiprocessing_context=process_context() if num_workers else None,
            generator=torch.Generator().manual_seed(self._seed),
        )


class _BatchSampler:
    """Batch sampler of the current epoch: (turn, row) of each image of each batch."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)
