"""Flatten feature maps without copying those in channels-last memory format."""

import torch
from torch import Tensor


def flatten_rows(maps: Tensor) -> Tensor:
    """Flatten maps (n, c, h, w) to (n, c h w), in the order in which they are stored.

    The order of a row's elements depends on the memory format: use it for inner products between
    rows of the same call only.
    """
    if maps.is_contiguous() or not maps.is_contiguous(memory_format=torch.channels_last):
        return maps.flatten(1)
    return maps.permute(0, 2, 3, 1).flatten(1)
