"""OFD: partial L2 distance to the teacher's pre-activations, with a margin."""

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import all_gather_stack
from distillers.losses.ops.feature_maps import check_stages, same_size
from distillers.losses.ops.numerics import at_least_fp32


class OFD(nn.Module):
    """Partial L2 distance between the student and the teacher's pre-activations with a margin ReLU.

    "A Comprehensive Overhaul of Feature Distillation", Heo, Kim, Yun, Park, Kwak and Choi, 2019,
    https://arxiv.org/abs/1904.01866.

    With s the student's pre-activation after a connector (1x1 convolution and batch normalization),
    t the teacher's and m a negative margin per channel,

        sum over c, h, w of (s - max(t, m))^2 [s > max(t, m) or t > 0]

    averaged over the batch: where the target is not positive, only a student above it is penalized.
    Of L stages the last has weight 1 and each earlier one half the weight of the next. Published
    weight: 0.001 (ImageNet: 0.0001). The connectors are trained jointly and discarded.

    The margin is the mean of the teacher's negative pre-activations in that channel. The public
    code computes it from the parameters of the preceding batch normalization, assuming Gaussian
    responses, which requires that the teacher has such a layer. Here it is measured, which is the
    other way that the paper names: the mean over all batches seen in training mode, the current one
    included, stored in buffers (zero for a channel without negative values). If the spatial sizes
    differ, the larger map is average-pooled to the smaller before the margin is applied.

    Args:
        student_channels: channels of each student stage.
        teacher_channels: channels of each teacher stage.

    Raises:
        ValueError: if the numbers of stages differ.
    """

    def __init__(self, student_channels: list[int], teacher_channels: list[int]) -> None:
        super().__init__()
        check_stages("OFD", student_channels, teacher_channels)
        self.connectors = nn.ModuleList(
            nn.Sequential(nn.Conv2d(s, t, 1, bias=False), nn.BatchNorm2d(t))
            for s, t in zip(student_channels, teacher_channels, strict=True)
        )
        self.margins = nn.ModuleList(NegativeMean(channels) for channels in teacher_channels)

    def forward(self, student_preacts: list[Tensor], teacher_preacts: list[Tensor]) -> Tensor:
        """Compute the loss from one pre-activation map (n, c, h, w) per stage of each network."""
        parts = []
        stages = zip(self.connectors, self.margins, student_preacts, teacher_preacts, strict=True)
        for stage, (connector, margin, student, teacher) in enumerate(stages, start=1):
            teacher = at_least_fp32(teacher.detach())
            least = margin(teacher)
            response, teacher = same_size(at_least_fp32(connector(student)), teacher)
            target = torch.maximum(teacher, least)
            counts = (response > target) | (target > 0)
            part = ((response - target).square() * counts).sum() / len(response)
            parts.append(part * 2.0 ** (stage - len(self.connectors)))
        return torch.stack(parts).sum()


class NegativeMean(nn.Module):
    """Running mean of the negative values of each channel over all inputs seen in training mode."""

    total: Tensor
    count: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(channels))
        self.register_buffer("count", torch.zeros(channels))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Update the mean with x (n, c, h, w) in training mode, and return it as (c, 1, 1)."""
        if self.training:
            self.total += all_gather_stack(x.clamp(max=0).sum(dim=(0, 2, 3))).sum(dim=0)
            self.count += all_gather_stack((x < 0).sum(dim=(0, 2, 3))).sum(dim=0)
        return (self.total / self.count.clamp(min=1))[:, None, None].to(x.dtype)
