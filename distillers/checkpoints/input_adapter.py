"""A network that was trained on images of another size or normalisation than those at hand."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.data.source import DataSource
from distillers.errors import InputError
from distillers.features.taps import Taps


class Adapted(nn.Module):
    """Gives a network the very images that it gets, as it was trained to see them.

    So a teacher and a student each see what they know, from one augmented image. What is the same
    on both sides costs nothing.

    Args:
        net: maps images to logits. Where it declares `taps`, so does this, for the same places.
        mean_from: of the normalisation of the images that come, one number a channel or one for
            all, on the scale where 0 is black and 1 is white.
        std_from: likewise.
        mean_to: of the normalisation that `net` was trained with.
        std_to: likewise.
        size: (h, w) that `net` was trained with, to which the images are resized bilinearly, with
            antialiasing where they shrink, as torchvision's `Resize` does; None for any size.

    Raises:
        InputError: for a standard deviation that is not positive, or counts that do not fit.
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
    ) -> None:
        super().__init__()
        given = (mean_from, std_from, mean_to, std_to)
        lengths = {len(numbers) for numbers in given} - {1}
        if len(lengths) > 1 or 0 in lengths or min(*std_from, *std_to) <= 0:
            raise InputError(
                f"mean {tuple(mean_from)} and std {tuple(std_from)} of the images do not fit mean "
                f"{tuple(mean_to)} and std {tuple(std_to)} of {type(net).__name__}; each must hold "
                "one number a channel, and each std be positive."
            )
        self.net = net
        self.size = size
        mean, std, own_mean, own_std = (torch.tensor(x, dtype=torch.float64) for x in given)
        scale, shift = torch.broadcast_tensors(std / own_std, (mean - own_mean) / own_std)
        self.is_same = same_numbers(mean_from, mean_to) and same_numbers(std_from, std_to)
        self.register_buffer("scale", scale.float()[:, None, None], persistent=False)
        self.register_buffer("shift", shift.float()[:, None, None], persistent=False)
        declared = getattr(net, "taps", None)
        if isinstance(declared, Taps):
            object.__setattr__(self, "taps", declared.under("net"))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, k) of images (n, c, h, w)."""
        if self.size is not None and images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        if not self.is_same:
            images = images * self.scale + self.shift
        return self.net(images)


def adapted(
    net: nn.Module,
    card: dict[str, Any],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    size: tuple[int, int],
) -> nn.Module:
    """`net` itself where its card says that it knows such images, or says nothing; else `Adapted`.

    Args:
        net: the network of the card.
        card: may have "mean", "std" and "image_size".
        mean: of the normalisation of the images that come.
        std: likewise.
        size: their (h, w).
    """
    own_mean, own_std = card.get("mean") or mean, card.get("std") or std
    side = card.get("image_size")
    own_size = size if side is None else (int(side), int(side))
    if own_size == size and same_numbers(mean, own_mean) and same_numbers(std, own_std):
        return net
    return Adapted(net, mean, std, own_mean, own_std, own_size)


def normalised(
    source: DataSource, mean: Sequence[float] | None, std: Sequence[float] | None
) -> DataSource:
    """The data set with another normalisation, or itself where none is given.

    Grey images become three equal channels where the numbers are of three.

    Raises:
        InputError: where it has not one number for each of the data set's channels.
    """
    if mean is None or std is None:
        return source
    channels, given = len(source.mean), cast(Any, source)
    if channels == 1 and len(mean) == len(std) == 3:
        given, channels = given.in_colour(), 3
    if len(mean) == len(std) == 1:
        mean, std = [*mean] * channels, [*std] * channels
    if not channels == len(mean) == len(std):
        raise InputError(
            f"{source.name} has images of {channels} channels, but the network wants them "
            f"normalised with mean {tuple(mean)} and std {tuple(std)}."
        )
    return replace(given, mean=tuple(mean), std=tuple(std))


def check_classes(card: dict[str, Any], source: DataSource, path: Path | str) -> None:
    """Refuse a network whose classes are not those of the data set, where its card names them.

    Raises:
        InputError: telling which class is the first to differ.
    """
    told = other_classes(card, source, path)
    if told:
        raise InputError(told)


def other_classes(card: dict[str, Any], source: DataSource, path: Path | str) -> str:
    """In what a network's classes are not those of the data set; "" where nothing tells so."""
    known = card.get("class_names")
    if not known or list(known) == list(source.class_names):
        return ""
    pairs = enumerate(zip_longest(known, source.class_names))
    number, (first, second) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
    return (
        f"{path} was trained on {card.get('dataset')} with other classes: its class {number} is "
        f"{first}, that of these images {second}."
    )


def same_numbers(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two means or deviations are the same to six digits; one number stands for all."""
    channels = max(len(first), len(second))
    pairs = zip(_one_each(first, channels), _one_each(second, channels), strict=True)
    return all(abs(one - other) <= 1e-6 for one, other in pairs)


def _one_each(numbers: Sequence[float], channels: int) -> list[float]:
    return list(numbers) * channels if len(numbers) == 1 else list(numbers)
