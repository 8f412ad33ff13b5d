"""Score embeddings: by a classifier that labelled images define, or by those of the teacher."""

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.data.source import BatchLoader, DataSource
from distillers.distillation.heads.linear import fit_ridge
from distillers.distributed.world import World
from distillers.errors import InputError
from distillers.features.backbone import HeadedNetwork
from distillers.features.extractor import FeatureExtractor, eval_mode
from distillers.features.taps import Taps

NEIGHBORS, TEMPERATURE = 20, 0.07
LEAST = 1e-6  # share of the votes of a class without any, for the cross-entropy

Kind = Literal["knn", "linear"]


@dataclass(frozen=True)
class Probe:
    """How to score a network by its embeddings.

    Attributes:
        kind: "knn" or "linear".
        bank: its training images with labels are what the network's embeddings are compared with.
        taps: where the network is read.
        is_backbone: whether the network has no classifier; `taps` are of a `HeadedNetwork` of it.
    """

    kind: Kind
    bank: DataSource
    taps: Taps
    is_backbone: bool = False

    def classifier(self, net: nn.Module, world: World) -> nn.Module:
        """Return a classifier that a network's present embeddings of the bank define.

        A collective call: each process embeds a part of the images.

        Raises:
            InputError: if the embeddings are not finite, or the bank has too few labels.
        """
        net = HeadedNetwork(net) if self.is_backbone else net
        labelled = self.bank.keep((self.bank.train_labels >= 0).nonzero().flatten())
        loader = labelled.train_eval_loader(world.device, world.shard)
        embeddings = embed(net, self.taps, loader, world)
        if not bool(embeddings.isfinite().all()):
            raise InputError("the student's embeddings are not finite; lower the learning rate.")
        labels, classes = labelled.train_labels.to(embeddings.device), self.bank.num_classes
        if self.kind == "knn":
            decide: nn.Module = NearestNeighbors(embeddings, labels, classes)
        else:
            decide = fit_ridge(embeddings, labels, classes).module().to(embeddings.device)
        return _OnEmbeddings(net, self.taps, decide)


class NearestNeighbors(nn.Module):
    """Classify embeddings by a weighted vote of the nearest ones of known class.

    The vote of a neighbor with cosine similarity s has the weight exp(s / 0.07), of 20 neighbors,
    as in Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (DINO), 2021,
    https://arxiv.org/abs/2104.14294, which follows Wu et al., 2018.

    Args:
        embeddings: (N, d).
        labels: (N,) int64.
        num_classes: k.
        neighbors: number of neighbors; all if there are fewer embeddings.
    """

    def __init__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        num_classes: int,
        *,
        neighbors: int = NEIGHBORS,
    ) -> None:
        super().__init__()
        self.bank, self.labels = F.normalize(embeddings.float()), labels
        self.num_classes = num_classes
        self.neighbors = min(neighbors, len(labels))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the logarithm of each class's share of the votes (n, k), at least log 1e-6."""
        similarity = F.normalize(embeddings.float()) @ self.bank.T
        nearest, rows = similarity.topk(self.neighbors)
        weights = (nearest / TEMPERATURE).softmax(1)
        votes = weights.new_zeros(len(weights), self.num_classes)
        votes.scatter_add_(1, self.labels[rows], weights)
        return votes.clamp(min=LEAST).log()


@torch.no_grad()
def embed(net: nn.Module, taps: Taps, loader: BatchLoader, world: World) -> Tensor:
    """Return the embeddings of all images of an evaluation, (N, d) in their order.

    A collective call; `loader` has this process's part of the images.
    """
    rows, found = [], []
    with FeatureExtractor(net, taps, ["pooled"]) as read, eval_mode(net):
        for batch in loader.epoch(1):
            found.append(_pooled(read, batch.images).cpu())
            rows.append(batch.index.cpu())
    parts = world.gather((rows, found))
    order = torch.cat([row for rows, _ in parts for row in rows]).argsort()
    return torch.cat([each for _, found in parts for each in found])[order].to(world.device)


def _pooled(read: FeatureExtractor, images: Tensor) -> Tensor:
    """Return the embeddings (n, d) of images, in float32."""
    return cast(Tensor, read(images)["pooled"]).float().flatten(1)


class _OnEmbeddings(nn.Module):
    """Apply a classifier to the embeddings of a network."""

    def __init__(self, net: nn.Module, taps: Taps, decide: nn.Module) -> None:
        super().__init__()
        self.net, self.decide, self.taps = net, decide, taps

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (n, k) of images (n, c, h, w)."""
        with FeatureExtractor(self.net, self.taps, ["pooled"]) as extractor:
            return self.decide(_pooled(extractor, images))


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
        student = embed(net, self.taps, loader, world)
        rows, teacher_rows = nearest(student), nearest(self.teacher)
        same = (rows[:, :, None] == teacher_rows[:, None, :]).any(2)
        first = (rows[:, :1] == teacher_rows[:, :5]).any(1)
        return {
            "test_loss": 1 - linear_cka(student, self.teacher),
            "test_acc": 100 * float(same.double().mean()),
            "test_acc_top5": 100 * float(first.double().mean()),
        }


def nearest(embeddings: Tensor, neighbors: int = NEIGHBORS) -> Tensor:
    """Return the rows of the nearest other embeddings by cosine, nearest first.

    For embeddings (n, d) they are (n, k) int64; k is at most n - 1.
    """
    unit = F.normalize(embeddings.double())
    similarity = (unit @ unit.T).fill_diagonal_(-torch.inf)
    return similarity.topk(min(neighbors, len(unit) - 1)).indices


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return the linear centered kernel alignment of embeddings (n, d) and (n, e), in [0, 1]."""
    x, y = (each.double() - each.double().mean(0) for each in (x, y))
    xy, xx, yy = ((a.T @ b).square().sum() for a, b in ((x, y), (x, x), (y, y)))
    return float(xy / (xx * yy).sqrt().clamp(min=1e-300))
