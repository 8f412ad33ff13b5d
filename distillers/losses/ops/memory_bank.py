"""Read and write rows of a large memory."""

import torch
import torch.nn.functional as F
from torch import Tensor

from distillers.losses.ops.numerics import l2_normalize, no_autocast

CHUNK = 2**24  # elements gathered at once: 64 MiB


def dense_is_cheaper(bank: Tensor, rows: Tensor) -> bool:
    """Return whether multiplying the whole bank moves less memory than gathering its rows."""
    (total, dim), n = bank.shape, len(rows)
    return total * dim + n * total < rows.numel() * dim


def row_products(anchors: Tensor, bank: Tensor, rows: Tensor) -> Tensor:
    """Return inner products (n, m) of anchors (n, dim) with rows (n, m) of a bank (N, dim)."""
    if dense_is_cheaper(bank, rows):
        return (anchors @ bank.T).gather(1, rows)
    step = max(1, CHUNK // (rows.shape[1] * bank.shape[1]))
    pairs = zip(anchors.split(step), rows.split(step), strict=True)
    return torch.cat([(bank[few] @ anchor[:, :, None])[:, :, 0] for anchor, few in pairs])


def weighted_row_sum(weights: Tensor, bank: Tensor, rows: Tensor) -> Tensor:
    """Return the sums (n, dim) of the rows (n, m) of a bank (N, dim), weighted by (n, m)."""
    if dense_is_cheaper(bank, rows):
        spread = weights.new_zeros(len(rows), len(bank)).scatter_add_(1, rows, weights)
        return spread @ bank
    return F.embedding_bag(rows, bank, per_sample_weights=weights, mode="sum")


def similarities(anchors: Tensor, memory: Tensor, written: Tensor, temperature: float) -> Tensor:
    """Return the logits (n, N) of anchors (n, d) against the rows of a memory (N, d).

    They are inner products over the temperature; where a row was not written, a finite number so
    low that its probability is 0, unless no row was written.
    """
    with no_autocast(memory):
        products = anchors @ memory.T / temperature
    return products.masked_fill(~written, torch.finfo(products.dtype).min / 2)


def average_rows(memory: Tensor, index: Tensor, rows: Tensor, momentum: float) -> None:
    """Move the rows `index` (n,) of a memory (N, d) towards new ones (n, d), all of unit length."""
    write_rows(memory, index, l2_normalize(momentum * memory[index] + (1 - momentum) * rows))


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

    `written` (N,) marks the rows that were written, and `pointer` () is the index of the oldest.
    """
    size, n = len(queue), len(rows)
    kept = rows[-size:]
    slots = torch.arange(n - len(kept), n, device=rows.device)
    slots = (slots + pointer) % size
    pointer.add_(n).remainder_(size)
    write_rows(queue, slots, kept)
    written.index_fill_(0, slots, True)
