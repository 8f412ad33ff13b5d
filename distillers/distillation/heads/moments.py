"""Mean and scatter matrix of many embeddings in float64, a block of rows at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

ROWS = 8192  # embeddings that are converted to float64 at once


def mean_of(x: Tensor) -> Tensor:
    """Return the mean (d,) of embeddings (N, d) of any precision; not finite if one is not."""
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for rows in x.split(ROWS):
        total += rows.double().sum(0)
    return total / len(x)


def centered_blocks(x: Tensor, mean: Tensor) -> Iterator[Tensor]:
    """Yield blocks (n, d) of embeddings (N, d) less their mean (d,)."""
    for rows in x.split(ROWS):
        yield rows.double() - mean


def scatter_of(x: Tensor, mean: Tensor) -> Tensor:
    """Return the scatter matrix (d, d) of embeddings (N, d) around their mean (d,)."""
    scatter = mean.new_zeros(len(mean), len(mean))
    for rows in centered_blocks(x, mean):
        scatter.addmm_(rows.T, rows)
    return scatter
