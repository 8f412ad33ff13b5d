"""Batches of small images that lie in memory: cropped, flipped and normalised on the device."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from distillers.config.data import Views
from distillers.data.batch import Batch
from distillers.data.loaders.pairs import check_images_and_labels
from distillers.data.loaders.views import CropViews
from distillers.data.normalization import Normalize, check_statistics
from distillers.data.sampling import (
    batch_counts,
    check_epoch,
    check_epoch_size,
    check_shard,
    generator,
    rank_indices,
)
from distillers.errors import InputError

PAD = 4  # black pixels put around an image before it is cropped back to its size
CHUNK = 512  # images made at once and cut into batches: few large operations, bounded memory


class _Plan(NamedTuple):
    """What comes at each place of an epoch's order, drawn before it begins; each (m,) int64.

    `view` is as in `Batch`, on the CPU, and a place itself where the loader has no fixed views.
    """

    rows: Tensor
    top: Tensor
    left: Tensor
    mirrored: Tensor
    view: Tensor


class Loader:
    """Yields batches of a set of images, epoch by epoch.

    The order of an epoch, and every crop and flip in it, are a pure function of `seed` and the
    epoch's number: neither the batch size, nor the device, nor the number of processes, nor what
    was consumed before, nor the global random state enters. So a run that stopped can go on in the
    middle of an epoch. Without `drop_last` each image comes exactly once, over all processes
    together.

    Args:
        images: (N, c, h, w) uint8, c 1 or 3; grey images come out with three equal channels.
        labels: (N,) int64.
        batch_size: images a batch, in each process.
        mean: c numbers, on the scale where 0 is black and 1 is white.
        std: c numbers, on the same scale.
        seed: any whole number.
        augment: whether to crop at random from the image with `PAD` black pixels around it, and
            to flip one image in two, each image on its own.
        flip: False crops only, for classes that change when mirrored.
        shuffle: whether each epoch has an order of its own, or that of the rows.
        drop_last: whether to leave out the last batch where it would be smaller.
        device: where the images are kept, and the batches made.
        index: (m,) int64, the rows to visit; all of them where left out.
        dtype: of the batches' images, floating point.
        channels_last: whether they have that memory format.
        rank: the number of this process among `world_size`.
        world_size: how many processes divide each epoch among themselves; their batches of one
            number together are what a single process with batches that many times larger yields.
        whole_batches: instead, the batches of a single process go to the processes in turn, and
            perhaps none to some: for scoring, where each batch is then computed as by one.
        views: show only so many of each image's crops, which are then the same in every run, in
            turn; "all" draws the crops as ever, but tells in `Batch.view` which ones they are.

    Attributes:
        batch_size: as given.
        num_images: how many images an epoch yields, in this process.
        device: as given.

    Raises:
        InputError: if the data are empty or do not fit together, a number is out of range, or
            `drop_last` would leave no batch.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int = 0,
        augment: bool = False,
        flip: bool = True,
        shuffle: bool = False,
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        index: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        whole_batches: bool = False,
        views: Views | None = None,
    ) -> None:
        check_images_and_labels("loader", images, labels)
        check_shard(batch_size, rank, world_size)
        check_statistics(images.shape[1], mean, std, dtype)
        self.batch_size, self.device = batch_size, torch.device(device)
        self._seed, self._augment, self._flip, self._shuffle = seed, augment, flip, shuffle
        self._rows = torch.arange(len(images)) if index is None else _checked(index, len(images))
        check_epoch_size(len(self._rows), batch_size, world_size, shuffle, drop_last)
        self._indices = rank_indices(
            len(self._rows), batch_size, rank, world_size, drop_last, whole_batches
        )
        self._divided_by = 1 if whole_batches else world_size
        self.num_images = len(self._indices)
        self._views = None
        if views is not None:
            start = seed if shuffle else None
            self._views = CropViews(len(images), 2 * PAD + 1, flip, views, start)

        images = images.to(self.device)
        # Padded once, so that a crop is a view of 9 x 9 windows and the rest is one gather.
        self._images = F.pad(images, (PAD, PAD, PAD, PAD)) if augment else images
        self._labels = labels.to(self.device)
        self._normalised = Normalize(mean, std, self.device, dtype, channels_last)

    def __len__(self) -> int:
        """How many batches an epoch has, in this process."""
        return -(-self.num_images // self.batch_size)

    def epoch(self, number: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch.

        Args:
            number: of the epoch, from 1.
            start_batch: how many batches to skip; the others are the same to the bit.

        Raises:
            InputError: if `number` or `start_batch` is out of range.
        """
        check_epoch(number, start_batch, len(self))
        return self._batches(number, start_batch)

    def _batches(self, number: int, start_batch: int) -> Iterator[Batch]:
        plan, size = self._plan(number), self.batch_size
        step = max(1, CHUNK // size) * size
        for start in range(start_batch * size, self.num_images, step):
            part = _Plan(*(x[start : start + step] for x in plan))
            pixels = self._crops(part) if self._augment else self._images[part.rows]
            chunk = (self._normalised(pixels), self._labels[part.rows], part.rows, part.view)
            parts = zip(*(x.split(size) for x in chunk), strict=True)
            for place, (images, labels, index, view) in enumerate(parts, start // size):
                together = batch_counts(len(self._rows), size, self._divided_by, place)
                yield Batch(images, labels, index, view if self._views else None, together)

    def _plan(self, number: int) -> _Plan:
        """Draw the whole epoch at once, on the CPU, where every machine draws the same.

        What all processes draw is the same; each takes its own places of it.
        """
        rng = generator(self._seed, number)
        size = (len(self._rows),)
        order = torch.randperm(*size, generator=rng) if self._shuffle else torch.arange(*size)
        top = torch.randint(2 * PAD + 1, size, generator=rng)
        left = torch.randint(2 * PAD + 1, size, generator=rng)
        mirrored = torch.randint(2, size, generator=rng)
        rows, drawn, view = self._rows[order], torch.stack([top, left, mirrored]), order
        if self._views:
            view, drawn = self._views.of_epoch(number, rows, drawn)
        rows, top, left, mirrored = (x[self._indices].to(self.device) for x in (rows, *drawn))
        return _Plan(rows, top, left, mirrored, view[self._indices])

    def _crops(self, part: _Plan) -> Tensor:
        """Each image's own window of its padded image, mirrored or not, (n, c, h, w) uint8."""
        num, channels, height, width = self._images.shape
        n, c, y, x = self._images.stride()
        windows = self._images.as_strided(
            (num, 2 * PAD + 1, 2 * PAD + 1, channels, height - 2 * PAD, width - 2 * PAD),
            (n, y, x, c, y, x),
        )
        crops = windows[part.rows, part.top, part.left]
        if not self._flip:
            return crops
        count = len(crops)
        choice = torch.arange(count, device=self.device) + count * part.mirrored
        return torch.cat([crops, crops.flip(-1)]).index_select(0, choice)


def _checked(index: Tensor, num: int) -> Tensor:
    if index.dtype != torch.int64 or index.ndim != 1 or len(index) == 0:
        raise InputError(
            f"index is {tuple(index.shape)} {index.dtype}; it must be (m,) torch.int64, m > 0."
        )
    index = index.cpu()
    if index.min() < 0 or index.max() >= num:
        raise InputError(
            f"index reaches from {int(index.min())} to {int(index.max())}; "
            f"there are {num} images, so it must be in 0 to {num - 1}."
        )
    return index
