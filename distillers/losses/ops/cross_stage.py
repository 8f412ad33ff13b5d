"""Every stage of a student against every stage of a teacher, with attention over the latter."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.normalize import unit
from distillers.losses.ops.precision import full, no_autocast
from distillers.losses.ops.stages import same_size


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
            squares = F.mse_loss(full(project(student)), full(teacher), reduction="none")
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
            return unit(self.linear2(self.linear1(described).relu()))


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
