"""NST: the activation patterns of a stage's channels have the same distribution."""

import torch
from torch import Tensor, nn

from distillers.losses.ops.normalize import l2_normalize
from distillers.losses.ops.precision import at_least_fp32, no_autocast
from distillers.losses.ops.stages import check_stages, same_size


class NST(nn.Module):
    """Like What You Like: Knowledge Distill via Neuron Selectivity Transfer.

    Huang and Wang, 2017, https://arxiv.org/abs/1707.01219.

    A channel's map, normalised, is a sample of where the network looks; the maximum mean
    discrepancy under the kernel k(a, b) = <a, b>^2 between student and teacher channels vanishes
    when the two sets have the same second moments. Summed over the stages:

        mean k(s, s') + mean k(t, t') - 2 mean k(s, t)

    Published weight: 50. The larger grid is averaged down to the smaller. The squared inner
    products are summed in whichever is smaller, channels by channels or positions by positions;
    the product of all pairs of channels with all positions is never held.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """The loss from lists of (n, c, h, w), one a stage; channels may differ.

        Raises:
            ValueError: when the two lists differ in length.
        """
        check_stages("NST", student_maps, teacher_maps)
        pairs = zip(student_maps, teacher_maps, strict=True)
        return torch.stack([discrepancy(s, t.detach()) for s, t in pairs]).sum()


def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of the channels of two (n, c, h, w), averaged over n."""
    student, teacher = same_size(at_least_fp32(student), at_least_fp32(teacher))
    a, b = l2_normalize(student.flatten(2)), l2_normalize(teacher.flatten(2))
    with no_autocast(a):
        return mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b)


def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
    """Mean of <a_i, b_j>^2 over images and pairs of rows of (n, c, p) and (n, d, p)."""
    channels_a, channels_b = a.shape[1], b.shape[1]
    if a.shape[2] < min(channels_a, channels_b):
        both = ((a.mT @ a) * (b.mT @ b)).sum(dim=(1, 2))
        return both.mean() / (channels_a * channels_b)
    return (a @ b.mT).square().mean()
