"""Maps as one row an image, without a copy where they lie in channels-last order."""

import torch
from torch import Tensor


def flatten_rows(maps: Tensor) -> Tensor:
    """(n, c h w) from (n, c, h, w), for products of rows, which do not ask in which order they are.

    All rows of one call are in the same order: channels last where the maps lie so, else first.
    """
    if maps.is_contiguous() or not maps.is_contiguous(memory_format=torch.channels_last):
        return maps.flatten(1)
    return maps.permute(0, 2, 3, 1).flatten(1)
