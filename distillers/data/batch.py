"""What every loader yields and every task reads."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """One batch on the training device.

    Attributes:
        images: (n, c, h, w), augmented and normalised, floating point.
        labels: (n,) int64 class numbers.
        index: (n,) int64 rows in the training set (in the test set while evaluating).
    """

    images: Tensor
    labels: Tensor
    index: Tensor
