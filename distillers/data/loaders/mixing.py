"""Soft labels: label smoothing, mixup and CutMix, with the meaning that they have in timm."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from distillers.config.data import SoftLabels
from distillers.data.batch import Batch
from distillers.data.source import BatchLoader, WrappedLoader
from distillers.distributed.collectives import all_gather_rows, first_row, total_rows

MIX_SEED = 0x6D6978  # keeps these draws apart from others of the same seed


class Mix(NamedTuple):
    """How the images of a batch are mixed with their partners.

    Attributes:
        weight: weight of an image's own label; its partner's has the rest.
        box: top, bottom, left and right of the part that CutMix takes from the partner, in pixels;
            None for mixup, which takes the weighted mean of both images.
    """

    weight: float
    box: tuple[int, int, int, int] | None


class SoftLabelLoader(WrappedLoader):
    """A loader that mixes the images of another and adds `targets` to its batches.

    Each image is mixed with its neighbor in the batch of all processes together: the first with the
    second, the third with the fourth; the last of an odd number is not mixed. timm mixes the
    first with the last instead, which is equivalent in a random order, but takes partners from
    other processes. Of two neighbors of which one has no label neither is mixed. What is drawn is
    a pure function of the seed, the epoch and the number of the batch, so that it depends neither
    on the number of processes nor on where a run was resumed. A second view of the images is mixed
    in the same way as the first.

    Args:
        loader: loads images and labels.
        options: what to do with them.
        num_classes: k.
        seed: any non-negative integer.
        num_epochs: number of epochs without those of a warm-up stage, whose numbers follow.
    """

    def __init__(
        self,
        loader: BatchLoader,
        options: SoftLabels,
        *,
        num_classes: int,
        seed: int,
        num_epochs: int,
    ) -> None:
        super().__init__(loader)
        self._options, self._num_classes, self._seed = options, num_classes, seed
        self._unmixed = range((options.mixup_off_epoch or num_epochs) + 1, num_epochs + 1)

    @override
    def epoch(self, number: int, start_batch: int = 0) -> Iterator[Batch]:
        mixes = self._options.mixes and number not in self._unmixed
        for place, batch in enumerate(self._loader.epoch(number, start_batch), start_batch):
            rng = np.random.default_rng([MIX_SEED, self._seed, number, place])
            height, width = batch.images.shape[-2:]
            mix = draw_mix(self._options, height, width, rng) if mixes else None
            targets = smooth(batch.labels, self._num_classes, self._options.smoothing)
            if mix is None:
                yield replace(batch, targets=targets)
                continue
            labels, mixed = _mixed(batch, mix)
            others = smooth(labels, self._num_classes, self._options.smoothing)
            yield replace(mixed, targets=targets.lerp(others, 1 - mix.weight))


def draw_mix(options: SoftLabels, height: int, width: int, rng: np.random.Generator) -> Mix | None:
    """Draw how a batch of images of a size in pixels is mixed; None if it is not.

    `rng` draws, in this order, whether to mix, whether to cut, the weight, and the center of the
    box.
    """
    if rng.random() >= options.mixup_prob:
        return None
    cuts = rng.random() < 0.5 if options.mixup and options.cutmix else bool(options.cutmix)
    alpha = options.cutmix if cuts else options.mixup
    weight = float(rng.beta(alpha, alpha))
    if not cuts:
        return Mix(weight, None)
    ratio = math.sqrt(1 - weight)
    high, wide = int(height * ratio), int(width * ratio)
    middle, center = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(middle - high // 2, 0), min(middle + high // 2, height)
    left, right = max(center - wide // 2, 0), min(center + wide // 2, width)
    area = (bottom - top) * (right - left)
    return Mix(1 - area / (height * width), (top, bottom, left, right))


def mix_images(images: Tensor, partners: Tensor, mix: Mix) -> Tensor:
    """Return images (n, c, h, w) mixed with partners (n, c, h, w)."""
    if mix.box is None:
        return images.lerp(partners, 1 - mix.weight)
    top, bottom, left, right = mix.box
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = partners[..., top:bottom, left:right]
    return mixed


def smooth(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Return labels (n,) as probabilities (n, k), of which `smoothing` is spread over all classes.

    As in "Rethinking the Inception Architecture for Computer Vision", Szegedy et al., 2015,
    https://arxiv.org/abs/1512.00567, equation 7. Rows without a label (-1) mean nothing.
    """
    return (
        F.one_hot(labels.clamp(min=0), num_classes).float() * (1 - smoothing)
        + smoothing / num_classes
    )


def _mixed(batch: Batch, mix: Mix) -> tuple[Tensor, Batch]:
    """Return the labels of the partners, and the batch with mixed images."""
    partners = _Partners(batch)
    mixed = batch.map_views(lambda view: mix_images(view, partners.of(view), mix))
    return partners.of(batch.labels), mixed


class _Partners:
    """The neighbor of each image of a batch, in another process if need be."""

    def __init__(self, batch: Batch) -> None:
        labels, counts = batch.labels, batch.rows_per_rank
        self._counts = counts
        self._are_elsewhere = any(count % 2 for count in counts[:-1])  # some of them
        first, last = 0, len(labels)
        if self._are_elsewhere:
            first, last = first_row(labels, counts), total_rows(labels, counts)
        rows = torch.arange(first, first + len(labels), device=labels.device)
        neighbors = rows ^ 1
        self._rows = torch.where(neighbors < last, neighbors, rows)
        if batch.labelled is not None:  # `LabelMix` leaves few neighbors of different kinds
            are_alike = (labels < 0) == (self.of(labels) < 0)
            self._rows = torch.where(are_alike, self._rows, rows)

    def of(self, values: Tensor) -> Tensor:
        """Return the partners' rows of values (n, ...), one row for each image."""
        if self._are_elsewhere:
            values = all_gather_rows(values, self._counts)
        return values[self._rows]
