"""FSP: from stage to stage, the student's features flow as the teacher's do."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.precision import at_least_fp32, no_autocast
from distillers.losses.ops.stages import check_stages, same_size
from distillers.losses.ops.validation import require_non_negative


class FSP(nn.Module):
    """A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer.

    Yim, Joo, Bae and Kim, 2017, https://doi.org/10.1109/CVPR.2017.754.

    How a network solves a task shows in the inner products, over the positions, of the channels of
    one stage with those of the next, the stem being the first; these matrices are to be the
    teacher's:

        sum over consecutive pairs of mean((G_s - G_t)^2),  G = F_l F_{l+1}^T / (h w)

    Where the stages' grids differ, the larger is averaged down to the smaller.

    This is an initialisation. Published: for 30 epochs it alone trains the student, all but its
    classifier, at the base learning rate, not lowered; then cross-entropy trains the student,
    without this loss. `warmup` is that first stage; `forward` is the same loss, which acts after it
    only with `keep=True`. Published weight: 50, which the public code uses in neither stage: its
    first stage takes the loss as it is.

    Args:
        student_channels: channels of the student's stages.
        teacher_channels: channels of the teacher's stages; they must be the same.
        warmup_epochs: length of the first stage.
        keep: go on with this loss after the first stage.

    Raises:
        ValueError: when the numbers of stages or their channels differ; the stems' channels, which
            no fact tells, are checked in `forward`.
    """

    def __init__(
        self,
        student_channels: list[int],
        teacher_channels: list[int],
        *,
        warmup_epochs: int = 30,
        keep: bool = False,
    ) -> None:
        require_non_negative(warmup_epochs=warmup_epochs)
        super().__init__()
        check_stages("FSP", student_channels, teacher_channels)
        pairs = enumerate(zip(student_channels, teacher_channels, strict=True), start=1)
        differ = [f"stage {i} ({s} and {t})" for i, (s, t) in pairs if s != t]
        if differ:
            raise ValueError(
                f"FSP needs student and teacher stages of equal channels; these differ: "
                f"{', '.join(differ)}."
            )
        self.warmup_epochs = warmup_epochs
        self.keep = keep

    def forward(
        self,
        student_stem: Tensor,
        student_maps: list[Tensor],
        teacher_stem: Tensor,
        teacher_maps: list[Tensor],
    ) -> Tensor:
        """The loss from (n, c, h, w) of the stems, and lists of them, one a stage.

        Raises:
            ValueError: when the stems' channels differ.
        """
        if student_stem.shape[1] != teacher_stem.shape[1]:
            raise ValueError(
                f"FSP needs stems of equal channels; the student's has {student_stem.shape[1]} and "
                f"the teacher's {teacher_stem.shape[1]}."
            )
        student = flows([student_stem, *student_maps])
        teacher = flows([teacher_stem.detach(), *(maps.detach() for maps in teacher_maps)])
        parts = [F.mse_loss(s, t) for s, t in zip(student, teacher, strict=True)]
        return torch.stack(parts).sum()

    def warmup(
        self,
        student_stem: Tensor,
        student_maps: list[Tensor],
        teacher_stem: Tensor,
        teacher_maps: list[Tensor],
    ) -> Tensor:
        """The loss of the first stage, which is the whole method as published."""
        return self(student_stem, student_maps, teacher_stem, teacher_maps)


def flows(maps: list[Tensor]) -> list[Tensor]:
    """(n, c, c') for each two consecutive (n, c, h, w) and (n, c', h', w')."""
    found = []
    for before, after in pairwise(maps):
        low, high = same_size(at_least_fp32(before), at_least_fp32(after))
        with no_autocast(low):
            found.append(low.flatten(2) @ high.flatten(2).mT / (low.shape[2] * low.shape[3]))
    return found
