"""Inner products and weighted sums of selected rows of a large memory bank."""

import torch
import torch.nn.functional as F
from torch import Tensor

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
