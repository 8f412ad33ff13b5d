"""OFD: the teacher's responses before the ReLU, less what the ReLU would hide."""

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import all_gather_stack
from distillers.losses.ops.precision import at_least_fp32
from distillers.losses.ops.stages import check_stages, same_size


class OFD(nn.Module):
    """A Comprehensive Overhaul of Feature Distillation.

    Heo, Kim, Yun, Park, Kwak and Choi, 2019, https://arxiv.org/abs/1904.01866.

    The student, through a 1x1 convolution with batch norm, matches the teacher before its ReLU.
    Negative responses are cut at a margin m per channel, their mean, and a target that is not
    positive counts only where the student lies above it:

        sum over c, h, w of (s - max(t, m))^2 [s > max(t, m) or t > 0]

    mean over the batch, the deepest of L stages with weight 1 and each earlier one with half the
    next. Published weight: 0.001 (ImageNet 0.0001). The convolutions are learned, and discarded.

    The margin is the mean of the teacher's negative responses. The public code computes it from the
    batch norm before the ReLU, taking the responses for Gaussian, which ties it to the teacher's
    layers. Here it is measured, the other way that the paper names: the mean over all batches seen
    in training mode, this one among them, kept in buffers (zero for a channel that was never
    negative). Where the grids differ the larger is averaged down, before the margin.

    Args:
        student_channels: channels of the student's stages.
        teacher_channels: channels of the teacher's stages.

    Raises:
        ValueError: when the numbers of stages differ.
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
        """The loss from lists of (n, c, h, w), one a stage, before the last activation."""
        parts = []
        heads = zip(self.connectors, self.margins, strict=True)
        maps = zip(student_preacts, teacher_preacts, strict=True)
        for stage, ((connector, margin), (student, teacher)) in enumerate(
            zip(heads, maps, strict=True), start=1
        ):
            teacher = at_least_fp32(teacher.detach())
            least = margin(teacher)
            response, teacher = same_size(at_least_fp32(connector(student)), teacher)
            target = torch.maximum(teacher, least)
            counts = (response > target) | (target > 0)
            part = ((response - target).square() * counts).sum() / len(response)
            parts.append(part * 2.0 ** (stage - len(self.connectors)))
        return torch.stack(parts).sum()


class NegativeMean(nn.Module):
    """Mean of the negative values of each channel, over all that was seen in training mode."""

    total: Tensor
    count: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(channels))
        self.register_buffer("count", torch.zeros(channels))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(c, 1, 1) from (n, c, h, w), after counting it in."""
        if self.training:
            self.total += all_gather_stack(x.clamp(max=0).sum(dim=(0, 2, 3))).sum(dim=0)
            self.count += all_gather_stack((x < 0).sum(dim=(0, 2, 3))).sum(dim=0)
        return (self.total / self.count.clamp(min=1))[:, None, None].to(x.dtype)
