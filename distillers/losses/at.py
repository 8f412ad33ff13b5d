"""AT: match spatial attention maps."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.feature_maps import check_stages, same_size
from distillers.losses.ops.numerics import at_least_fp32, l2_normalize


class AT(nn.Module):
    """Mean squared difference between normalized spatial attention maps, summed over stages.

    "Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks
    via Attention Transfer", Zagoruyko and Komodakis, 2016, https://arxiv.org/abs/1612.03928.

        sum over stages of mean over positions of (A(S) / |A(S)| - A(T) / |A(T)|)^2

    where A(F) = mean over channels of |F|^p, flattened over the positions, and |.| is the Euclidean
    norm. If the spatial sizes differ, the larger map is average-pooled to the smaller first.
    Published weight: 1000. No parameters.

    The paper defines the distance as a norm that is not squared; the authors' code and all public
    tables use the mean of squares, and so does this class. Because of the mean, the weight of a
    stage is proportional to 1 / (h w). With the published weight, MobileNetV2 distilled from vgg13
    ends below the student trained alone, as in the published table.

    Args:
        power: p.
    """

    def __init__(self, *, power: int = 2) -> None:
        require.positive(power=power)
        super().__init__()
        self.power = power

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """Compute the loss from one map (n, c, h, w) per stage of each network."""
        check_stages("AT", student_maps, teacher_maps)
        losses = []
        for student, teacher in zip(student_maps, teacher_maps, strict=True):
            of_student, of_teacher = same_size(
                at_least_fp32(student), at_least_fp32(teacher.detach())
            )
            losses.append(F.mse_loss(self.attention(of_student), self.attention(of_teacher)))
        return torch.stack(losses).sum()

    def attention(self, maps: Tensor) -> Tensor:
        """Return attention maps (n, h w) of unit length from maps (n, c, h, w)."""
        powers = maps.square() if self.power == 2 else maps.abs().pow(self.power)
        return l2_normalize(powers.mean(dim=1).flatten(1))
