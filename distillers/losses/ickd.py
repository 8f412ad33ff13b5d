"""ICKD: match the correlations between the channels of the last map."""

from torch import Tensor, nn

from distillers.losses.ops.numerics import at_least_fp32, l2_normalize, no_autocast


class ICKD(nn.Module):
    """Squared difference between row-normalized products of the channels of the last maps.

    "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation", Liu,
    Huang, Lin, Xie, Wang, Chang and Liang, 2021, https://arxiv.org/abs/2202.03680.

        |G(S) - G(T)|_F^2 / (n c),    G(F) = F F^T of one image, with rows scaled to unit length

    where F is a map as (c, h w), and S has the teacher's c channels after a 1x1 convolution without
    bias and a batch normalization. The spatial sizes may differ. Published for CIFAR-100 (ICKD-C):
    weight 2.5 with a cross-entropy of 1; the shipped script has 4. The convolution is discarded
    after training.

    The public code for ImageNet has a 3x3 convolution and divides by n once more, with weight 500
    for a batch of 256: about 1.95 in the units used here. That for CIFAR-100 reads the last map of
    a WideResNet before its last normalization; here it is the stage map.

    Args:
        student_channels: channels of each student stage.
        teacher_channels: channels of each teacher stage.
    """

    teacher_stages = (-1,)

    def __init__(self, student_channels: list[int], teacher_channels: list[int]) -> None:
        super().__init__()
        channels = student_channels[-1], teacher_channels[-1]
        self.embed = nn.Sequential(nn.Conv2d(*channels, 1, bias=False), nn.BatchNorm2d(channels[1]))

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """Compute the loss from one map (n, c, h, w) per stage; only the last stage is used."""
        student = channel_similarity(self.embed(student_maps[-1]))
        teacher = channel_similarity(teacher_maps[-1].detach())
        return (student - teacher).square().sum(dim=(1, 2)).mean() / teacher.shape[1]


def channel_similarity(maps: Tensor) -> Tensor:
    """Return the inner products (n, c, c) of the channels of maps (n, c, h, w), as unit rows."""
    rows = at_least_fp32(maps).flatten(2)
    with no_autocast(rows):
        return l2_normalize(rows @ rows.mT)
