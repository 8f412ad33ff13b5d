"""Writing into a memory whose rows may be named more than once."""

import torch
from torch import Tensor


def write_rows(memory: Tensor, index: Tensor, rows: Tensor) -> None:
    """Write rows (n, d) to the places index (n,) of a memory (N, d); of a repeated one, the last.

    All copies of a place write what its last one writes, so the order of writing is no matter:
    the result is the same on every device.
    """
    order = torch.arange(len(index), device=index.device)
    last = order.new_zeros(len(memory)).scatter_reduce_(0, index, order, "amax")
    memory.index_copy_(0, index, rows[last[index]])
