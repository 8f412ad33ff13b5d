"""Batches of small images in memory: cropped, flipped and normalized on the device."""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import NamedTuple, Unpack

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from distillers.config.augmentation import Augmentation
from distillers.config.data import NumViews
from distillers.data.augment.boxes import resized_crops
from distillers.data.augment.views import ViewMaker
from distillers.data.batch import Batch
from distillers.data.label_mix import EpochOrder
from distillers.data.loaders.sharded import Sampling, ShardedLoader
from distillers.data.loaders.views import VIEW_SEED, CropViews, check_views
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
        augment: whether to crop each image at random after zero-padding it by `PAD` pixels, and to
            flip it horizontally with probability 1/2.
        flip: False only crops, for classes that change when mirrored.
        channels_last: memory format of the batches' images.
        views: use only this many fixed crops of each image, the same in every run, in turn; "all"
            draws crops at random and sets `Batch.view` to their numbers.
        augmentation: what is done to the images besides, if `augment` is set; its `scale` and
            `ratio` replace the padding.
        sampling: order of the images, device and part of this process; see `ShardedLoader`.

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
        augment: bool = False,
        flip: bool = True,
        channels_last: bool = False,
        views: NumViews | None = None,
        augmentation: Augmentation = Augmentation(),
        **sampling: Unpack[Sampling],
    ) -> None:
        check_images_and_labels("loader", images, labels)
        check_statistics("loader", images.shape[1], mean, std)
        super().__init__(labels, batch_size, repeats=augmentation.aug_repeats, **sampling)
        self._augment, self._flip, self._num_views = augment, flip, views
        augmentation = augmentation if augment else Augmentation()
        self._resizes = augmentation.resizes
        if self._resizes:
            check_views(views, None)
        self._views: CropViews | None = None
        if views is not None and not self._resizes:
            self._views = CropViews(len(images), 2 * PAD + 1, flip, views)
        normalize = Normalize(mean, std, self.device, channels_last)
        view_seed = self._seed if views is None else VIEW_SEED
        self._maker = ViewMaker(augmentation, mean, view_seed, self.device, normalize)
        images, self._labels = images.to(self.device), labels.to(self.device)
        # Padded once: crops are windows into these images, and a batch is a single gather.
        self._images = F.pad(images, (PAD,) * 4) if augment and not self._resizes else images

    @override
    def _batches(self, number: int, start_batch: int) -> Iterator[Batch]:
        order, size = self._order(number), self.batch_size
        plan = self._plan(order)
        step = max(1, CHUNK // size) * size
        for start in range(start_batch * size, self.num_images, step):
            part = _Plan(*(x[start : start + step] for x in plan))
            images, strong, weak = self._maker.make(*self._crops(part), part.host_rows, part.turns)
            view = None if self._num_views is None else part.view
            chunk = (images, self._labels[part.rows], part.rows, view, strong, weak)
            split = (repeat(None) if x is None else x.split(size) for x in chunk)
            parts = zip(*split, strict=False)
            for place, (images, labels, index, view, strong, weak) in enumerate(
                parts, start // size
            ):
                counts = self._rows_per_rank(place)
                batch = Batch(images, labels, index, view, counts, strong=strong, weak=weak)
                yield self._with_labelled(batch, place, order)

    def _plan(self, order: EpochOrder) -> _Plan:
        """Draw a whole epoch at once, on the CPU, whose RNG is the same on every machine.

        All processes draw the same numbers; each takes its own part of them.
        """
        rows, rng, turns = order
        size = rows.shape
        top = torch.randint(2 * PAD + 1, size, generator=rng)
        left = torch.randint(2 * PAD + 1, size, generator=rng)
        mirrored = torch.randint(2, size, generator=rng)
        drawn = torch.stack([top, left, mirrored])
        turns = self._turns(self._num_views, rows, turns)
        if self._views and self._num_views == "all":
            turns = self._views.view_of(rows, drawn)
        elif self._views:
            drawn = self._views.crop_of(rows, turns)
        view = turns * len(self._labels) + rows
        rows, drawn, view, turns = (x[self._indices] for x in (rows, drawn.T, view, turns))
        return _Plan(rows.to(self.device), drawn.to(self.device), view, rows, turns)

    def _crops(self, part: _Plan) -> tuple[Tensor, Tensor | None]:
        """Return the crops of images, and others if there is a second view: (n, c, h, w) uint8."""
        if not self._augment:
            return self._images[part.rows], None
        drawn = part.drawn
        if self._resizes:
            drawn = self._maker.offsets(part.host_rows, part.turns, 1, second=False)
        first = self._cut(part, drawn, second=False)
        if not self._maker.has_second:
            return first, None
        drawn = self._maker.offsets(part.host_rows, part.turns, 2 * PAD + 1, second=True)
        return first, self._cut(part, drawn, second=True)

    def _cut(self, part: _Plan, drawn: Tensor, second: bool) -> Tensor:
        """Return crops for one view, cut and flipped as drawn (n, 3): (n, c, h, w) uint8."""
        top, left, mirrored = drawn.to(self.device, non_blocking=True).unbind(1)
        if self._resizes:
            size = (self._images.shape[2], self._images.shape[3])
            boxes = self._maker.crop_boxes(part.host_rows, part.turns, size, second)
            boxes = boxes.to(self.device, non_blocking=True)
            crops = resized_crops(self._images[part.rows], boxes)
        else:
            crops = self._windows()[part.rows, top, left]
        if not self._flip:
            return crops
        count = len(crops)
        choice = torch.arange(count, device=self.device) + count * mirrored
        return torch.cat([crops, crops.flip(-1)]).index_select(0, choice)

    def _windows(self) -> Tensor:
        """Return all crops of all images by row, top and left, without copying."""
        num, channels, height, width = self._images.shape
        n, c, y, x = self._images.stride()
        return self._images.as_strided(
            (num, 2 * PAD + 1, 2 * PAD + 1, channels, height - 2 * PAD, width - 2 * PAD),
            (n, y, x, c, y, x),
        )


def check_images_and_labels(what: str, images: Tensor, labels: Tensor) -> None:
    """Check that images are (N, c, h, w) uint8, c 1 or 3, and labels (N,) int64, N at least 1.

    Raises:
        InputError: if they are not; the message begins with `what`.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            f"{what}: images are {tuple(images.shape)} {images.dtype}; "
            "they must be (N, 1 or 3, h, w) torch.uint8."
        )
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise InputError(
            f"{what}: labels are {tuple(labels.shape)} {labels.dtype}; "
            "they must be (N,) torch.int64."
        )
    if len(images) != len(labels):
        raise InputError(f"{what}: there are {len(images)} images but {len(labels)} labels.")
    if images.numel() == 0:
        raise InputError(f"{what}: there are no images.")
