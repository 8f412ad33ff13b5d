"""DISTPlus: DIST, and correlations of the last maps over channels and over the batch."""

from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.dist import DIST, pearson
from distillers.losses.ops import require
from distillers.losses.ops.feature_maps import same_size
from distillers.losses.ops.numerics import at_least_fp32


class DISTPlus(nn.Module):
    """DIST, with the same relations between the last maps.

    "DIST+: Knowledge Distillation From a Stronger Adaptive Teacher", Huang, You, Wang, Qian and Xu,
    IEEE TPAMI, 2025; DIST: https://arxiv.org/abs/2205.10536. With r the Pearson correlation of
    student and teacher, the value of `DIST` is extended by

        channel (1 - mean over images and positions of r across the channels)
        + spatial (1 - mean over positions of r, across the batch, of the sums of the channels)

    Sample configuration of torchdistill, for which no result is published: the defaults, weight 2,
    and a cross-entropy of 1. If the sizes of the last maps differ, the larger one is
    average-pooled. If their channels differ, the student's map passes a learned 1x1 convolution,
    which is discarded after training; no public code has one. The last two terms of DIST and
    DISTPlus depend on the batch.

    The authors' code is not public. That of torchdistill adds the correlation itself as its channel
    term, which drives the maps apart; here it is one minus the correlation. The paper's other half,
    a teacher that adapts to the student, is in no public code.

    Args:
        student_channels: channels of each student stage; None is as many as the teacher has.
        teacher_channels: channels of each teacher stage.
        beta: weight of the correlations across classes.
        gamma: weight of the correlations across the batch.
        channel: weight of the correlations across channels.
        spatial: weight of the correlations of positions across the batch.
        temperature: temperature of DIST.
        gather: whether to compare the images of all processes, not only those of each process.
    """

    teacher_stages = (-1,)

    def __init__(
        self,
        *,
        student_channels: list[int] | None = None,
        teacher_channels: list[int] | None = None,
        beta: float = 2.0,
        gamma: float = 2.0,
        channel: float = 1.0,
        spatial: float = 1.0,
        temperature: float = 1.0,
        gather: bool = True,
    ) -> None:
        require.non_negative(channel=channel, spatial=spatial)
        super().__init__()
        self.dist = DIST(beta=beta, gamma=gamma, temperature=temperature, gather=gather)
        self.channel = channel
        self.spatial = spatial
        self.gather = gather
        self.align: nn.Module = nn.Identity()
        if student_channels and teacher_channels and student_channels[-1] != teacher_channels[-1]:
            self.align = nn.Conv2d(student_channels[-1], teacher_channels[-1], 1, bias=False)

    def forward(
        self,
        student_logits: Tensor,
        student_maps: list[Tensor],
        teacher_logits: Tensor,
        teacher_maps: list[Tensor],
        rows_per_rank: tuple[int, ...] = (),
    ) -> Tensor:
        """Compute the loss from two (n, k) and one map (n, c, h, w) per stage of each network.

        Raises:
            ValueError: if the last maps have different numbers of channels, and no convolution was
                built.
        """
        student, teacher = self.align(student_maps[-1]), teacher_maps[-1].detach()
        if student.shape[1] != teacher.shape[1]:
            raise ValueError(
                f"DISTPlus compares the last maps channel by channel, but the student has "
                f"{student.shape[1]} channels and the teacher {teacher.shape[1]}."
            )
        student, teacher = same_size(at_least_fp32(student), at_least_fp32(teacher))
        eps = self.dist.eps
        of_channels = pearson(by_position(student), by_position(teacher), eps).mean()
        students = gathered(student.sum(dim=1).flatten(1), rows_per_rank, self.gather)
        teachers = gathered(teacher.sum(dim=1).flatten(1), rows_per_rank, self.gather)
        of_positions = pearson(students.T, teachers.T, eps).mean()
        maps = self.channel * (1 - of_channels) + self.spatial * (1 - of_positions)
        return self.dist(student_logits, teacher_logits, rows_per_rank) + maps


def by_position(maps: Tensor) -> Tensor:
    """Return the channels at each position of maps (n, c, h, w), as rows (n h w, c)."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)
