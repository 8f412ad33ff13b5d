"""Vectors of length one or mean zero, with a gradient that stays finite where nothing is left."""

import torch
from torch import Tensor


def l2_normalize(x: Tensor, dim: int = -1) -> Tensor:
    """`x` divided by its length along `dim`; a vector shorter than 1e-12 gives zeros, no gradient.

    The usual division by max(length, eps) multiplies the gradient of a zero vector by 1 / eps.
    """
    squares = x.square().sum(dim, keepdim=True)
    there = squares > 1e-24
    return x * torch.where(there, squares, 1.0).rsqrt() * there


def centered(x: Tensor, dim: int = -1) -> Tensor:
    """`x` less its mean along `dim`; where only rounding is left, zeros, and no gradient."""
    apart = x - x.mean(dim, keepdim=True)
    rounding = (8 * torch.finfo(x.dtype).eps) ** 2 * x.square().sum(dim, keepdim=True)
    return apart * (apart.square().sum(dim, keepdim=True) > rounding)
