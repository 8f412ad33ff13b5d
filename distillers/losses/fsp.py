"""FSP: match the Gram matrices between consecutive stages."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.feature_maps import check_stages, same_size
from distillers.losses.ops.numerics import at_least_fp32, no_autocast


class FSP(nn.Module):
    """Mean squared difference of the Gram matrices between consecutive stages (FSP matrices).

    "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
    Learning", Yim, Joo, Bae and Kim, 2017, https://doi.org/10.1109/CVPR.2017.754.

        sum over consecutive pairs of mean((G_s - G_t)^2),  G = F_l F_{l+1}^T / (h w)

    where F_l is a map as a matrix (channels, positions) and the first F is the output of the stem.
    If the spatial sizes of a pair differ, the larger map is average-pooled to the smaller.

    The method initializes the student. As published, this loss alone trains the student without its
    classifier for 30 epochs at the constant base learning rate; then cross-entropy alone trains the
    student. `warmup` is the loss of that first stage. `forward` computes the same loss and is used
    after it only with `keep=True`. Published weight: 50, which the public code uses in neither
    stage: its first stage takes the loss unweighted.

    Args:
        student_channels: channels of each student stage.
        teacher_channels: channels of each teacher stage; they must equal the student's.
        warmup_epochs: number of epochs of the first stage.
        keep: whether to use the loss after the first stage, too.

    Raises:
        ValueError: if the numbers of stages or their channels differ. The channels of the stems are
            not known to the constructor and are checked in `forward`.
    """

    def __init__(
        self,
        student_channels: list[int],
        teacher_channels: list[int],
        *,
        warmup_epochs: int = 30,
        keep: bool = False,
    ) -> None:
        require.non_negative(warmup_epochs=warmup_epochs)
        super().__init__()
        check_stages("FSP", student_channels, teacher_channels)
        pairs = enumerate(zip(student_channels, teacher_channels, strict=True), start=1)
        differ = [f"stage {i} ({s} and {t})" for i, (s, t) in pairs if s != t]
        if differ:
            raise ValueError(
                "FSP needs stages with equal channels in student and teacher; these differ: "
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
        """Compute the loss from the stems' maps and one map per stage, all (n, c, h, w).

        Raises:
            ValueError: if the channels of the stems differ.
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

    warmup = forward  # the first stage is all of the published method


def flows(maps: list[Tensor]) -> list[Tensor]:
    """Return the FSP matrices (n, c, c') of consecutive maps (n, c, h, w) and (n, c', h', w')."""
    found = []
    for before, after in pairwise(maps):
        low, high = same_size(at_least_fp32(before), at_least_fp32(after))
        with no_autocast(low):
            found.append(low.flatten(2) @ high.flatten(2).mT / (low.shape[2] * low.shape[3]))
    return found
