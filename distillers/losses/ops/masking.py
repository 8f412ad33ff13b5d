"""Masked generation: the generator, and draws that do not depend on the number of processes."""

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import first_row
from distillers.losses.ops.negative_sampling import mixed


def generator(width: int) -> nn.Sequential:
    """Return two 3x3 convolutions with a ReLU between."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
    )


def row_draws(seed: Tensor, step: Tensor, x: Tensor, rows_per_rank: tuple[int, ...] = ()) -> Tensor:
    """Return 31-bit integers (n, m) for the first two dimensions of `x` (n, m, ...) in a step.

    They depend on the rows of the batch of all processes, not on how these are divided.
    """
    key = mixed(seed + mixed(step))
    start = first_row(x, rows_per_rank)
    rows = torch.arange(start, start + len(x), device=seed.device)
    places = torch.arange(x.shape[1], device=seed.device)
    return mixed(mixed(key + rows)[:, None] + mixed(~key + places))
