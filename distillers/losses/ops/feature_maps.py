"""Compare the stages of two networks one by one, pool their feature maps, and flatten them."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def check_stages(method: str, student: Sequence[Any], teacher: Sequence[Any]) -> None:
    """Check that two networks are read at the same number of stages.

    Raises:
        ValueError: if the numbers differ.
    """
    if len(student) != len(teacher):
        raise ValueError(
            f"{method} compares stages one by one, but the student has {len(student)} and the "
            f"teacher {len(teacher)}; set them with Taps(maps=(...), head=...), or with "
            "--taps_s and --taps_t."
        )


def downsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool maps (n, c, h, w) to `size`.

    Plain pooling is used where the size divides: its gradient on a GPU is deterministic.
    """
    height, width = maps.shape[-2:]
    if (height, width) == size:
        return maps
    if height % size[0] == 0 and width % size[1] == 0:
        return F.avg_pool2d(maps, (height // size[0], width // size[1]))
    return F.adaptive_avg_pool2d(maps, size)


def same_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps at the smaller spatial size; the larger one is average-pooled."""
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    return downsample(first, size), downsample(second, size)


def flatten_rows(maps: Tensor) -> Tensor:
    """Flatten maps (n, c, h, w) to (n, c h w), in the order in which they are stored.

    The order of a row's elements depends on the memory format: use it for inner products between
    rows of the same call only.
    """
    if maps.is_contiguous() or not maps.is_contiguous(memory_format=torch.channels_last):
        return maps.flatten(1)
    return maps.permute(0, 2, 3, 1).flatten(1)
