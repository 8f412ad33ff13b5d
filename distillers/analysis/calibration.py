"""Whether a network's confidence is how often it is right, and how often two networks agree.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
https://arxiv.org/abs/1706.04599.
"""

from collections.abc import Iterable, Iterator

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
    confidence, right = confidence.double(), is_right.double()
    bins = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    gaps = torch.zeros(num_bins, dtype=torch.float64, device=confidence.device)
    gaps.index_add_(0, bins, right - confidence)  # |B| (accuracy - confidence)
    return float(gaps.abs().sum() / len(confidence))


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
