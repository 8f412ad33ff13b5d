"""Expected calibration error, scores of unequal classes, and the agreement of two networks.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
https://arxiv.org/abs/1706.04599.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distillers.data.batch import Batch

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
    """Sum images by confidence bin, with the bins of `expected_calibration_error`.

    Args:
        confidence: (n,) largest class probability of each image.
        is_correct: (n,) bool, whether the prediction is the label.
        num_bins: m.
    """
    confidence, correct = confidence.double(), is_correct.double()
    bins = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    values = (torch.ones_like(confidence), confidence, correct)
    zeros = torch.zeros(num_bins, dtype=torch.float64, device=confidence.device)
    return Bins(*(zeros.index_add(0, bins, each) for each in values))


def balanced_accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Compute the mean accuracy of the classes that have images, in percent.

    Args:
        predictions: (n,) int64 predicted classes.
        labels: (n,) int64.
    """
    right, _, count = _count_classes(predictions, labels)
    return 100 * float((right / count)[count > 0].mean())


def macro_f1(predictions: Tensor, labels: Tensor) -> float:
    """Compute the mean F1 score of the classes that have images or predictions, in percent.

        F1 = 2 * right / (predicted + labelled)

    Args:
        predictions: (n,) int64 predicted classes.
        labels: (n,) int64.
    """
    right, predicted, count = _count_classes(predictions, labels)
    total = predicted + count
    return 100 * float((2 * right / total)[total > 0].mean())


def _count_classes(predictions: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the right predictions, all predictions and the images of each class, (k,) float64."""
    k = 1 + int(torch.cat([predictions, labels]).max())
    counted = (labels[predictions == labels], predictions, labels)
    right, predicted, count = (torch.bincount(each, minlength=k).double() for each in counted)
    return right, predicted, count


class Predictions:
    """Predictions of a network, recorded during an evaluation.

    Recorded by `score(predictions.watch(net), predictions.label(batches))`.
    """

    def __init__(self) -> None:
        self._confidence: list[Tensor] = []
        self._classes: list[Tensor] = []
        self._labels: list[Tensor] = []

    def watch(self, net: nn.Module) -> nn.Module:
        """Wrap a network so that its predictions are recorded."""
        return _Watched(net, self)

    def label(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Iterate over batches and record their labels."""
        for batch in batches:
            self._labels.append(batch.labels)
            yield batch

    def add(self, logits: Tensor) -> None:
        """Record the logits (n, k) of a batch."""
        confidence, classes = logits.detach().double().softmax(1).max(1)
        self._confidence.append(confidence)
        self._classes.append(classes)

    def calibration_error(self) -> float:
        """Compute the expected calibration error with 15 bins."""
        is_correct = self.classes() == self.labels()
        return expected_calibration_error(torch.cat(self._confidence), is_correct)

    def classes(self) -> Tensor:
        """Return the predicted classes (n,)."""
        return torch.cat(self._classes)

    def labels(self) -> Tensor:
        """Return the labels (n,)."""
        return torch.cat(self._labels)


def agreement(first: Predictions, second: Predictions) -> float:
    """Compute how often two networks predict the same class for an image, in percent."""
    same = first.classes() == second.classes()
    return 100 * int(same.sum()) / len(same)


class _Watched(nn.Module):
    def __init__(self, net: nn.Module, predictions: Predictions) -> None:
        super().__init__()
        self.net = net
        self._predictions = predictions

    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(images)
        self._predictions.add(logits)
        return logits
