"""Evaluate a network on a data set."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.data.batch import Batch
from distillers.distributed.world import World
from distillers.errors import InputError
from distillers.features.extractor import eval_mode


@dataclass(frozen=True)
class Score:
    """Cross-entropy and accuracies of a network.

    Attributes:
        loss: mean cross-entropy in nats.
        acc: top-1 accuracy in percent.
        acc_top5: top-5 accuracy in percent, or top-k with fewer than five classes.
        balanced_acc: mean accuracy of the classes in percent.
        macro_f1: mean F1 score of the classes in percent.
        correct: number of images whose top-1 class is right.
        total: number of images.
    """

    loss: float
    acc: float
    acc_top5: float
    balanced_acc: float
    macro_f1: float
    correct: int
    total: int


@torch.no_grad()
def score(
    net: nn.Module,
    batches: Iterable[Batch],
    world: World | None = None,
    *,
    on_batch: Callable[[Batch, Tensor], None] | None = None,
) -> Score:
    """Evaluate a network, in evaluation mode and fp32, on every image of `batches`.

    Args:
        net: maps images (n, c, h, w) to logits (n, k), on the device of the batches.
        batches: an evaluation loader's epoch.
        world: processes that have a part of the batches each; this one alone by default. Sums over
            batches are exact, so that the number of processes does not change the result.
        on_batch: called with each batch and its logits (n, k).

    Raises:
        InputError: if there is no image, or the network returns anything but logits of its classes.
    """
    counted, classes, total = [], [], 0
    with eval_mode(net):
        for batch in batches:
            logits = net(batch.images)
            if not counted or batch.labels.device.type == "cpu":  # elsewhere it would wait
                _check(logits, batch.labels)
            logits = logits.float()
            if on_batch:
                on_batch(batch, logits)
            ranked = top_classes(logits)
            counted.append(_count(logits, ranked, batch.labels))
            classes.append(torch.stack(count_classes(ranked[:, 0], batch.labels, logits.shape[1])))
            total += len(batch.labels)
    rows = torch.stack(counted).tolist() if counted else []
    table = torch.stack(classes).sum(0).cpu() if classes else None
    parts = (world or World()).gather([total, rows, table])
    total = sum(count for count, _, _ in parts)
    if not total:
        raise InputError("there is nothing to score: no image could be read.")
    columns = zip(*(row for _, rows, _ in parts for row in rows), strict=True)
    loss, first, top5 = map(math.fsum, columns)
    tables = [each for _, _, each in parts if each is not None]
    counts = ClassCounts(*torch.stack(tables).sum(0))
    figures = (100 * first / total, 100 * top5 / total, counts.balanced_accuracy())
    return Score(loss / total, *figures, counts.macro_f1(), int(first), total)


def _check(logits: object, labels: Tensor) -> None:
    """Check that a network returned logits, one for every class that a label names."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(labels):
        what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"the network returns {what} for {len(labels)} images; it must return logits (n, k)."
        )
    if len(labels) and int(labels.max()) >= logits.shape[1]:
        raise InputError(
            f"the network has {logits.shape[1]} classes, but an image has the label "
            f"{int(labels.max())}; it is of another data set."
        )


def _count(logits: Tensor, ranked: Tensor, labels: Tensor) -> Tensor:
    """Return (3,) float64: summed cross-entropy, number of right top-1 and of right top-5."""
    loss = F.cross_entropy(logits, labels, reduction="sum").double()
    right = ranked == labels[:, None]
    return torch.stack([loss, right[:, 0].sum().double(), right.any(1).sum().double()])


def is_near_chance(accuracy: float, num_images: int, num_classes: int) -> bool:
    """Return whether an accuracy in percent is at most three standard deviations above chance."""
    chance = 1 / num_classes
    return accuracy / 100 <= chance + 3 * (chance * (1 - chance) / num_images) ** 0.5


def top_classes(logits: Tensor) -> Tensor:
    """Return the five largest of logits (n, k) as (n, 5) int64 classes; all if there are fewer.

    Predictions are the first column everywhere, because equal logits, which int8 networks give,
    can be ranked otherwise by another function.
    """
    return logits.topk(min(5, logits.shape[1])).indices


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
