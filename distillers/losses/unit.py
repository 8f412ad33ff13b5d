"""Vectors of length one, with a gradient that stays finite where there is no direction."""

import torch
from torch import Tensor


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """`x` divided by its length along `dim`; a vector shorter than 1e-12 gives zeros, no gradient.

    The usual division by max(length, eps) multiplies the gradient of a zero vector by 1 / eps.
    """
    squares = x.square().sum(dim, keepdim=True)
    there = squares > 1e-24
    return x * torch.where(there, squares, 1.0).rsqrt() * there
