"""Make the views of training images from their crops: flip, policy, normalization, erasing."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from distillers.config.augmentation import Augmentation, parse_policy
from distillers.data.augment.augmenter import Augmenter
from distillers.data.augment.boxes import AREA, NUM_DRAWS, RATIO, central_box, draw_boxes
from distillers.data.augment.draws import uniforms
from distillers.data.augment.erase import random_erasing
from distillers.data.augment.named import build_policy
from distillers.data.augment.policies import ColorJitterPolicy, FlipPolicy, Policy

# Streams of random numbers; those of the second view have other numbers than those of the first.
FLIPS, POLICY, ERASING, CROPS, SECOND = 0, 1, 2, 3, 10


class ViewMaker:
    """Make the views of images from their crops.

    Everything is a function of the seed, the image and the turn, so that it depends on neither the
    batch nor the process. In all methods, `rows` (n,) int64 on the CPU are rows of the training
    set, and `turns`, the same, the epoch or the fixed view of each image.

    Args:
        options: the augmentation.
        mean: c numbers, on the scale where 0 is black and 1 is white.
        seed: any integer.
        device: of the images.
        normalize: maps images (n, c, h, w) uint8 to the input of a network.
    """

    def __init__(
        self,
        options: Augmentation,
        mean: Sequence[float],
        seed: int,
        device: torch.device,
        normalize: Callable[[Tensor], Tensor],
    ) -> None:
        self._options, self._seed, self._normalize = options, seed, normalize

        def augmenter(policy: Policy, stream: int) -> Augmenter:
            return Augmenter(policy, mean, seed=seed, stream=stream, device=device)

        flips = FlipPolicy(options.hflip or 0.0, options.vflip)
        has_flips = bool(options.hflip or options.vflip)
        self._flips = [augmenter(flips, FLIPS)] if has_flips else []
        self._policy = [augmenter(each, POLICY) for each in _policies(options)]
        self._second: list[Augmenter] = []
        if options.strong_aa is not None:
            self._second = [augmenter(flips, SECOND + FLIPS)] if has_flips else []
            strong = build_policy(parse_policy(options.strong_aa))
            self._second.append(augmenter(strong, SECOND + POLICY))

    @property
    def has_second(self) -> bool:
        """Whether there is a second view."""
        return bool(self._second)

    def make(
        self, crops: Tensor, second: Tensor | None, rows: Tensor, turns: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the normalized views of images from their `crops`, (n, c, h, w) uint8.

        For a second view, `second` are other crops of the same images.

        Returns:
            (n, c, h, w) each: the input of the student; the second view, None if there is none; the
            input of the teacher, None if it is that of the student.
        """
        for flips in self._flips:
            crops = flips(crops, rows, turns)
        weak = self._normalize(crops) if self._options.splits else None
        for augmenter in self._policy:
            crops = augmenter(crops, rows, turns)
        images, prob = self._normalize(crops), self._options.reprob
        if prob:
            random_erasing(images, rows, turns, prob=prob, seed=self._seed, stream=ERASING)
        if second is None:
            return images, None, weak
        for augmenter in self._second:
            second = augmenter(second, rows, turns)
        return images, self._normalize(second), weak

    def crop_boxes(
        self, rows: Tensor, turns: Tensor, size: tuple[int, int], second: bool
    ) -> Tensor:
        """Return the boxes of --scale and --ratio for the first or `second` view, (n, 4) int64.

        `size` is the height and width of the images.
        """
        options, drawn = self._options, self._draws(rows, turns, NUM_DRAWS, second)
        ratio = options.ratio or RATIO
        values, fits = draw_boxes(drawn, *size, options.scale or AREA, ratio)
        values[~fits] = central_box(*size, ratio)
        return torch.from_numpy(values)

    def offsets(self, rows: Tensor, turns: Tensor, count: int, second: bool) -> Tensor:
        """Return top, left and whether mirrored of the first or `second` view, (n, 3) int64.

        A crop may have `count` places along each side.
        """
        drawn = self._draws(rows, turns, NUM_DRAWS + 3, second)[:, NUM_DRAWS:]
        return torch.from_numpy((drawn * [count, count, 2]).astype(np.int64))

    def _draws(self, rows: Tensor, turns: Tensor, count: int, second: bool) -> np.ndarray:
        stream = CROPS + SECOND * second
        return uniforms(self._seed, stream, turns.numpy(), rows.numpy(), count)


def _policies(options: Augmentation) -> list[Policy]:
    """Return the policies of the first view; as in timm there is no color jitter beside another."""
    if options.aa is not None:
        return [build_policy(parse_policy(options.aa))]
    return [ColorJitterPolicy(options.color_jitter)] if options.color_jitter else []
