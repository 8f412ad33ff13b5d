"""FT: the student's translator finds the factors into which a paraphraser puts the teacher."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.normalize import l2_normalize
from distillers.losses.ops.precision import at_least_fp32
from distillers.losses.ops.stages import same_size
from distillers.losses.ops.validation import require_non_negative, require_positive

FORMS = ("attention", "factor")


class FT(nn.Module):
    """Paraphrasing Complex Network: Network Compression via Factor Transfer.

    Kim, Park and Kwak, 2018, https://arxiv.org/abs/1802.04977.

    First an autoencoder, the paraphraser, learns to put the teacher's last map into fewer channels,
    the factors (`warmup`); then, with it fixed, a translator on the student's last map learns,
    together with the student, to produce the same factors (`forward`). Both are discarded.

    `form="attention"` is that of the public tables: each factor map is squared, averaged over its
    channels, brought to length one, and the absolute differences are averaged. `form="factor"` is
    that of the paper: the whole factor is brought to length one. Published weight: 200 in the
    second stage; the first takes 30 epochs of the reconstruction error alone, without that weight,
    not lowered, at a learning rate of 0.01 for ResNet and WRN students and the base rate for others
    in the public code, and at the base rate for all here.

    Until the paraphraser is trained its factors are random. It gets no gradient in `forward`, the
    translator none in `warmup`. The larger grid is averaged down to the smaller.

    Args:
        student_channels: channels of the student's stages; the last counts.
        teacher_channels: channels of the teacher's stages; the last counts.
        rate: factors per channel of the teacher.
        power: of the responses in `form="attention"`.
        form: `"attention"` or `"factor"`.
        warmup_epochs: length of the first stage.

    Raises:
        ValueError: for another form, when no factor is left, or for an option out of range.
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
        require_positive(rate=rate, power=power)
        require_non_negative(warmup_epochs=warmup_epochs)
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; it may be {' or '.join(map(repr, FORMS))}.")
        student, teacher = student_channels[-1], teacher_channels[-1]
        factors = int(teacher * rate)
        if factors < 1:
            raise ValueError(f"rate is {rate}; of {teacher} channels it must leave at least one.")
        self.power = power
        self.form = form
        self.warmup_epochs = warmup_epochs
        self.translator = _layers(nn.Conv2d, (student, student, factors, factors), norm=True)
        self.paraphraser = _layers(nn.Conv2d, (teacher, teacher, factors, factors), norm=False)
        self.decoder = _layers(nn.ConvTranspose2d, (factors, factors, teacher, teacher), norm=False)

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """The loss from lists of (n, c, h, w), one a stage."""
        with torch.no_grad():
            teacher = at_least_fp32(self.paraphraser(teacher_maps[-1]))
        student, teacher = same_size(at_least_fp32(self.translator(student_maps[-1])), teacher)
        return (self.factor(student) - self.factor(teacher)).abs().mean()

    def warmup(self, teacher_maps: list[Tensor]) -> Tensor:
        """The paraphraser's reconstruction error of the teacher's last map, for the first stage."""
        maps = teacher_maps[-1].detach()
        return F.mse_loss(at_least_fp32(self.decoder(self.paraphraser(maps))), at_least_fp32(maps))

    def factor(self, maps: Tensor) -> Tensor:
        """What is compared: (n, h w), or (n, c h w), of length one."""
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
