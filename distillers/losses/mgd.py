"""MGD: regenerate the teacher's last map from the student's with some channels masked."""

import torch
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.feature_maps import same_size
from distillers.losses.ops.masking import generator, row_draws
from distillers.losses.ops.negative_sampling import BITS, MASK
from distillers.losses.ops.numerics import at_least_fp32


class MGD(nn.Module):
    """Squared error of a generator that gets the student's last map with masked channels.

    "Masked Generative Distillation", Yang, Li, Shao, Shi, Yuan and Yuan, 2022,
    https://arxiv.org/abs/2205.01529.

        sum over c, h, w of (G(m A(s)) - t)^2

    averaged over the batch. A is a 1x1 convolution to the teacher's width, left out if the widths
    are equal; m is 0 with probability `mask_ratio`, else 1, drawn for each image and channel; G are
    two 3x3 convolutions with a ReLU between. Published for ImageNet: weight 7e-5 with a
    cross-entropy of 1. A and G are discarded after training.

    This is the form for classification; for detection the public code masks positions. It requires
    maps of one size; here the larger one is average-pooled. Masks are drawn on the device from a
    hash of seed, step, row of the batch and channel, so that they do not depend on the number of
    processes. In evaluation mode nothing is masked.

    Args:
        student_channels: channels of each student stage.
        teacher_channels: channels of each teacher stage.
        mask_ratio: probability that a channel is masked.
    """

    teacher_stages = (-1,)
    seed: Tensor
    step: Tensor

    def __init__(
        self,
        student_channels: list[int],
        teacher_channels: list[int],
        *,
        mask_ratio: float = 0.15,
    ) -> None:
        require.fraction(mask_ratio=mask_ratio)
        super().__init__()
        self.mask_ratio = mask_ratio
        width, teacher_width = student_channels[-1], teacher_channels[-1]
        self.align = nn.Identity() if width == teacher_width else nn.Conv2d(width, teacher_width, 1)
        self.generation = generator(teacher_width)
        self.register_buffer("seed", torch.randint(MASK, ()))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(
        self,
        student_maps: list[Tensor],
        teacher_maps: list[Tensor],
        mask: Tensor | None = None,
        rows_per_rank: tuple[int, ...] = (),
    ) -> Tensor:
        """Compute the loss.

        Args:
            student_maps: one map (n, c, h, w) per stage; only the last stage is used.
            teacher_maps: the same of the teacher.
            mask: (n, c, 1, 1), 1 for channels that are kept; drawn if left out.
            rows_per_rank: images of each process, if they differ.
        """
        student, teacher = same_size(self.align(student_maps[-1]), teacher_maps[-1].detach())
        if mask is None and self.training:
            draws = row_draws(self.seed, self.step, student, rows_per_rank)
            mask = (draws >= self.mask_ratio * 2**BITS)[:, :, None, None]
            self.step.add_(1)
        masked = student if mask is None else student * mask
        generated = at_least_fp32(self.generation(masked))
        return (generated - at_least_fp32(teacher)).square().sum(dim=(1, 2, 3)).mean()
