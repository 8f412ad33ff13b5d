"""Evaluate a network on a data set."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

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
        correct: number of images whose top-1 class is right.
        total: number of images.
    """

    loss: float
    acc: float
    acc_top5: float
    correct: int
    total: int


@torch.no_grad()
def score(net: nn.Module, batches: Iterable[Batch], world: World | None = None) -> Score:
    """Evaluate a network, in evaluation mode and fp32, on every image of `batches`.

    Args:
        net: maps images (n, c, h, w) to logits (n, k), on the device of the batches.
        batches: an evaluation loader's epoch.
        world: processes that have a part of the batches each; this one alone by default. Sums over
            batches are exact, so that the number of processes does not change the result.

    Raises:
        InputError: if there is no image.
    """
    counted, total = [], 0
    with eval_mode(net):
        for batch in batches:
            counted.append(_count(net(batch.images).float(), batch.labels))
            total += len(batch.labels)
    rows = torch.stack(counted).tolist() if counted else []
    parts = (world or World()).gather([total, rows])
    total = sum(count for count, _ in parts)
    if not total:
        raise InputError("there is nothing to score: no image could be read.")
    columns = zip(*(row for _, rows in parts for row in rows), strict=True)
    loss, first, top5 = map(math.fsum, columns)
    return Score(loss / total, 100 * first / total, 100 * top5 / total, int(first), total)


def _count(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (3,) float64: summed cross-entropy, number of right top-1 and of right top-5."""
    loss = F.cross_entropy(logits, labels, reduction="sum").double()
    ranked = top_classes(logits) == labels[:, None]
    return torch.stack([loss, ranked[:, 0].sum().double(), ranked.any(1).sum().double()])


def top_classes(logits: Tensor) -> Tensor:
    """Return the five most probable classes of each image, (n, 5) int64; all if there are fewer.

    Predictions are the first column everywhere, because equal logits, which int8 networks give,
    can be ranked otherwise by another function.

    Args:
        logits: (n, k) float32.
    """
    return logits.topk(min(5, logits.shape[1])).indices
