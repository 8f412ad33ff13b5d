"""Writing into a memory whose rows may be named more than once."""

import torch
from torch import Tensor


def write_rows(memory: Tensor, index: Tensor, rows: Tensor) -> None:
    """Write rows (n, d) to the places index (n,) of a memory (N, d); of a repeated one, the last.

    All copies of a place write what its last one writes, so the order of writing is no matter:
    the result is the same on every device.
    """
    same = index[:, None] == index
    last = (same * torch.arange(len(index), device=index.device)).amax(dim=1)
    memory.index_copy_(0, index, rows[last])
