"""FT: match compressed feature maps of an autoencoder."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.feature_maps import same_size
from distillers.losses.ops.numerics import at_least_fp32, l2_normalize


class FT(nn.Module):
    """L1 distance between normalized factors of the last feature maps of student and teacher.

    "Paraphrasing Complex Network: Network Compression via Factor Transfer", Kim, Park and Kwak,
    2018, https://arxiv.org/abs/1802.04977.

    First, an autoencoder (the paraphraser) learns to compress the teacher's last map to fewer
    channels, the factors; its loss is `warmup`. Then the paraphraser is frozen, and a translator on
    the student's last map is trained together with the student to produce the same factors; its
    loss is `forward`. Both are discarded.

    `form="attention"`, the default, is the form of the public tables: the factors are squared,
    averaged over the channels and scaled to unit length, and the absolute differences are averaged.
    `form="factor"` is the form of the paper: the whole factor is scaled to unit length. Published
    weight: 200 in the second stage. The first stage takes 30 epochs of the unweighted
    reconstruction error, with a constant learning rate, which in the public code is 0.01 for ResNet
    and WRN students and the base rate for others; here it is the base rate for all.

    Without the first stage the factors are those of a random paraphraser. The paraphraser gets no
    gradient in `forward`, and the translator none in `warmup`. If the spatial sizes differ, the
    larger map is average-pooled to the smaller.

    Args:
        student_channels: channels of each student stage; the last is used.
        teacher_channels: channels of each teacher stage; the last is used.
        rate: number of factors divided by the teacher's channels.
        power: exponent of the factors in `form="attention"`.
        form: `"attention"` or `"factor"`.
        warmup_epochs: number of epochs of the first stage.

    Raises:
        ValueError: if `form` is unknown, there would be no factor, or an option is out of range.
    """

    teacher_stages = (-1,)

    def __init__(
        self,
        student_channels: list[int],
        teacher_channels: list[int],
        *,
        rate: float = 0.5,
        power: int = 2,
        form: str = "attention",
        warmup_epochs: int = 30,
    ) -> None:
        require.positive(rate=rate, power=power)
        require.non_negative(warmup_epochs=warmup_epochs)
        require.choice(("attention", "factor"), form=form)
        super().__init__()
        student, teacher = student_channels[-1], teacher_channels[-1]
        factors = int(teacher * rate)
        if factors < 1:
            raise ValueError(f"rate is {rate}; {teacher} channels give no factor.")
        self.power = power
        self.form = form
        self.warmup_epochs = warmup_epochs
        self.translator = _layers(nn.Conv2d, (student, student, factors, factors), norm=True)
        self.paraphraser = _layers(nn.Conv2d, (teacher, teacher, factors, factors), norm=False)
        self.decoder = _layers(nn.ConvTranspose2d, (factors, factors, teacher, teacher), norm=False)

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """Compute the loss from one map (n, c, h, w) per stage; only the last stage is used."""
        with torch.no_grad():
            teacher = at_least_fp32(self.paraphraser(teacher_maps[-1]))
        student, teacher = same_size(at_least_fp32(self.translator(student_maps[-1])), teacher)
        return (self.factor(student) - self.factor(teacher)).abs().mean()

    def warmup(self, teacher_maps: list[Tensor]) -> Tensor:
        """Compute the paraphraser's mean squared reconstruction error of the teacher's last map."""
        maps = teacher_maps[-1].detach()
        return F.mse_loss(at_least_fp32(self.decoder(self.paraphraser(maps))), at_least_fp32(maps))

    def factor(self, maps: Tensor) -> Tensor:
        """Return what is compared, of unit length: (n, h w) or, for `form="factor"`, (n, c h w)."""
        if self.form == "attention":
            maps = maps.pow(self.power).mean(dim=1)
        return l2_normalize(maps.flatten(1))


def _layers(conv: type[nn.Module], widths: tuple[int, ...], *, norm: bool) -> nn.Sequential:
    layers = nn.Sequential()
    for before, after in pairwise(widths):
        layers.append(conv(before, after, 3, padding=1))
        if norm:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.LeakyReLU(0.1))
    return layers
