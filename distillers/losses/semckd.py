"""SemCKD: match every student stage with all teacher stages, weighted by attention."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.distributed.collectives import gathered, num_ranks
from distillers.losses.ops import require
from distillers.losses.ops.feature_maps import flatten_rows, same_size
from distillers.losses.ops.numerics import at_least_fp32, l2_normalize, no_autocast


class SemCKD(nn.Module):
    """Attention-weighted squared error between every student stage and all teacher stages.

    "Cross-Layer Distillation with Semantic Calibration", Chen, Mei, Zhang, Wang, Wang, Feng and
    Chen, 2021, https://arxiv.org/abs/2012.03236.

        mean over l and i of sum over k of a_lk^i mean (P_lk(S_l^i) - T_k^i)^2
        a_lk^i = softmax over k of <q_l^i, k_k^i> / softness

    where l is a student stage, k a teacher stage, i an image and P_lk a projection (three
    convolutions). Query q and key k are outputs of two-layer networks, whose input is row i of the
    stage's n x n matrix F F^T of inner products between images. If the spatial sizes differ, the
    larger map is average-pooled to the smaller. Published weight: 400 (ImageNet: 50), with
    cross-entropy and KD of weight 1. Projections and attention are trained jointly and discarded;
    the attention has a gradient, too.

    The input of the query and key networks is as long as the batch of all processes together. So
    the attention depends on an image's position in the batch, and the loss is defined for one batch
    size only. Any other is refused; the public code drops such a batch, or reshapes it wrongly if
    its size divides the expected one. The second branch of the public code, which has no gradient
    and fails in distributed training, is omitted.

    Args:
        student_channels: channels of each student stage.
        teacher_channels: channels of each teacher stage.
        batch_size: images per step and process.
        softness: temperature of the attention.
        reduction: length of the query networks' input divided by their output width.
        gather: whether to compare the images of all processes, not only those of each process.

    Raises:
        ValueError: if a batch has another size, the batch is smaller than `reduction`, or an option
            is out of range.
    """

    def __init__(
        self,
        student_channels: list[int],
        teacher_channels: list[int],
        batch_size: int,
        *,
        softness: float = 1.0,
        reduction: int = 4,
        gather: bool = True,
    ) -> None:
        require.positive(softness=softness, reduction=reduction)
        super().__init__()
        compared = batch_size * num_ranks() if gather else batch_size
        if compared < reduction:
            raise ValueError(f"batch_size is {compared}; SemCKD needs {reduction} or more.")
        self.batch_size = batch_size
        self.softness = softness
        self.gather = gather
        width = compared // reduction
        self.queries = nn.ModuleList(Embedding(compared, width) for _ in student_channels)
        self.keys = nn.ModuleList(Embedding(compared, width) for _ in teacher_channels)
        self.cross_stage = CrossStage(student_channels, teacher_channels)

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """Compute the loss from one map (n, c, h, w) per stage of each network, n = batch_size."""
        n = len(student_maps[0])
        if n != self.batch_size:
            raise ValueError(
                f"SemCKD was built for batches of {self.batch_size} and got {n}; set drop_last=True"
            )
        teacher_maps = [each.detach() for each in teacher_maps]
        weights = self.attend(student_maps, teacher_maps)
        distances = self.cross_stage(student_maps, teacher_maps)
        return (weights * distances).sum(dim=2).mean()

    def attend(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """Return attention (n, student stages, teacher stages), which sums to 1 over the last."""
        pairs = zip(self.queries, student_maps, strict=True)
        queries = [query(self.products(maps)) for query, maps in pairs]
        pairs = zip(self.keys, teacher_maps, strict=True)
        keys = [key(self.products(maps)) for key, maps in pairs]
        with no_autocast(queries[0]):
            products = torch.stack(queries, dim=1) @ torch.stack(keys, dim=2)
        return (products / self.softness).softmax(dim=2)

    def products(self, maps: Tensor) -> Tensor:
        """Return inner products (n, N) of flattened maps (n, c, h, w) with all N gathered."""
        rows = flatten_rows(at_least_fp32(maps))
        with no_autocast(rows):
            return rows @ gathered(rows, gather=self.gather).T


class CrossStage(nn.Module):
    """Distances between all student and teacher stages, by one learned projection per pair."""

    def __init__(self, student_channels: list[int], teacher_channels: list[int]) -> None:
        super().__init__()
        pairs = itertools.product(student_channels, teacher_channels)
        self.projections = nn.ModuleList(projection(*pair) for pair in pairs)

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """Return the mean squared distances (n, student stages, teacher stages) of each image."""
        distances = []
        pairs = itertools.product(student_maps, teacher_maps)
        for project, pair in zip(self.projections, pairs, strict=True):
            student, teacher = same_size(*pair)
            # convolutions are faster in this format: 5 % of SemCKD's step on a CPU
            student = student.contiguous(memory_format=torch.channels_last)
            squares = F.mse_loss(
                at_least_fp32(project(student)), at_least_fp32(teacher), reduction="none"
            )
            distances.append(squares.mean((1, 2, 3)))
        return torch.stack(distances, dim=1).unflatten(1, (len(student_maps), len(teacher_maps)))


class Embedding(nn.Module):
    """Two linear layers, the hidden one twice as wide as the unit-length output, in float32."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(in_features, 2 * out_features)
        self.linear2 = nn.Linear(2 * out_features, out_features)

    def forward(self, described: Tensor) -> Tensor:
        """Map (n, in_features) to (n, out_features)."""
        with no_autocast(described):
            return l2_normalize(self.linear2(self.linear1(described).relu()))


def projection(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return 1x1, 3x3 and 1x1 convolutions with hidden width 2 * out_channels."""
    width = 2 * out_channels
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, out_channels, 1, bias=False),
    )
