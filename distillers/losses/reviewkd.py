"""ReviewKD: match each teacher level with a fusion of the student levels from there on."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.feature_maps import check_stages, downsample
from distillers.losses.ops.numerics import at_least_fp32
from distillers.losses.ops.schedule import linear_ramp


class ReviewKD(nn.Module):
    """Multi-resolution squared error between fused student levels and teacher levels.

    "Distilling Knowledge via Knowledge Review", Chen, Liu, Zhao and Jia, 2021,
    https://arxiv.org/abs/2104.09044.

    The levels are the stages and the pooled embedding. From the last level to the first, an
    attention-based fusion (ABF) merges a student level with the fused next level, and the result is
    compared with the teacher's level at several resolutions (HCL):

        sum over levels of [MSE of the whole map + 1/2, 1/4, 1/8 times the MSE of those of its
        4x4, 2x2 and 1x1 averages that are smaller] / sum of these weights

    The teacher's maps are read before the last activation of each stage and the student's after it,
    as in the public code for CIFAR-100; the code for ImageNet also reads the student's before it.
    Published weight: depends on the pair of networks, usually 5 on CIFAR-100 (0.6 to 8) and 1 or 8
    on ImageNet, after a linear warm-up over the first 20 of 240 epochs (`ramp=20 / 240`; on
    ImageNet 1 of 100), which here changes with each step and in the public code with each epoch.
    The fusions are trained jointly and discarded.

    Args:
        student_channels: channels of each student stage.
        student_dim: width of the student's embedding.
        teacher_channels: channels of each teacher stage.
        teacher_dim: width of the teacher's embedding.
        max_width: maximum width of the fusions; they have the width of the student's embedding if
            that is smaller.
        ramp: fraction of the training during which the loss is scaled linearly from 0 to 1.

    Raises:
        ValueError: if the numbers of stages differ or an option is out of range.
    """

    def __init__(
        self,
        student_channels: list[int],
        student_dim: int,
        teacher_channels: list[int],
        teacher_dim: int,
        *,
        max_width: int = 512,
        ramp: float = 0.0,
    ) -> None:
        require.positive(max_width=max_width)
        require.fraction(ramp=ramp)
        super().__init__()
        check_stages("ReviewKD", student_channels, teacher_channels)
        self.ramp = ramp
        width = min(max_width, student_dim)
        student, teacher = [*student_channels, student_dim], [*teacher_channels, teacher_dim]
        self.fusions = nn.ModuleList(
            Fusion(s, width, t, first=i == 0)
            for i, (s, t) in enumerate(zip(student[::-1], teacher[::-1], strict=True))
        )

    def forward(
        self,
        student_maps: list[Tensor],
        student_pooled: Tensor,
        teacher_preacts: list[Tensor],
        teacher_pooled: Tensor,
        progress: float,
    ) -> Tensor:
        """Compute the loss.

        Args:
            student_maps: one map (n, c, h, w) per stage.
            student_pooled: (n, d_s) embeddings.
            teacher_preacts: one pre-activation map (n, c, h, w) per stage.
            teacher_pooled: (n, d_t) embeddings.
            progress: fraction of the training that is done.
        """
        student = [*student_maps, student_pooled[:, :, None, None]]
        teacher = [*teacher_preacts, teacher_pooled[:, :, None, None]]
        parts, carried = [], None
        for fusion, own, wanted in zip(self.fusions, student[::-1], teacher[::-1], strict=True):
            fused, carried = fusion(own, carried, wanted.shape[-2:])
            parts.append(pyramid(at_least_fp32(fused), at_least_fp32(wanted.detach())))
        loss = torch.stack(parts).sum()
        return loss * linear_ramp(progress, self.ramp)


class Fusion(nn.Module):
    """Attention-based fusion of a student level with the fused next level."""

    def __init__(self, before: int, width: int, after: int, *, first: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width))
        self.leave = nn.Sequential(
            nn.Conv2d(width, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)
        )
        self.attend = None if first else nn.Conv2d(2 * width, 2, 1)
        for module in (*self.enter, *self.leave):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)

    def forward(
        self, own: Tensor, carried: Tensor | None, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return a map (n, after, *size) to compare with the teacher's, and one to pass on."""
        own = self.enter(own)
        if self.attend is not None and carried is not None:
            carried = F.interpolate(carried, own.shape[-2:], mode="nearest")
            share = self.attend(torch.cat((own, carried), dim=1)).sigmoid()
            own = own * share[:, :1] + carried * share[:, 1:]
        own = F.interpolate(own, size, mode="nearest")
        return self.leave(own), own


def pyramid(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the weighted error of whole maps and of their 4x4, 2x2 and 1x1 averages."""
    loss, weight, total = F.mse_loss(student, teacher), 1.0, 1.0
    for side in (4, 2, 1):
        if side < min(student.shape[-2:]):
            weight /= 2
            total += weight
            coarse = F.mse_loss(
                downsample(student, (side, side)), downsample(teacher, (side, side))
            )
            loss = loss + weight * coarse
    return loss / total
