"""Whether a network's confidence is how often it is right, and how often two networks agree.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
https://arxiv.org/abs/1706.04599.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distillers.data.batch import Batch

NUM_BINS = 15  # theirs


def expected_calibration_error(
    confidence: Tensor, is_right: Tensor, num_bins: int = NUM_BINS
) -> float:
    """ECE = sum over bins of |B| / n * |accuracy(B) - mean confidence(B)|, their equation 3.

    The bins are (0, 1/m], (1/m, 2/m], ..., ((m - 1)/m, 1].

    Args:
        confidence: (n,) the largest probability of each image.
        is_right: (n,) whether its class is the label.
        num_bins: m.

    Returns:
        a number in [0, 1].
    """
    found = bins_of(confidence, is_right, num_bins)
    return float((found.right - found.confidence).abs().sum() / found.count.sum())


class Bins(NamedTuple):
    """What is in each of m bins of confidence.

    Attributes:
        count: (m,) images.
        confidence: (m,) the sum of their confidence.
        right: (m,) how many of them are right.
    """

    count: Tensor
    confidence: Tensor
    right: Tensor


def bins_of(confidence: Tensor, is_right: Tensor, num_bins: int = NUM_BINS) -> Bins:
    """Sort images by their confidence into bins as `expected_calibration_error` does, in float64.

    Args:
        confidence: (n,) the largest probability of each image.
        is_right: (n,) whether its class is the label.
        num_bins: m.
    """
    confidence, right = confidence.double(), is_right.double()
    bins = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    values = (torch.ones_like(confidence), confidence, right)
    zeros = torch.zeros(num_bins, dtype=torch.float64, device=confidence.device)
    return Bins(*(zeros.index_add(0, bins, each) for each in values))


class Predictions:
    """What a network says of each image, noted while it is scored.

    `score(predictions.watch(net), predictions.label(batches))` fills it.
    """

    def __init__(self) -> None:
        self._confidence: list[Tensor] = []
        self._classes: list[Tensor] = []
        self._labels: list[Tensor] = []

    def watch(self, net: nn.Module) -> nn.Module:
        """A module that computes what `net` does, and notes it."""
        return _Watched(net, self)

    def label(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, their labels noted."""
        for batch in batches:
            self._labels.append(batch.labels)
            yield batch

    def note(self, logits: Tensor) -> None:
        """Keep class and confidence of one batch's (n, k)."""
        confidence, classes = logits.detach().double().softmax(1).max(1)
        self._confidence.append(confidence)
        self._classes.append(classes)

    def calibration_error(self) -> float:
        """The expected calibration error with 15 bins."""
        is_right = self.classes() == torch.cat(self._labels)
        return expected_calibration_error(torch.cat(self._confidence), is_right)

    def classes(self) -> Tensor:
        """(n,) the class that each image is given."""
        return torch.cat(self._classes)


def agreement(first: Predictions, second: Predictions) -> float:
    """Of how many of the same images two networks say the same class, in percent."""
    same = first.classes() == second.classes()
    return 100 * int(same.sum()) / len(same)


class _Watched(nn.Module):
    def __init__(self, net: nn.Module, predictions: Predictions) -> None:
        super().__init__()
        self.net = net
        self._predictions = predictions

    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(images)
        self._predictions.note(logits)
        return logits
