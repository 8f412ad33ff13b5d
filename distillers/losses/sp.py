"""SP: images that are similar to the teacher are similar to the student."""

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.ops.feature_maps import flatten_rows
from distillers.losses.ops.normalize import l2_normalize
from distillers.losses.ops.precision import at_least_fp32, no_autocast


class SP(nn.Module):
    """Similarity-Preserving Knowledge Distillation.

    Tung and Mori, 2019, https://arxiv.org/abs/1907.09682.

    The products of all pairs of images of the batch, each row of that matrix brought to length one,
    agree between the networks:

        |G(S) - G(T)|_F^2 / n^2,    G(F) = rows of F F^T divided by their length

    for the last stage's maps F, flattened to (n, c h w). Published weight: 3000. No parameters; the
    widths and sizes of the two networks may differ.

    The loss depends on who is in the batch, and thus on its size; not on the order. The paper may
    sum over several stages; the tables use the last one alone, as here.

    Args:
        gather: compare with the images of all processes of a distributed run, so that the loss is
            that of one process with the whole batch; False compares within each process.
    """

    teacher_stages = (-1,)

    def __init__(self, *, gather: bool = True) -> None:
        super().__init__()
        self.gather = gather

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """The loss from one (n, c, h, w) a stage of each network; the last of each is read."""
        student, teacher = student_maps[-1], teacher_maps[-1].detach()
        return F.mse_loss(self.similarity(student), self.similarity(teacher))

    def similarity(self, maps: Tensor) -> Tensor:
        """(n, images compared with) from (n, c, h, w), rows of length one."""
        rows = flatten_rows(at_least_fp32(maps))
        with no_autocast(rows):
            return l2_normalize(rows @ gathered(rows, self.gather).T)
