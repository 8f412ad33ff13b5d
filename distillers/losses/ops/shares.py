"""Shares of images and of classes below the median, by which public code scales its losses."""

import torch
from torch import Tensor


def share_below_median(values: Tensor) -> Tensor:
    """Return the fraction, a scalar, of values (n,) that are not above their median.

    The median of an even number of values is the mean of the two in the middle.
    """
    ranked = values.sort().values
    median = (ranked[(len(values) - 1) // 2] + ranked[len(values) // 2]) / 2
    return (values <= median).to(values.dtype).mean()


@torch.no_grad()
def uncertain_share(teacher: Tensor) -> Tensor:
    """Return the fraction of logits (n, k) with a confidence of at most the median."""
    return share_below_median(teacher.softmax(dim=1).amax(dim=1))


@torch.no_grad()
def rare_share(teacher: Tensor) -> Tensor:
    """Return the fraction of classes with at most the median of the probability in all rows."""
    return share_below_median(teacher.softmax(dim=1).sum(dim=0))
