"""VID: maximize a bound on the mutual information of feature maps."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.feature_maps import check_stages, same_size
from distillers.losses.ops.numerics import at_least_fp32


class VID(nn.Module):
    """Negative Gaussian log-likelihood of the teacher's maps given the student's.

    "Variational Information Distillation for Knowledge Transfer", Ahn, Hu, Damianou, Lawrence and
    Dai, 2019, https://arxiv.org/abs/1904.05835.

    The likelihood is a lower bound of the mutual information of student and teacher maps:

        sum over stages of mean over all elements of ((mu(S) - T)^2 / v + log v) / 2

    where mu are three 1x1 convolutions without bias and v_c = softplus(log_scale_c) + eps is the
    variance of channel c. If the spatial sizes differ, the larger map is average-pooled to the
    smaller first. Published weight: 1. Convolutions and variances are trained jointly and
    discarded. The loss can be negative, and the constant log(2 pi) / 2 is omitted.

    The public code computes log(1 + exp(x)), which overflows in half precision; here it is a stable
    softplus. As in the public code, weight decay applies to the variances.

    Args:
        student_channels: channels of each student stage.
        teacher_channels: channels of each teacher stage.
        initial_variance: initial variance of every channel.
        eps: minimum of the variance.

    Raises:
        ValueError: if the numbers of stages differ or an option is out of range.
    """

    def __init__(
        self,
        student_channels: list[int],
        teacher_channels: list[int],
        *,
        initial_variance: float = 5.0,
        eps: float = 1e-5,
    ) -> None:
        require.positive(initial_variance=initial_variance)
        require.non_negative(eps=eps)
        super().__init__()
        check_stages("VID", student_channels, teacher_channels)
        pairs = zip(student_channels, teacher_channels, strict=True)
        self.predictors = nn.ModuleList(
            Predictor(student, teacher, initial_variance, eps) for student, teacher in pairs
        )

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """Compute the loss from one map (n, c, h, w) per stage of each network."""
        stages = zip(self.predictors, student_maps, teacher_maps, strict=True)
        return torch.stack(
            [each(student, teacher.detach()) for each, student, teacher in stages]
        ).sum()


class Predictor(nn.Module):
    """Gaussian distribution of the teacher's map given the student's."""

    def __init__(self, in_channels: int, out_channels: int, variance: float, eps: float) -> None:
        super().__init__()
        if variance <= eps:
            raise ValueError(f"initial_variance is {variance}; it must exceed eps, {eps}.")
        self.eps = eps
        inverse_softplus = variance - eps + math.log(-math.expm1(eps - variance))
        self.log_scale = nn.Parameter(torch.full((out_channels,), inverse_softplus))
        self.regressor = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 1, bias=False),
        )

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of the teacher's map (n, c_t, h, w)."""
        student, teacher = same_size(student, teacher)
        squares = F.mse_loss(
            at_least_fp32(self.regressor(student)), at_least_fp32(teacher), reduction="none"
        )
        variance = F.softplus(at_least_fp32(self.log_scale)) + self.eps
        return 0.5 * (squares.mean((0, 2, 3)) / variance + variance.log()).mean()
