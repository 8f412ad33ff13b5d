"""SemCKD: every student stage learns from all teacher stages, with attention to the fitting one."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.distributed.collectives import gathered, num_ranks
from distillers.losses.ops.feature_maps import flatten_rows
from distillers.losses.ops.normalize import l2_normalize
from distillers.losses.ops.precision import at_least_fp32, no_autocast
from distillers.losses.ops.stages import same_size
from distillers.losses.ops.validation import require_positive


class SemCKD(nn.Module):
    """Cross-Layer Distillation with Semantic Calibration.

    Chen, Mei, Zhang, Wang, Wang, Feng and Chen, 2021, https://arxiv.org/abs/2012.03236.

    Every stage l of the student is projected onto every stage k of the teacher, and the distance
    counts by an attention of its own for each image i, which is learned along:

        mean over l and i of sum over k of a_lk^i mean (P_lk(S_l^i) - T_k^i)^2
        a_lk^i = softmax over k of <q_l^i, k_k^i> / softness

    Query and key are two-layer networks of row i of the stage's n x n matrix of products F F^T.
    Published weight: 400 (ImageNet 50), beside cross-entropy and KD of weight 1. Projections and
    attention are learned, and discarded; gradient passes through the attention.

    A query is a function of a row as long as the batch, of all processes together. So the attention
    depends on the place of an image in the batch, and the loss is bound to one batch size: any
    other is refused here, where public code drops it or, when it divides, reshapes it into
    nonsense. The public code's second branch, which gets no
    gradient and stops distributed training, is left out.

    Args:
        student_channels: one count a stage.
        teacher_channels: likewise.
        batch_size: images a step and process.
        softness: temperature of the attention.
        reduction: the query has (images compared with) / reduction numbers.
        gather: compare with the images of all processes of a distributed run, so that the loss is
            that of one process with the whole batch; False compares within each process.

    Raises:
        ValueError: for a batch of another size, one smaller than reduction, or an option
            out of range.
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
        require_positive(softness=softness, reduction=reduction)
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
        """The loss from one (n, c, h, w) a stage of each network, n = batch_size."""
        n = len(student_maps[0])
        if n != self.batch_size:
            raise ValueError(
                f"SemCKD was made for batches of {self.batch_size} and got {n}; load with "
                "drop_last=True."
            )
        teacher_maps = [each.detach() for each in teacher_maps]
        weights = self.attend(student_maps, teacher_maps)
        distances = self.cross_stage(student_maps, teacher_maps)
        return (weights * distances).sum(dim=2).mean()

    def attend(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """(n, student stages, teacher stages) that sum to one over the last."""
        pairs = zip(self.queries, student_maps, strict=True)
        queries = [query(self.products(maps)) for query, maps in pairs]
        pairs = zip(self.keys, teacher_maps, strict=True)
        return attention(queries, [key(self.products(maps)) for key, maps in pairs], self.softness)

    def products(self, maps: Tensor) -> Tensor:
        """(n, images compared with) products of flattened maps (n, c, h, w)."""
        rows = flatten_rows(at_least_fp32(maps))
        with no_autocast(rows):
            return rows @ gathered(rows, self.gather).T


class CrossStage(nn.Module):
    """A learned projection for each pair of stages.

    Args:
        student_channels: one count a stage.
        teacher_channels: likewise.
    """

    def __init__(self, student_channels: list[int], teacher_channels: list[int]) -> None:
        super().__init__()
        pairs = itertools.product(student_channels, teacher_channels)
        self.projections = nn.ModuleList(projection(*pair) for pair in pairs)

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """(n, student stages, teacher stages): mean squared distance, image by image."""
        distances = []
        pairs = itertools.product(student_maps, teacher_maps)
        for project, pair in zip(self.projections, pairs, strict=True):
            student, teacher = same_size(*pair)
            # 5 % of SemCKD's whole step on a CPU: its convolutions run faster so
            student = student.contiguous(memory_format=torch.channels_last)
            squares = F.mse_loss(
                at_least_fp32(project(student)), at_least_fp32(teacher), reduction="none"
            )
            distances.append(squares.mean((1, 2, 3)))
        return torch.stack(distances, dim=1).unflatten(1, (len(student_maps), len(teacher_maps)))


class Embedding(nn.Module):
    """Two linear layers to vectors of length one, in full precision.

    Args:
        in_features: numbers that describe an image.
        out_features: width of the result; twice as many in between.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(in_features, 2 * out_features)
        self.linear2 = nn.Linear(2 * out_features, out_features)

    def forward(self, described: Tensor) -> Tensor:
        """(n, out_features) from (n, in_features)."""
        with no_autocast(described):
            return l2_normalize(self.linear2(self.linear1(described).relu()))


def attention(queries: list[Tensor], keys: list[Tensor], softness: float) -> Tensor:
    """(n, student stages, teacher stages), a softmax over the last, from one (n, d) a stage."""
    with no_autocast(queries[0]):
        products = torch.stack(queries, dim=1) @ torch.stack(keys, dim=2)
    return (products / softness).softmax(dim=2)


def projection(in_channels: int, out_channels: int) -> nn.Sequential:
    """1 x 1, 3 x 3, 1 x 1 convolutions, twice as wide as the result in between."""
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
