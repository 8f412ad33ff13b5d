"""NST: match the distributions of channel activation patterns."""

import torch
from torch import Tensor, nn

from distillers.losses.ops.feature_maps import check_stages, same_size
from distillers.losses.ops.numerics import at_least_fp32, l2_normalize, no_autocast


class NST(nn.Module):
    """Squared maximum mean discrepancy between the channels of student and teacher maps.

    "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", Huang and Wang, 2017,
    https://arxiv.org/abs/1707.01219.

    Each channel's map, scaled to unit length, is a sample. With the polynomial kernel k(a, b) = <a,
    b>^2, s, s' the student's and t, t' the teacher's samples, the loss of a stage is

        mean k(s, s') + mean k(t, t') - 2 mean k(s, t)

    averaged over the batch and summed over the stages. Published weight: 50. If the spatial sizes
    differ, the larger map is average-pooled to the smaller.

    The squared inner products are summed over pairs of channels or over pairs of positions,
    whichever are fewer; a tensor of all pairs of channels by all positions is never created.
    """

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """Compute the loss from one map (n, c, h, w) per stage; the channels may differ.

        Raises:
            ValueError: if the numbers of stages differ.
        """
        check_stages("NST", student_maps, teacher_maps)
        pairs = zip(student_maps, teacher_maps, strict=True)
        return torch.stack([discrepancy(s, t.detach()) for s, t in pairs]).sum()


def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of two (n, c, h, w), averaged over n."""
    student, teacher = same_size(at_least_fp32(student), at_least_fp32(teacher))
    a, b = l2_normalize(student.flatten(2)), l2_normalize(teacher.flatten(2))
    with no_autocast(a):
        return mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b)


def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of <a_i, b_j>^2 over images and pairs of rows of (n, c, p) and (n, d, p)."""
    channels_a, channels_b = a.shape[1], b.shape[1]
    if a.shape[2] < min(channels_a, channels_b):
        both = ((a.mT @ a) * (b.mT @ b)).sum(dim=(1, 2))
        return both.mean() / (channels_a * channels_b)
    return (a @ b.mT).square().mean()
