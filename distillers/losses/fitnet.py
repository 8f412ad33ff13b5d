"""FitNet: regress one feature map of the teacher."""

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.numerics import at_least_fp32


class FitNet(nn.Module):
    """Mean squared error between an adapted student feature map and the teacher's, at one stage.

    "FitNets: Hints for Thin Deep Nets", Romero, Ballas, Ebrahimi Kahou, Chassang, Gatta and Bengio,
    2014, https://arxiv.org/abs/1412.6550.

        mean over all elements of (ReLU(BN(conv(S))) - T)^2

    for the student's map S and the teacher's map T (the "hint") of one stage. The adapter (conv and
    BN) is trained jointly and discarded.

    Published weight: 100, with cross-entropy, in one stage of training. The paper first trains the
    lower half of the student with the hint and then the whole student; all public tables use the
    one-stage form, and so does this class.

    For a student map of size (h, w) and a teacher map of size (H, W) the convolution is 1x1 if the
    sizes are equal; 3x3 with stride 2 if (h, w) = (2 H, 2 W); a transposed 4x4 with stride 2 if (2
    h, 2 w) = (H, W); and (1 + h - H) x (1 + w - W) without padding if the student's map is larger
    otherwise. These are RepDistiller's. For all other pairs, for which that code fails, a 1x1
    convolution is followed by bilinear interpolation to (H, W). So the result always has the
    teacher's size. SimKD's code instead uses a 3x3 convolution for all pairs and average-pools the
    larger map. The ReLU suits hints that are non-negative; of a map with negative values (a WRN's
    stage) only the positive part is followed, as published.

    Args:
        student_channels: channels of each student stage.
        teacher_channels: channels of each teacher stage.
        student_sizes: (h, w) of each student stage.
        teacher_sizes: (h, w) of each teacher stage.
        hint_layer: the stage, counted from 1; 2 in the tables of the CRD paper and 1 in those of
            the SimKD paper.

    Raises:
        ValueError: if a network has no such stage, or a map later has a different size.
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
            raise ValueError(f"hint_layer is {hint_layer}; it must be from 1 to {stages}.")
        self.stage = hint_layer - 1
        self.teacher_stages = (self.stage,)
        self.size = tuple(teacher_sizes[self.stage])
        channels = student_channels[self.stage], teacher_channels[self.stage]
        self.conv = adapter(*channels, tuple(student_sizes[self.stage]), self.size)
        self.bn = nn.BatchNorm2d(channels[1])

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """Compute the loss from one map (n, c, h, w) per stage of each network."""
        adapted = self.conv(student_maps[self.stage])
        if adapted.shape[-2:] != self.size and isinstance(self.conv, nn.Conv2d):
            adapted = F.interpolate(adapted, self.size, mode="bilinear")
        hint = teacher_maps[self.stage].detach()
        if adapted.shape != hint.shape:
            raise ValueError(
                f"the adapter's output has shape {tuple(adapted.shape)} and the hint "
                f"{tuple(hint.shape)}; FitNet needs images of one size."
            )
        return F.mse_loss(at_least_fp32(self.bn(adapted).relu()), at_least_fp32(hint))


def adapter(
    in_channels: int, out_channels: int, size: tuple[int, ...], wanted: tuple[int, ...]
) -> nn.Conv2d | nn.ConvTranspose2d:
    """Return the convolution from maps of `size` to maps of size `wanted`; 1x1 if no other fits."""
    (height, width), (to_height, to_width) = size, wanted
    if (height, width) == (2 * to_height, 2 * to_width):
        return nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
    if (2 * height, 2 * width) == (to_height, to_width):
        return nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
    if height >= to_height and width >= to_width:
        return nn.Conv2d(in_channels, out_channels, (1 + height - to_height, 1 + width - to_width))
    return nn.Conv2d(in_channels, out_channels, 1)
