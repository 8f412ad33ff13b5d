"""AB: match the signs of the teacher's pre-activations."""

import torch
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.feature_maps import check_stages, same_size
from distillers.losses.ops.numerics import at_least_fp32


class AB(nn.Module):
    """Hinge loss between the student's pre-activations and the signs of the teacher's.

    "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons", Heo,
    Lee, Yun and Choi, 2018, https://arxiv.org/abs/1811.03233.

    Let r be the student's pre-activation, m the margin, and call a teacher neuron active if its
    pre-activation is positive. The loss of a neuron is

        (r + m)^2 if the teacher is inactive and r > -m,  (r - m)^2 if it is active and r <= m

    and zero otherwise. It is summed over channels and positions and averaged over the batch. Of L
    stages the last has weight 1, each earlier one half the weight of the next, and the sum is
    multiplied by 3 / 1000. Where the channels of a stage differ, a connector (1x1 convolution and
    batch normalization) maps the student's to the teacher's; it is trained jointly and discarded.
    Where they agree, there is no connector.

    The method initializes the student. As published, this loss alone trains the student without its
    classifier, and the connectors, for 30 epochs at the constant base learning rate; then
    cross-entropy alone trains the student. `warmup` is the loss of that first stage. `forward`
    computes the same loss and is used after it only with `keep=True`. Published weight: 1.

    If the spatial sizes differ, which the paper does not treat, the larger map is average-pooled to
    the smaller. In the public code every stage has a connector whose convolution changes the size.

    Args:
        student_channels: channels of each student stage.
        teacher_channels: channels of each teacher stage.
        margin: m.
        warmup_epochs: number of epochs of the first stage.
        keep: whether to use the loss after the first stage, too.

    Raises:
        ValueError: if the numbers of stages differ or an option is negative.
    """

    def __init__(
        self,
        student_channels: list[int],
        teacher_channels: list[int],
        *,
        margin: float = 1.0,
        warmup_epochs: int = 30,
        keep: bool = False,
    ) -> None:
        require.non_negative(margin=margin, warmup_epochs=warmup_epochs)
        super().__init__()
        check_stages("AB", student_channels, teacher_channels)
        self.margin = margin
        self.warmup_epochs = warmup_epochs
        self.keep = keep
        self.connectors = nn.ModuleList(
            nn.Identity() if s == t else nn.Sequential(nn.Conv2d(s, t, 1), nn.BatchNorm2d(t))
            for s, t in zip(student_channels, teacher_channels, strict=True)
        )

    def forward(self, student_preacts: list[Tensor], teacher_preacts: list[Tensor]) -> Tensor:
        """Compute the loss from one pre-activation map (n, c, h, w) per stage of each network."""
        parts = []
        stages = zip(self.connectors, student_preacts, teacher_preacts, strict=True)
        for stage, (connector, student, teacher) in enumerate(stages, start=1):
            response, reference = same_size(
                at_least_fp32(connector(student)), at_least_fp32(teacher.detach())
            )
            part = self.beyond(response, reference > 0).sum() / len(response)
            parts.append(part * 2.0 ** (stage - len(self.connectors)))
        return 3 / 1000 * torch.stack(parts).sum()

    warmup = forward  # the first stage is all of the published method

    def beyond(self, response: Tensor, on: Tensor) -> Tensor:
        """Return the squared distances (n, c, h, w) to the margin, zero beyond it."""
        missing = torch.where(on, self.margin - response, self.margin + response)
        return missing.clamp(min=0).square()
