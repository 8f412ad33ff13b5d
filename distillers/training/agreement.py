"""Compare a student's embeddings with its teacher's on images without labels."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.data.source import DataSource
from distillers.distributed.world import World
from distillers.features.backbone import HeadedNetwork
from distillers.features.extractor import FeatureExtractor
from distillers.features.taps import Taps
from distillers.training.probe import NEIGHBORS, embed


@dataclass(frozen=True)
class Agreement:
    """How to score a backbone where no image has a label: by its agreement with the teacher.

    Attributes:
        source: the test images are compared.
        taps: where the network is read.
        teacher: embeddings (n, d) of the test images by the teacher.
    """

    kind: ClassVar[str] = "agreement"

    source: DataSource
    taps: Taps
    teacher: Tensor

    def figures(self, net: nn.Module, world: World) -> dict[str, float]:
        """Return the agreement of a network's embeddings with the teacher's; a collective call.

        `test_acc` is the share of an image's 20 nearest neighbors (by cosine, of the test images)
        that are among the teacher's, in percent: the mutual k-NN alignment of Huh et al., "The
        Platonic Representation Hypothesis", 2024, https://arxiv.org/abs/2405.07987. `test_acc_top5`
        is the share of images whose nearest neighbor is among the teacher's 5 nearest. `test_loss`
        is 1 minus the linear CKA (Kornblith et al., 2019, https://arxiv.org/abs/1905.00414).
        """
        net = net if isinstance(net, HeadedNetwork) else HeadedNetwork(net)
        loader = self.source.test_loader(world.device, world.shard)
        with FeatureExtractor(net, self.taps, ["pooled"]) as extractor:
            student = embed(extractor, loader, world)
        mine, its = nearest(student), nearest(self.teacher)
        same = (mine[:, :, None] == its[:, None, :]).any(2)
        first = (mine[:, :1] == its[:, :5]).any(1)
        return {
            "test_loss": 1 - linear_cka(student, self.teacher),
            "test_acc": 100 * float(same.double().mean()),
            "test_acc_top5": 100 * float(first.double().mean()),
        }


def nearest(embeddings: Tensor, neighbors: int = NEIGHBORS) -> Tensor:
    """Return the rows of the nearest other embeddings by cosine, (n, k) int64, nearest first.

    Args:
        embeddings: (n, d).
        neighbors: k; n - 1 if there are fewer.
    """
    unit = F.normalize(embeddings.double())
    similarity = (unit @ unit.T).fill_diagonal_(-torch.inf)
    return similarity.topk(min(neighbors, len(unit) - 1)).indices


def linear_cka(one: Tensor, other: Tensor) -> float:
    """Return the linear centered kernel alignment of embeddings (n, d) and (n, e), in [0, 1]."""
    x, y = (each.double() - each.double().mean(0) for each in (one, other))
    across, own, its = ((a.T @ b).square().sum() for a, b in ((x, y), (x, x), (y, y)))
    return float(across / (own * its).sqrt().clamp(min=1e-300))
