"""CATKD: match class activation maps at a low resolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.features.taps import Taps, module_at
from distillers.losses.ops import require
from distillers.losses.ops.feature_maps import downsample
from distillers.losses.ops.numerics import at_least_fp32, l2_normalize


class CATKD(nn.Module):
    """Mean squared error between class activation maps at a low resolution.

    "Class Attention Transfer Based Knowledge Distillation", Guo, Yan, Li and Lin, 2023,
    https://arxiv.org/abs/2304.12777.

        mean over all elements of (A_s - A_t)^2

    where A is the weight of the classifier, without its bias, applied at each position of the last
    map, averaged to r x r positions. With `normalise`, the r^2 values of each class are divided by
    their Euclidean norm. Published with a cross-entropy of 1, and weights from 0.5 to 600; pairs of
    one family of networks are not normalized.

    In the public code the student is trained and deployed without the bias of its classifier, so
    that its logits are the averages of its class maps: here its bias is set to zero and is not
    trained, unless `bias` is True. That of the teacher is not used by this loss. Both networks need
    one linear classifier behind average pooling.

    Args:
        resolution: r.
        normalise: whether to normalize the map of each class.
        bias: whether the student's classifier keeps its bias.
    """

    def __init__(self, *, resolution: int = 2, normalise: bool = True, bias: bool = False) -> None:
        require.positive(resolution=resolution)
        super().__init__()
        self.resolution = resolution
        self.normalise = normalise
        self.bias = bias

    @torch.no_grad()
    def prepare(self, student: nn.Module, taps: Taps) -> None:
        """Set the bias of the student's classifier to zero, for good, unless it is kept."""
        bias = module_at(student, taps.head).bias
        if isinstance(bias, Tensor) and not self.bias:
            bias.zero_().requires_grad_(False)

    def forward(self, student_class_maps: Tensor, teacher_class_maps: Tensor) -> Tensor:
        """Compute the loss from two sets of class maps (n, k, h, w)."""
        student = self.at_resolution(student_class_maps)
        return F.mse_loss(student, self.at_resolution(teacher_class_maps.detach()))

    def at_resolution(self, maps: Tensor) -> Tensor:
        """Return class maps (n, k, h, w) as (n, k, r^2)."""
        small = downsample(at_least_fp32(maps), (self.resolution, self.resolution)).flatten(2)
        return l2_normalize(small) if self.normalise else small
