"""Score a network on a data set, each image counted exactly once."""

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
        acc_top5: top-5 accuracy in percent (of all classes where there are fewer than five).
        correct: images whose top-1 is right.
        total: images seen.
    """

    loss: float
    acc: float
    acc_top5: float
    correct: int
    total: int


@torch.no_grad()
def score(net: nn.Module, batches: Iterable[Batch], world: World | None = None) -> Score:
    """Score `net`, in evaluation mode and in full precision, on every image of `batches`.

    Args:
        net: maps images (n, c, h, w) to logits (n, k), on the device of the batches.
        batches: an evaluation loader's epoch.
        world: the processes that have a part of the batches each; this one alone where left out.
            Sums over batches are exact, so that the number of processes changes nothing.
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
    """Summed cross-entropy, number right, number within the first five, in float64: (3,)."""
    loss = F.cross_entropy(logits, labels, reduction="sum").double()
    ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    return torch.stack([loss, ranked[:, 0].sum().double(), ranked.any(1).sum().double()])
