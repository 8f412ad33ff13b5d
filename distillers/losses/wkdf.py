"""WKDF: match mean and standard deviation of the channels of the last map."""

import torch
from torch import Tensor, nn

from distillers.losses.fitnet import adapter
from distillers.losses.ops import require
from distillers.losses.ops.numerics import at_least_fp32
from distillers.losses.ops.schedule import half_cosine

BOTTLENECK = 256


class WKDF(nn.Module):
    """Wasserstein distance of Gaussians with the channels' means and deviations in the last map.

    "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation", Lv, Yang
    and Li, 2024, https://arxiv.org/abs/2412.08139.

        mean_weight |mean(s) - mean(t)|^2 + |std(s) - std(t)|^2

    averaged over the batch, where mean and std = sqrt(var + eps) of each channel are over the
    positions of the last map, var is divided by their number minus one, and s is the student's map
    after a projector that ends in batch normalization and ReLU. With `grid` g it is the mean of the
    values of g x g cells, which overlap where the side is no multiple of g. The loss decays by half
    a cosine from `decay_from` to the end of the training. The projector is discarded after it.

    Published weights, with a cross-entropy of 1: 0.08 for resnet32x4 to resnet8x4 (beside WKDL with
    gamma 200, `mean_weight` 8); 0.3 for wrn_40_2 to ShuffleNetV1 with `mean_weight` 3 and grid 4;
    on ImageNet 0.02 with 2, 4 and the bottleneck for ResNet34 to ResNet18, 0.005 for ResNet50 to
    MobileNetV1.

    The public code gives NaN for a cell of one position, which is refused here. Its WideResNets are
    read before their last normalization and ReLU; here the stage map is read.

    Args:
        student_channels: channels of each student stage.
        teacher_channels: channels of each teacher stage.
        student_sizes: (h, w) of each student stage.
        teacher_sizes: (h, w) of each teacher stage.
        mean_weight: weight of the means.
        eps: constant added to the variances.
        grid: cells per side.
        projector: `"conv1x1"`, one convolution, with a larger kernel where the sizes differ (see
            FitNet), or `"bottleneck"`, three convolutions with 256 channels between.
        decay_from: fraction of the training after which the loss decays.

    Raises:
        ValueError: if `projector` is unknown, the bottleneck's sizes differ, or a cell has only one
            position.
    """

    teacher_stages = (-1,)

    def __init__(
        self,
        student_channels: list[int],
        teacher_channels: list[int],
        student_sizes: list[tuple[int, int]],
        teacher_sizes: list[tuple[int, int]],
        *,
        mean_weight: float = 4.0,
        eps: float = 1e-5,
        grid: int = 1,
        projector: str = "conv1x1",
        decay_from: float = 150 / 240,
    ) -> None:
        require.positive(eps=eps, grid=grid)
        require.non_negative(mean_weight=mean_weight)
        require.fraction(decay_from=decay_from)
        require.choice(("conv1x1", "bottleneck"), projector=projector)
        super().__init__()
        self.mean_weight = mean_weight
        self.eps = eps
        self.grid = grid
        self.decay_from = decay_from
        sizes = student_sizes[-1], teacher_sizes[-1]
        channels = student_channels[-1], teacher_channels[-1]
        if projector == "conv1x1":
            self.project = adapter(*channels, *sizes)
        else:
            if sizes[0] != sizes[1]:
                raise ValueError(f"the bottleneck needs maps of one size; they are {sizes}.")
            self.project = nn.Sequential(
                nn.Conv2d(channels[0], BOTTLENECK, 1),
                nn.Conv2d(BOTTLENECK, BOTTLENECK, 3, padding=1),
                nn.Conv2d(BOTTLENECK, channels[1], 1),
            )
        self.bn = nn.BatchNorm2d(channels[1])
        is_kept = isinstance(self.project, nn.Conv2d) and self.project.kernel_size == (1, 1)
        for height, width in (sizes[0] if is_kept else sizes[1], sizes[1]):
            if max(height, width) <= grid:
                raise ValueError(
                    f"WKDF needs two positions in each cell, but grid={grid} on a map of {height} "
                    f"x {width} has cells of one."
                )

    def forward(
        self, student_maps: list[Tensor], teacher_maps: list[Tensor], progress: float
    ) -> Tensor:
        """Compute the loss from one map per stage and the fraction of training done."""
        student = self.bn(self.project(student_maps[-1])).relu()
        own_means, own_deviations = self.statistics(at_least_fp32(student))
        means, deviations = self.statistics(at_least_fp32(teacher_maps[-1].detach()))
        of_means = (own_means - means).square().sum(dim=(1, 2))
        of_deviations = (own_deviations - deviations).square().sum(dim=(1, 2))
        loss = (self.mean_weight * of_means + of_deviations).mean() / self.grid**2
        return loss * half_cosine(progress, self.decay_from)

    def statistics(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (n, c, cells) of maps (n, c, h, w)."""
        cells = [
            maps[:, :, top:bottom, left:right].flatten(2)
            for top, bottom in spans(maps.shape[2], self.grid)
            for left, right in spans(maps.shape[3], self.grid)
        ]
        means = torch.stack([cell.mean(dim=2) for cell in cells], dim=2)
        variances = torch.stack([cell.var(dim=2) for cell in cells], dim=2)
        return means, (variances + self.eps).sqrt()


def spans(length: int, count: int) -> list[tuple[int, int]]:
    """Return the ends of `count` windows, as those of adaptive pooling."""
    return [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
