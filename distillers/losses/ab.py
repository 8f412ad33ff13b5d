"""AB: the student's neurons switch on and off where the teacher's do."""

import torch
from torch import Tensor, nn

from distillers.losses.ops.precision import at_least_fp32
from distillers.losses.ops.stages import check_stages, same_size
from distillers.losses.ops.validation import require_non_negative


class AB(nn.Module):
    """Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons.

    Heo, Lee, Yun and Choi, 2018, https://arxiv.org/abs/1811.03233.

    What counts before a ReLU is the sign: the student's response r is to pass the margin m on the
    teacher's side of zero, and how far beyond does not matter:

        (r + m)^2 where the teacher is off and r > -m,  (r - m)^2 where it is on and r <= m

    summed over channels and positions, mean over the batch, the deepest of L stages with weight 1
    and each earlier one with half the next, all times 3 / 1000. Where a stage's channels differ a
    connector (1x1 convolution with batch norm), learned and discarded, brings the student's to the
    teacher's; where they agree the student's own neurons are compared.

    This is an initialisation. Published: for 30 epochs it alone trains the student, all but its
    classifier, and the connectors, at the base learning rate, not lowered; then cross-entropy
    trains the student, without this loss. `warmup` is that first stage; `forward` is the same loss,
    which acts after it only with `keep=True`. Published weight: 1.

    Where the grids differ, which the paper does not treat, the larger is averaged down; there the
    public code has a connector always, whose convolution changes the size.

    Args:
        student_channels: channels of the student's stages.
        teacher_channels: channels of the teacher's stages.
        margin: m.
        warmup_epochs: length of the first stage.
        keep: go on with this loss after the first stage.

    Raises:
        ValueError: when the numbers of stages differ, or an option is negative.
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
        require_non_negative(margin=margin, warmup_epochs=warmup_epochs)
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
        """The loss from lists of (n, c, h, w), one a stage, before the last activation."""
        parts = []
        stages = zip(self.connectors, student_preacts, teacher_preacts, strict=True)
        for stage, (connector, student, teacher) in enumerate(stages, start=1):
            response, reference = same_size(
                at_least_fp32(connector(student)), at_least_fp32(teacher.detach())
            )
            part = self.beyond(response, reference > 0).sum() / len(response)
            parts.append(part * 2.0 ** (stage - len(self.connectors)))
        return 3 / 1000 * torch.stack(parts).sum()

    def warmup(self, student_preacts: list[Tensor], teacher_preacts: list[Tensor]) -> Tensor:
        """The loss of the first stage, which is the whole method as published."""
        return self(student_preacts, teacher_preacts)

    def beyond(self, response: Tensor, on: Tensor) -> Tensor:
        """Squared distance to the margin on the teacher's side; zero beyond it."""
        missing = torch.where(on, self.margin - response, self.margin + response)
        return missing.clamp(min=0).square()
