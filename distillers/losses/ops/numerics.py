"""Keep losses at float32 or higher, and their gradients finite at zero or constant vectors."""

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """Cast float16 and bfloat16 tensors to float32; others are returned unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def no_autocast(x: Tensor) -> torch.autocast:
    """Return a context that disables autocast on the device of `x`."""
    return torch.autocast(x.device.type, enabled=False)


def l2_normalize(x: Tensor, dim: int = -1) -> Tensor:
    """Divide `x` by its Euclidean norm along `dim`; norms below 1e-12 give zeros without gradient.

    Division by max(norm, eps), as in `torch.nn.functional.normalize`, would multiply the gradient
    of a zero vector by 1 / eps.
    """
    squares = x.square().sum(dim, keepdim=True)
    is_nonzero = squares > 1e-24
    return x * torch.where(is_nonzero, squares, 1.0).rsqrt() * is_nonzero


def pairwise_distances(rows: Tensor) -> Tensor:
    """Return the (n, n) Euclidean distances of the rows of (n, d).

    They are not computed by matrix products, which lose precision for nearby points.
    """
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def centered(x: Tensor, dim: int = -1) -> Tensor:
    """Subtract the mean along `dim`; vectors that are constant up to rounding give zeros."""
    deviations = x - x.mean(dim, keepdim=True)
    rounding = (8 * torch.finfo(x.dtype).eps) ** 2 * x.square().sum(dim, keepdim=True)
    return deviations * (deviations.square().sum(dim, keepdim=True) > rounding)
