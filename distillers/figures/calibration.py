"""Expected calibration error.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
https://arxiv.org/abs/1706.04599.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NUM_BINS = 15  # as in the paper


def expected_calibration_error(
    confidence: Tensor, is_correct: Tensor, num_bins: int = NUM_BINS
) -> float:
    """Compute the expected calibration error (Guo et al., equation 3).

        ECE = sum over bins B of |B| / n * |accuracy(B) - mean confidence(B)|

    The bins are (0, 1/m], (1/m, 2/m], ..., ((m - 1)/m, 1].

    Args:
        confidence: (n,) largest class probability of each image.
        is_correct: (n,) bool, whether the prediction is the label.
        num_bins: m.

    Returns:
        the error in [0, 1].
    """
    found = bin_by_confidence(confidence, is_correct, num_bins)
    return float((found.correct - found.confidence).abs().sum() / found.count.sum())


class Bins(NamedTuple):
    """Statistics of m confidence bins, each (m,) float64.

    Attributes:
        count: number of images.
        confidence: sum of their confidences.
        correct: number of correct predictions.
    """

    count: Tensor
    confidence: Tensor
    correct: Tensor


def bin_by_confidence(confidence: Tensor, is_correct: Tensor, num_bins: int = NUM_BINS) -> Bins:
    """Sum images by confidence bin, with the bins of `expected_calibration_error`."""
    confidence, correct = confidence.double(), is_correct.double()
    bins = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    values = (torch.ones_like(confidence), confidence, correct)
    zeros = torch.zeros(num_bins, dtype=torch.float64, device=confidence.device)
    return Bins(*(zeros.index_add(0, bins, each) for each in values))
