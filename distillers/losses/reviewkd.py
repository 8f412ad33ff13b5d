"""ReviewKD: each teacher stage teaches all the student's stages from there down."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.precision import at_least_fp32
from distillers.losses.ops.stages import check_stages, downsample
from distillers.losses.ops.validation import require_fraction, require_positive


class ReviewKD(nn.Module):
    """Distilling Knowledge via Knowledge Review.

    Chen, Liu, Zhao and Jia, 2021, https://arxiv.org/abs/2104.09044.

    From the deepest level, the pooled embedding, up to the first stage, attention fuses each
    student level with what came from below it (ABF); the result is to match the teacher's level at
    several resolutions (HCL). So an early student stage also answers for deeper levels:

        sum over levels of the pyramid's mean squared errors: the whole map with 1, then those of
        its 4x4, 2x2 and 1x1 averages that are smaller with 1/2, 1/4, 1/8 in turn, over their sum

    The teacher's maps are read before the last activation, the student's after it, as in the public
    code for CIFAR-100; its ImageNet runs read the student's before it, too. Published weight: by
    pair of networks, 5 as a rule on CIFAR-100 (0.6 to 8), 1 or 8 on ImageNet, after a linear rise
    over the first 20 of 240 epochs (`ramp=20 / 240`; ImageNet 1 of 100), which here grows step by
    step. The fusions are learned, and discarded.

    Args:
        student_channels: channels of the student's stages.
        student_dim: width of the student's embedding.
        teacher_channels: channels of the teacher's stages.
        teacher_dim: width of the teacher's embedding.
        max_width: the fusions work at the width of the student's embedding, but at most this.
        ramp: share of the training during which the loss rises linearly from zero.

    Raises:
        ValueError: when the numbers of stages differ, or for an option out of range.
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
        require_positive(max_width=max_width)
        require_fraction(ramp=ramp)
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
        """The loss from lists of (n, c, h, w), two (n, d), and the share of training done."""
        student = [*student_maps, student_pooled[:, :, None, None]]
        teacher = [*teacher_preacts, teacher_pooled[:, :, None, None]]
        parts, carried = [], None
        for fusion, own, wanted in zip(self.fusions, student[::-1], teacher[::-1], strict=True):
            fused, carried = fusion(own, carried, wanted.shape[-2:])
            parts.append(pyramid(at_least_fp32(fused), at_least_fp32(wanted.detach())))
        loss = torch.stack(parts).sum()
        return loss * min(progress / self.ramp, 1.0) if self.ramp > 0 else loss


class Fusion(nn.Module):
    """Attention-based fusion of a student level with what the deeper levels hand on."""

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
        """(n, after, *size) to compare with the teacher, and (n, width, *size) to hand on."""
        own = self.enter(own)
        if self.attend is not None and carried is not None:
            carried = F.interpolate(carried, own.shape[-2:], mode="nearest")
            share = self.attend(torch.cat((own, carried), dim=1)).sigmoid()
            own = own * share[:, :1] + carried * share[:, 1:]
        own = F.interpolate(own, size, mode="nearest")
        return self.leave(own), own


def pyramid(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error at the full grid and at those of 4, 2 and 1 that are smaller, weighted."""
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
