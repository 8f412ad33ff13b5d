"""FitNet: one stage of the student, adapted to the shape of the teacher's, reproduces it."""

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.precision import at_least_fp32


class FitNet(nn.Module):
    """FitNets: Hints for Thin Deep Nets.

    Romero, Ballas, Ebrahimi Kahou, Chassang, Gatta and Bengio, 2014,
    https://arxiv.org/abs/1412.6550.

    An adapter, learned along and discarded, maps the student's feature map S of one stage to the
    teacher's T ("hint"), of other width and perhaps other size:

        mean over all elements of (ReLU(BN(conv(S))) - T)^2

    Published weight: 100 beside cross-entropy, in one stage of training. The paper trains the lower
    half on the hint first and then the whole; every public table uses the one-stage form.

    The convolution is, for a student's map of (h, w) and the teacher's of (H, W): 1 x 1 where they
    are equal; 3 x 3 with stride 2 where (h, w) = (2 H, 2 W); transposed 4 x 4 with stride 2 where
    (2 h, 2 w) = (H, W); (1 + h - H) x (1 + w - W) without padding where the student's is larger in
    any other way. All these are RepDistiller's. For any other pair, where that fails, a 1 x 1
    convolution is followed by bilinear interpolation to (H, W). The result has the teacher's size
    always; SimKD's code takes a 3 x 3 convolution for any pair and averages the larger map down.
    The ReLU suits hints that come after one; a map that goes below zero (a WRN's stage) is only
    followed where it is positive, as published.

    Args:
        student_channels: one count a stage.
        teacher_channels: likewise.
        student_sizes: one (h, w) a stage.
        teacher_sizes: likewise.
        hint_layer: the stage, counted from 1; 2 in the tables of the CRD paper, 1 in those of the
            SimKD paper.

    Raises:
        ValueError: when one of the networks has no such stage, or a map has another size later.
    """

    def __init__(
        self,
        student_channels: list[int],
        teacher_channels: list[int],
        student_sizes: list[tuple[int, int]],
        teacher_sizes: list[tuple[int, int]],
        *,
        hint_layer: int = 2,
    ) -> None:
        super().__init__()
        stages = min(len(student_channels), len(teacher_channels))
        if not 1 <= hint_layer <= stages:
            raise ValueError(f"hint_layer is {hint_layer}; it may be 1 to {stages}.")
        self.stage = hint_layer - 1
        self.teacher_stages = (self.stage,)
        self.size = tuple(teacher_sizes[self.stage])
        channels = student_channels[self.stage], teacher_channels[self.stage]
        self.conv = adapter(*channels, tuple(student_sizes[self.stage]), self.size)
        self.bn = nn.BatchNorm2d(channels[1])

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """The loss from one (n, c, h, w) a stage of each network."""
        adapted = self.conv(student_maps[self.stage])
        if adapted.shape[-2:] != self.size and isinstance(self.conv, nn.Conv2d):
            adapted = F.interpolate(adapted, self.size, mode="bilinear")
        hint = teacher_maps[self.stage].detach()
        if adapted.shape != hint.shape:
            raise ValueError(
                f"the adapter gives {tuple(adapted.shape)} and the hint is {tuple(hint.shape)}; "
                "FitNet is made for one size of images."
            )
        return F.mse_loss(at_least_fp32(self.bn(adapted).relu()), at_least_fp32(hint))


def adapter(
    in_channels: int, out_channels: int, size: tuple[int, ...], wanted: tuple[int, ...]
) -> nn.Conv2d | nn.ConvTranspose2d:
    """The convolution from maps of `size` to maps of the size `wanted`; 1 x 1 where none fits."""
    (height, width), (to_height, to_width) = size, wanted
    if (height, width) == (2 * to_height, 2 * to_width):
        return nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
    if (2 * height, 2 * width) == (to_height, to_width):
        return nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
    if height >= to_height and width >= to_width:
        return nn.Conv2d(in_channels, out_channels, (1 + height - to_height, 1 + width - to_width))
    return nn.Conv2d(in_channels, out_channels, 1)
