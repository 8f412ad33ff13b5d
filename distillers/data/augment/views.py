"""The views of training images: what is done to them between the crop and the normalization."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distillers.config.augmentation import Augmentation
from distillers.data.augment.augmenter import Augmenter
from distillers.data.augment.draws import uniforms

# Keep the random numbers of one image apart.
STRONG_POLICY, STRONG_CROP = 1, 2


class Views:
    """The augmentation of the views of each image.

    Args:
        options: what is done.
        mean: c numbers, on the scale where 0 is black and 1 is white.
        seed: any integer.
        device: of the images.
    """

    def __init__(
        self, options: Augmentation, mean: Sequence[float], seed: int, device: torch.device
    ) -> None:
        self._seed = seed
        self._strong = None
        if options.strong_aa is not None:
            self._strong = Augmenter(
                options.strong_aa, mean, seed=seed, stream=STRONG_POLICY, device=device
            )

    @property
    def has_strong(self) -> bool:
        """Whether there is a second view."""
        return self._strong is not None

    def strong(self, images: Tensor, rows: Tensor, turns: Tensor) -> Tensor:
        """Return the second view; see `Augmenter`."""
        return self._strong(images, rows, turns) if self._strong else images

    def strong_crops(self, rows: Tensor, turns: Tensor, offsets: int) -> Tensor:
        """Return top, left and whether mirrored of the crops of the second view, (3, n) int64.

        Args:
            rows: (n,) int64 on the CPU, which images they are.
            turns: (n,) int64 on the CPU, the epoch, or the fixed view of each.
            offsets: how many places a crop may have, along each side.
        """
        drawn = uniforms(self._seed, STRONG_CROP, turns.numpy(), rows.numpy(), 3)
        scale = torch.tensor([offsets, offsets, 2], dtype=torch.float64)
        return (torch.from_numpy(drawn) * scale).long().T
