"""Write rows into a memory, where indices may repeat."""

import torch
from torch import Tensor


def write_rows(memory: Tensor, index: Tensor, rows: Tensor) -> None:
    """Write rows (n, d) to the indices (n,) of a memory (N, d); the last of repeated ones wins.

    All repetitions of an index write the same row, so the result does not depend on the order of
    the writes and is the same on every device.
    """
    order = torch.arange(len(index), device=index.device)
    last = order.new_zeros(len(memory)).scatter_reduce_(0, index, order, "amax")
    memory.index_copy_(0, index, rows[last[index]])


def write_fifo(queue: Tensor, written: Tensor, pointer: Tensor, rows: Tensor) -> None:
    """Write rows (n, d) to a queue (N, d) over the oldest ones; the last N if there are more.

    Args:
        queue: the memory.
        written: (N,) which of its rows were written.
        pointer: index of the oldest row, a scalar.
        rows: the new rows.
    """
    size, n = len(queue), len(rows)
    kept = rows[-size:]
    slots = torch.arange(n - len(kept), n, device=rows.device)
    slots = (slots + pointer) % size
    pointer.add_(n).remainder_(size)
    write_rows(queue, slots, kept)
    written.index_fill_(0, slots, True)
