"""Normalization of uint8 images, a batch at a time, on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distillers.errors import InputError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalize:
    """Compute (x / 255 - mean) / std, and repeat a grey channel three times.

    Args:
        mean: c numbers, on the scale where 0 is black and 1 is white.
        std: c numbers, on the same scale.
        device: of the images.
        channels_last: memory format of the output.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        channels_last: bool = False,
    ) -> None:
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        center, spread = (torch.tensor(x, dtype=torch.float64).view(-1, 1, 1) for x in (mean, std))
        self._scale = (1 / (255 * spread)).to(device, torch.float32)
        self._shift = (-center / spread).to(device, torch.float32)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return (n, 3, h, w) from `pixels`, (n, c, h, w) uint8 with c 1 or 3."""
        pixels = pixels.contiguous(memory_format=self._format)
        images = pixels.float().mul_(self._scale).add_(self._shift)
        if images.shape[1] == 3:
            return images
        return images.expand(-1, 3, -1, -1).contiguous(memory_format=self._format)


def check_statistics(what: str, channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
    """Check the arguments of `Normalize` for images of a number of channels; `what` they are.

    Raises:
        InputError: if one is invalid.
    """
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise InputError(
            f"{what}: mean {tuple(mean)} and std {tuple(std)} must hold one number for each of the "
            f"{channels} channels of the images, and each std must be positive."
        )
