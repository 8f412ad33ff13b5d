"""Batches of small images in memory: cropped, flipped and normalized on the device."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from distillers.config.augmentation import Augmentation
from distillers.config.data import NumViews
from distillers.data.augment.views import Views
from distillers.data.batch import Batch
from distillers.data.label_mix import EpochOrder
from distillers.data.loaders.pairs import check_images_and_labels
from distillers.data.loaders.sharded import ShardedLoader
from distillers.data.loaders.views import VIEW_SEED, CropViews
from distillers.data.normalization import Normalize, check_statistics
from distillers.errors import InputError

PAD = 4  # pixels of zero padding on each side before a crop of the original size
CHUNK = 512  # images augmented at once, then split into batches: few large kernels, bounded memory


class _Plan(NamedTuple):
    """Rows and crops of an epoch, in order, drawn before it begins; each (m,) int64.

    `drawn`, (m, 3), is top, left and whether mirrored. `host_rows` are the rows on the CPU, and
    `turns` the epoch or the fixed view of each. `view` is as in `Batch`, on the CPU too, and
    meaningless if the loader has no fixed views.
    """

    rows: Tensor
    drawn: Tensor
    view: Tensor
    host_rows: Tensor
    turns: Tensor


class Loader(ShardedLoader):
    """Batches of images in memory.

    The order of an epoch, and every crop and flip in it, are a pure function of `seed` and the
    epoch's number: they depend on neither batch size, device, number of processes, earlier epochs
    nor the global random state. So an interrupted run can resume in the middle of an epoch.
    Without `drop_last` each image comes exactly once, over all processes together.

    Args:
        images: (N, c, h, w) uint8, c 1 or 3; grey images are repeated to three channels.
        labels: (N,) int64.
        batch_size: images per batch, in each process.
        mean: c numbers, on the scale where 0 is black and 1 is white.
        std: c numbers, on the same scale.
        seed: any integer.
        augment: whether to crop each image at random after zero-padding it by `PAD` pixels, and to
            flip it horizontally with probability 1/2.
        flip: False only crops, for classes that change when mirrored.
        shuffle: see `ShardedLoader`, as `drop_last`, `rank`, `world_size` and `whole_batches`.
        drop_last: whether to leave out a last batch that is smaller.
        device: where the images are stored and the batches made.
        index: (m,) int64, the rows to load; default all.
        dtype: floating point type of the batches' images.
        channels_last: memory format of the batches' images.
        rank: of this process.
        world_size: number of processes that share each epoch.
        whole_batches: whether to deal out whole batches to the processes.
        views: use only this many fixed crops of each image, the same in every run, in turn; "all"
            draws crops at random and sets `Batch.view` to their numbers.
        unlabelled_share: see `LabelMix`; for images of which some have the label -1.
        augmentation: what is done to the images besides, if `augment` is set.
        balanced: whether to draw images of every class equally often, with `shuffle`.

    Raises:
        InputError: if the data are empty or inconsistent, a number is out of range, or `drop_last`
            would leave no batch.
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
        views: NumViews | None = None,
        unlabelled_share: float | None = None,
        augmentation: Augmentation = Augmentation(),
        balanced: bool = False,
    ) -> None:
        check_images_and_labels("loader", images, labels)
        check_statistics(images.shape[1], mean, std, dtype)
        self._rows = torch.arange(len(images)) if index is None else _checked(index, len(images))
        super().__init__(
            len(self._rows),
            batch_size,
            seed=seed,
            shuffle=shuffle,
            drop_last=drop_last,
            device=device,
            rank=rank,
            world_size=world_size,
            whole_batches=whole_batches,
            labels=labels.cpu()[self._rows],
            unlabelled_share=unlabelled_share,
            balanced=balanced,
        )
        self._augment, self._flip = augment, flip
        self._views = None
        if views is not None:
            start = seed if shuffle else None
            self._views = CropViews(len(images), 2 * PAD + 1, flip, views, start)
        view_seed = seed if views is None else VIEW_SEED
        self._augmentation = Views(augmentation, mean, view_seed, self.device)

        images = images.to(self.device)
        # Padded once: crops are windows into these images, and a batch is a single gather.
        self._images = F.pad(images, (PAD, PAD, PAD, PAD)) if augment else images
        self._labels = labels.to(self.device)
        self._normalize = Normalize(mean, std, self.device, dtype, channels_last)

    @override
    def _batches(self, number: int, start_batch: int) -> Iterator[Batch]:
        order, size = self._order(number), self.batch_size
        plan = self._plan(number, order)
        step = max(1, CHUNK // size) * size
        for start in range(start_batch * size, self.num_images, step):
            part = _Plan(*(x[start : start + step] for x in plan))
            crops = self._crops(part.rows, part.drawn) if self._augment else None
            pixels = self._images[part.rows] if crops is None else crops
            chunk = [self._normalize(pixels), self._labels[part.rows], part.rows, part.view]
            if self._augment and self._augmentation.has_strong:
                chunk.append(self._normalize(self._strong(part)))
            parts = zip(*(x.split(size) for x in chunk), strict=True)
            for place, (images, labels, index, view, *strong) in enumerate(parts, start // size):
                batch = Batch(
                    images,
                    labels,
                    index,
                    view if self._views else None,
                    self._rows_per_rank(place),
                    strong=next(iter(strong), None),
                )
                yield self._with_labelled(batch, place, order)

    def _plan(self, number: int, order: EpochOrder | None = None) -> _Plan:
        """Draw a whole epoch at once, on the CPU, whose RNG is the same on every machine.

        All processes draw the same numbers; each takes its own part of them.
        """
        places, rng, turns = self._order(number) if order is None else order
        size = places.shape
        top = torch.randint(2 * PAD + 1, size, generator=rng)
        left = torch.randint(2 * PAD + 1, size, generator=rng)
        mirrored = torch.randint(2, size, generator=rng)
        rows, drawn, view = self._rows[places], torch.stack([top, left, mirrored]), places
        if self._views:
            view, drawn = self._views.of_epoch(turns, rows, drawn)
            turns = view // len(self._labels)
        rows, drawn, view, turns = (x[self._indices] for x in (rows, drawn.T, view, turns))
        return _Plan(rows.to(self.device), drawn.to(self.device), view, rows, turns)

    def _strong(self, part: _Plan) -> Tensor:
        """Return a second, strongly augmented crop of each image: (n, c, h, w) uint8."""
        views, rows, turns = self._augmentation, part.host_rows, part.turns
        drawn = views.strong_crops(rows, turns, 2 * PAD + 1).T.to(self.device)
        return views.strong(self._crops(part.rows, drawn), rows, turns)

    def _crops(self, rows: Tensor, drawn: Tensor) -> Tensor:
        """Return the crops of rows (n,), cut and flipped as drawn (n, 3): (n, c, h, w) uint8."""
        top, left, mirrored = drawn.unbind(1)
        num, channels, height, width = self._images.shape
        n, c, y, x = self._images.stride()
        windows = self._images.as_strided(
            (num, 2 * PAD + 1, 2 * PAD + 1, channels, height - 2 * PAD, width - 2 * PAD),
            (n, y, x, c, y, x),
        )
        crops = windows[rows, top, left]
        if not self._flip:
            return crops
        count = len(crops)
        choice = torch.arange(count, device=self.device) + count * mirrored
        return torch.cat([crops, crops.flip(-1)]).index_select(0, choice)


def _checked(index: Tensor, num: int) -> Tensor:
    if index.dtype != torch.int64 or index.ndim != 1 or len(index) == 0:
        raise InputError(
            f"index is {tuple(index.shape)} {index.dtype}; it must be (m,) torch.int64, m > 0."
        )
    index = index.cpu()
    if index.min() < 0 or index.max() >= num:
        raise InputError(
            f"index ranges from {int(index.min())} to {int(index.max())}; "
            f"there are {num} images, so it must be in 0 to {num - 1}."
        )
    return index
