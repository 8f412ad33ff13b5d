"""Scores that count every class alike, however many images it has."""

from typing import NamedTuple

import torch
from torch import Tensor


class ClassCounts(NamedTuple):
    """Counts of each class, (k,) float64.

    Attributes:
        right: right predictions.
        predicted: predictions.
        labelled: images.
    """

    right: Tensor
    predicted: Tensor
    labelled: Tensor

    def balanced_accuracy(self) -> float:
        """Compute the mean accuracy of the classes that have images, in percent."""
        return 100 * float((self.right / self.labelled)[self.labelled > 0].mean())

    def macro_f1(self) -> float:
        """Compute the mean F1 score of the classes that have images or predictions, in percent.

        F1 = 2 * right / (predicted + labelled)
        """
        total = self.predicted + self.labelled
        return 100 * float((2 * self.right / total)[total > 0].mean())


def count_classes(predictions: Tensor, labels: Tensor, num_classes: int) -> ClassCounts:
    """Count the images of each class, for predicted classes (n,) and labels (n,), both int64.

    This does not wait for the device.
    """
    weights = (predictions == labels).double()
    ones, zeros = torch.ones_like(weights), weights.new_zeros(num_classes)
    return ClassCounts(
        zeros.index_add(0, labels, weights),
        zeros.index_add(0, predictions, ones),
        zeros.index_add(0, labels, ones),
    )
