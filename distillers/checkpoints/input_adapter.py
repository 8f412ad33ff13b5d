"""Adapt images to the size and normalization that a network was trained with."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.data.source import DataSource
from distillers.errors import InputError
from distillers.features.taps import declare_inner_taps


class InputAdapter(nn.Module):
    """Resize and renormalize images before a network.

    It lets a teacher and a student that expect different inputs share one augmented image. Steps
    that would change nothing are skipped.

    Args:
        net: maps images to logits. If it declares `taps`, the adapter declares the same places.
        mean_from: mean of the incoming images' normalization, one number per channel or one for
            all, on the scale where 0 is black and 1 is white.
        std_from: standard deviation of the incoming images' normalization.
        mean_to: mean of the normalization that `net` was trained with.
        std_to: standard deviation of the normalization that `net` was trained with.
        size: (h, w) that `net` was trained with; images are resized to it bilinearly with
            antialiasing, as by torchvision's `Resize`. None accepts any size.
        interpolation: "bilinear" or "bicubic", how images are resized.

    Raises:
        InputError: if a standard deviation is not positive, or the numbers of channels differ.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        net: nn.Module,
        mean_from: Sequence[float],
        std_from: Sequence[float],
        mean_to: Sequence[float],
        std_to: Sequence[float],
        size: tuple[int, int] | None,
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__()
        given = (mean_from, std_from, mean_to, std_to)
        lengths = {len(numbers) for numbers in given} - {1}
        if len(lengths) > 1 or 0 in lengths or min(*std_from, *std_to) <= 0:
            raise InputError(
                f"mean {tuple(mean_from)} and std {tuple(std_from)} of the images do not fit mean "
                f"{tuple(mean_to)} and std {tuple(std_to)} of {type(net).__name__}; each must hold "
                "one number per channel, and each std must be positive."
            )
        self.net = net
        self.size, self.interpolation = size, interpolation
        mean, std, own_mean, own_std = (torch.tensor(x, dtype=torch.float64) for x in given)
        scale, shift = torch.broadcast_tensors(std / own_std, (mean - own_mean) / own_std)
        self.is_same = same_statistics(mean_from, mean_to) and same_statistics(std_from, std_to)
        self.register_buffer("scale", scale.float()[:, None, None], persistent=False)
        self.register_buffer("shift", shift.float()[:, None, None], persistent=False)
        declare_inner_taps(self, net)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, k) of images (n, c, h, w)."""
        if self.size is not None and images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode=self.interpolation, antialias=True)
        if not self.is_same:
            images = images * self.scale + self.shift
        return self.net(images)


def adapt_input(net: nn.Module, card: dict[str, Any], source: DataSource) -> nn.Module:
    """Return `net`, in an `InputAdapter` if its card asks for other images than a data set has."""
    mean, std = source.mean, source.std
    own_mean, own_std = card.get("mean") or mean, card.get("std") or std
    side = card.get("image_size") or source.image_size
    same = same_statistics(mean, own_mean) and same_statistics(std, own_std)
    if side == source.image_size and same:
        return net
    interpolation = card.get("interpolation", "bilinear")
    return InputAdapter(net, mean, std, own_mean, own_std, (side, side), interpolation)


def with_normalization(
    source: DataSource, mean: Sequence[float] | None, std: Sequence[float] | None
) -> DataSource:
    """Return the data set with another normalization, or unchanged if none is given.

    Grey images are repeated to three channels if there are three numbers.

    Raises:
        InputError: if there is not one number per channel of the data set.
    """
    if mean is None or std is None:
        return source
    channels, given = len(source.mean), cast(Any, source)
    if channels == 1 and len(mean) == len(std) == 3:
        given, channels = given.in_color(), 3
    if len(mean) == len(std) == 1:
        mean, std = [*mean] * channels, [*std] * channels
    if not channels == len(mean) == len(std):
        raise InputError(
            f"{source.name} has images of {channels} channels, but the network expects "
            f"normalization with mean {tuple(mean)} and std {tuple(std)}."
        )
    return replace(given, mean=tuple(mean), std=tuple(std))


def check_classes(card: dict[str, Any], source: DataSource, path: Path | str) -> None:
    """Check that the class names in a network's card, if any, are those of the data set."""
    mismatch = class_mismatch(card, source, path)
    if mismatch:
        raise InputError(mismatch)


def class_mismatch(card: dict[str, Any], source: DataSource, path: Path | str) -> str:
    """Return how a network's classes differ from those of the data set; "" if unknown or equal."""
    known = card.get("class_names")
    if not known or list(known) == list(source.class_names):
        return ""
    if sorted(known) == sorted(source.class_names):
        return (
            f"{path} has the classes of {source.name} in another order: its first ones are "
            f"{', '.join(known[:3])}, those of these images {', '.join(source.class_names[:3])}; "
            "rename the folders so that their alphabetical order is that of the network (01, 02, "
            "... instead of 1, 2, ...)."
        )
    pairs = enumerate(zip_longest(known, source.class_names))
    number, names = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
    first, second = (name or "none" for name in names)
    return (
        f"{path} was trained on {card.get('dataset')} with other classes: its class {number} is "
        f"{first}, that of these images {second}."
    )


def same_statistics(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return whether two statistics agree to 1e-6; one number is for all channels."""
    return np.allclose(first, second, rtol=0, atol=1e-6)


def known_interpolation(interpolation: str) -> str:
    """Return the interpolation if images are resized so here, else "bilinear"."""
    return interpolation if interpolation in ("bilinear", "bicubic") else "bilinear"
